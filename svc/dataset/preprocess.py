"""From prepared clips to everything training reads: file lists, configs, features (`svc
preprocess`).

so-vits-svc 4.1 layout and names (spec_core 6.3 and 6.4) in one step, with the recommendations D1,
D2, D6-D12 of section 10.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from svc.audio.mel import MelConfig
from svc.config import (
    SvcConfig,
    check_encoder_width,
    check_vocoder,
    encoder_paths,
    load_config,
    load_diffusion_config,
    load_vocoder_config,
)
from svc.dataset.clips import LeftOut
from svc.dataset.configs import (
    ConfigOptions,
    build_config,
    build_diffusion_config,
    write_configs,
)
from svc.dataset.extraction import Extractor, ExtractorOptions, extract_features
from svc.dataset.feature_settings import FeatureSettings
from svc.dataset.features import FeatureCache
from svc.dataset.filelist import scan_speakers, split, write_filelist
from svc.dataset.fingerprint import weights_hash
from svc.dataset.pack_stage import run_pack_stage, without_pack
from svc.dataset.packing import PackReport
from svc.dataset.pool import job_count
from svc.dataset.sharing import Alone, Processes, check_clips, share_of, sum_up
from svc.devices import precision_dtype
from svc.errors import ConfigError, DatasetError
from svc.f0.base import resolve_f0_predictor
from svc.pretrained import PRETRAIN_DIR
from svc.progress import Progress
from svc.speech.locate import check_given, locate_encoder
from svc.vocoder.nsf_hifigan import find_vocoder_config, log_mel_of

Stage = Literal["all", "config", "features", "pack"]
_LONG_SECONDS = 30.0  # longer clips waste memory: training reads at most 9 s of one at a time


@dataclass(frozen=True)
class PreprocessOptions:
    """What `preprocess` does."""

    in_dir: Path = Path("dataset/44k")  # one sub-folder of clips per speaker
    configs: ConfigOptions = field(default_factory=ConfigOptions)
    stage: Stage = "all"
    seed: int = 1234  # of the choice of validation clips, and of how clips are augmented
    f0_predictor: str = "fcpe"
    f0_min: float = 50.0  # Hz
    f0_max: float = 1100.0  # Hz
    overwrite_f0: bool = False  # also what svc f0 apply has put there
    device: str | None = None  # None = the best one
    encoder_precision: str = "fp32"  # of the encoder's matrix products
    encoder_batch: int | None = None  # clips encoded together; None = 1 on the CPU, else 8
    jobs: int = 1  # processes, each with an encoder of its own; 0 = one per CPU
    use_diff: bool = False  # mels for the diffusion model too; needs its vocoder's config.json
    spec_cache: bool = False  # write the spectrograms too
    pack: bool = True  # put everything into one file as well, which training reads faster
    pretrain_dir: Path = PRETRAIN_DIR

    def __post_init__(self) -> None:
        if self.stage not in get_args(Stage):
            raise ConfigError(
                f'--stage must be one of {", ".join(get_args(Stage))}, found "{self.stage}"'
            )
        if not 0 < self.f0_min < self.f0_max:
            raise ConfigError(
                f"--f0_min ({self.f0_min:g}) must be above 0 and below --f0_max ({self.f0_max:g})"
            )
        if self.jobs < 0:
            raise ConfigError(f"--num_processes must be 0 or more, found {self.jobs}")
        if self.stage == "pack" and not self.pack:
            raise ConfigError("--stage pack and --no_pack leave nothing to do; give one of them")
        precision_dtype(self.encoder_precision)
        if self.encoder_batch is not None and self.encoder_batch < 1:
            raise ConfigError(f"--encoder_batch must be 1 or more, found {self.encoder_batch}")


@dataclass(frozen=True)
class SpeakerSummary:
    """What the lists hold of one speaker."""

    speaker_id: int
    train: int  # clips
    validation: int  # clips
    seconds: float


@dataclass
class PreprocessReport:
    """What `preprocess` did."""

    speakers: dict[str, SpeakerSummary] = field(default_factory=dict)  # empty without new lists
    computed: int = 0  # clips with new features
    fresh: int = 0  # clips whose features were up to date
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pack: PackReport | None = None


def preprocess(
    options: PreprocessOptions,
    progress: Progress | None = None,
    *,
    check_progress: Progress | None = None,
    pack_progress: Progress | None = None,
    processes: Processes = Alone(),  # noqa: B008 - it is frozen
) -> PreprocessReport:
    """Prepare a data set for training.

    Stage "config": checks every clip, divides them, writes both lists, `config.json` and
    `diffusion.yaml`. Stage "features": computes what is absent or stale for the config that is
    there. "pack": puts recordings and features into one file (`svc.dataset.pack`). "all" does all of
    it, and takes clips whose features could not be made out of the lists again; "features" packs
    them too. A bad clip is reported and does not stop the others.

    Args:
        options: folders, encoder, F0 predictor.
        progress: called after each clip whose features are done.
        check_progress: called after each clip that was checked.
        pack_progress: called after each clip that was packed.
        processes: that do it together; rank 0 writes configs, lists and the pack.

    Returns:
        Counts, the clips left out with reasons, and notes.

    Raises:
        SvcError: bad options, no speakers, an encoder or predictor that is not there - all before
            anything is written; or not one usable clip.
        OutputError: something cannot be written.
    """
    report = PreprocessReport()
    clips = scan_speakers(options.in_dir)
    if options.stage in ("features", "pack"):
        config = _config_for_features(options, clips, report)
        files, failed = [file for group in clips.values() for file in group], set[Path]()
        if options.stage == "features":
            ready = _Extraction.prepare(options, config, len(files))
            failed = ready.run(files, report, progress, processes)
        done = [file for file in files if file not in failed]
        if processes.rank == 0:
            _pack(options, config, done, report, pack_progress)
        return report

    # ---- plan: everything that can be refused is refused before the first file is written ----
    config, _ = build_config(options.configs, clips)
    check_given(config.model.speech_encoder, _own_paths(options, config))
    extraction: _Extraction | None = None
    if options.stage == "all":
        extraction = _Extraction.prepare(options, config, sum(map(len, clips.values())))

    # ---- check the clips ----
    seconds = _check(clips, config.data.sampling_rate, report, check_progress, processes)
    usable = {
        speaker: [file for file in files if file in seconds] for speaker, files in clips.items()
    }
    for speaker in [speaker for speaker, files in usable.items() if not files]:
        report.notes.append(f'no clip of "{speaker}" can be used; it is not in the config')
        del usable[speaker]
    if not usable:
        raise DatasetError(
            f"not one clip in {options.in_dir} can be used; "
            f"the first: {report.left_out[0].path}: {report.left_out[0].reason}"
        )

    # ---- configs and lists ----
    config, notes = build_config(options.configs, usable)
    processes.gather("")  # all have looked at the config that was there
    if processes.rank == 0:
        report.notes += notes + write_configs(options.configs, config)
        _write_lists(options, config, usable, seconds, report)

    # ---- features ----
    if extraction is not None:
        files = [file for group in usable.values() for file in group]
        failed = extraction.run(files, report, progress, processes)
        if processes.rank > 0:
            return report
        if failed:
            rest = {
                speaker: [file for file in group if file not in failed]
                for speaker, group in usable.items()
            }
            _write_lists(options, config, rest, seconds, report)
        done = [file for file in files if file not in failed]
        _pack(options, config, done, report, pack_progress)
    return report


def _pack(
    options: PreprocessOptions,
    config: SvcConfig,
    files: Sequence[Path],
    report: PreprocessReport,
    progress: Progress | None,
) -> None:
    if not options.pack:
        report.notes += without_pack(options.in_dir)
        return
    needed = options.stage == "pack"
    report.pack, notes = run_pack_stage(
        options.in_dir, files, config, needed=needed, progress=progress
    )
    report.notes += notes
    report.left_out += report.pack.left_out if report.pack is not None else []


@dataclass(frozen=True)
class _Extraction:
    """The last step, ready to run: whatever it needs has been found."""

    options: ExtractorOptions
    jobs: int
    extractor: Extractor | None  # None: each of several processes has its own

    @classmethod
    def prepare(cls, options: PreprocessOptions, config: SvcConfig, n_files: int) -> _Extraction:
        """Build encoder and predictor, to tell what is missing before anything is written."""
        extractor_options = _extractor_options(options, config)
        jobs = min(job_count(options.jobs), max(1, n_files))
        extractor = Extractor(extractor_options)
        return cls(extractor_options, jobs, extractor if jobs == 1 else None)

    def run(
        self,
        files: Sequence[Path],
        report: PreprocessReport,
        progress: Progress | None,
        processes: Processes,
    ) -> set[Path]:
        """Make the features; returns the clips for which it failed."""
        own, built = share_of(files, processes), self.extractor
        done = extract_features(
            own, self.options, jobs=self.jobs, extractor=built, progress=progress
        )
        done = sum_up(done, processes)
        report.computed, report.fresh = done.computed, done.fresh
        report.left_out += done.left_out
        cache = FeatureCache(self.options.settings)
        edited = sum(cache.has_edited_f0(file) for file in files)
        if edited:
            report.notes.append(
                f"{edited} clips keep the F0 that  svc f0 apply  gave them; --overwrite_f0 computes "
                "it anew"
            )
        if done.computed + done.fresh == 0:
            raise DatasetError(
                f"no features could be made for any of the {len(files)} clips; "
                f"the first: {done.left_out[0].path}: {done.left_out[0].reason}"
            )
        return {item.path for item in done.left_out}


def _extractor_options(options: PreprocessOptions, config: SvcConfig) -> ExtractorOptions:
    own = _own_paths(options, config)
    files = locate_encoder(config.model.speech_encoder, own, options.pretrain_dir)
    settings = FeatureSettings(
        speech_encoder=config.model.speech_encoder,
        sampling_rate=config.data.sampling_rate,
        hop_length=config.data.hop_length,
        filter_length=config.data.filter_length,
        win_length=config.data.win_length,
        encoder_file=weights_hash(files),
        own_weights=bool(own),
        encoder_precision=options.encoder_precision,
        f0_predictor=resolve_f0_predictor(options.f0_predictor),
        f0_min=options.f0_min,
        f0_max=options.f0_max,
        keep_edited=not options.overwrite_f0,
        mel=_mel_config(options, config) if options.use_diff else None,
        aug_seed=options.seed,
    )
    return ExtractorOptions(
        settings=settings,
        encoder_paths=own,
        device=options.device,
        pretrain_dir=options.pretrain_dir,
        spec_cache=options.spec_cache,
        encoder_batch=options.encoder_batch,
    )


def _mel_config(options: PreprocessOptions, config: SvcConfig) -> MelConfig:
    """How the vocoder of the diffusion config measures mels."""
    lists = options.configs
    if options.stage == "features":
        diffusion = load_diffusion_config(lists.diffusion_path)
        if lists.vocoder not in (None, diffusion.vocoder.ckpt):
            raise ConfigError(
                f"--vocoder {lists.vocoder}, but {lists.diffusion_path} says "
                f'"{diffusion.vocoder.ckpt}" (vocoder.ckpt); change it there, or run without '
                "--stage features to make a new config"
            )
    else:
        diffusion = build_diffusion_config(lists, config)
    vocoder = load_vocoder_config(find_vocoder_config(diffusion.vocoder.ckpt))
    check_vocoder(diffusion, vocoder, advice="use a vocoder of the clips' rate and hop")
    return log_mel_of(vocoder).config


def _own_paths(options: PreprocessOptions, config: SvcConfig) -> dict[str, Path]:
    """Weights that are not at their default place: the config's, and before them the flag's."""
    name, key = config.model.speech_encoder, '"model.encoder_path"'
    return {
        **encoder_paths(name, config.model.encoder_path, what=key),
        **encoder_paths(name, options.configs.encoder_path),
    }


def _config_for_features(
    options: PreprocessOptions, clips: Mapping[str, Sequence[Path]], report: PreprocessReport
) -> SvcConfig:
    config = load_config(options.configs.config_path)
    asked = options.configs.speech_encoder
    if asked is not None and asked != config.model.speech_encoder:
        raise ConfigError(
            f"--speech_encoder {asked}, but {options.configs.config_path} says "
            f'"{config.model.speech_encoder}"; run without --stage features to make a new config'
        )
    check_encoder_width(
        config.model.speech_encoder,
        config.model.ssl_dim,
        where=str(options.configs.config_path),
        advice="run  svc preprocess --stage config --speech_encoder NAME  to write a config that "
        "fits",
    )
    if _own_paths(options, config) != _own_paths(PreprocessOptions(), config):
        report.notes.append(
            f"--encoder_path is not what {options.configs.config_path} says; give it to  svc infer  "
            "too, or run without --stage features to write it into the config"
        )
    unknown = [speaker for speaker in clips if speaker not in config.spk]
    if unknown:
        report.notes.append(
            f"{len(unknown)} speakers are not in {options.configs.config_path} (the first: "
            f'"{unknown[0]}"); run  svc preprocess --stage config  to train them'
        )
    return config


def _check(
    clips: Mapping[str, Sequence[Path]],
    sampling_rate: int,
    report: PreprocessReport,
    progress: Progress | None,
    processes: Processes,
) -> dict[Path, float]:
    """Read every clip once; returns the length in seconds of the usable ones."""
    files = [file for group in clips.values() for file in group]
    seconds, report.left_out = check_clips(files, sampling_rate, processes, progress)
    long = [file for file, value in seconds.items() if value > _LONG_SECONDS]
    if long:
        report.notes.append(
            f"{len(long)} clips are longer than {_LONG_SECONDS:g} s (the first: {long[0]}, "
            f"{seconds[long[0]]:.0f} s); training reads a window of about 9 s of a clip at a time, "
            "so cut them with  svc slice  to learn from all of them evenly"
        )
    return seconds


def _write_lists(
    options: PreprocessOptions,
    config: SvcConfig,
    usable: Mapping[str, Sequence[Path]],
    seconds: Mapping[Path, float],
    report: PreprocessReport,
) -> None:
    lists = split(usable, seed=options.seed)
    write_filelist(options.configs.train_list, lists.train)
    write_filelist(options.configs.val_list, lists.validation)
    held = set(lists.validation)
    report.speakers = {
        speaker: SpeakerSummary(
            speaker_id=config.spk[speaker],
            train=sum(file not in held for file in files),
            validation=sum(file in held for file in files),
            seconds=sum(seconds[file] for file in files),
        )
        for speaker, files in usable.items()
    }
