"""`svc infer`: songs in, the same songs sung by a trained voice out."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from svc.cli.infer_flags import (
    ENHANCER,
    F0_PREDICTOR,
    INDEX_K,
    K_STEP,
    NOISE_SCALE,
    add_arguments,
)
from svc.cli.infer_report import InferReport
from svc.cli.infer_sharing import content_of, find_sharing
from svc.cli.progress import progress_bar
from svc.errors import ConfigError

if TYPE_CHECKING:
    from svc.conversion.backend import Backend
    from svc.conversion.chosen import ChosenVoice
    from svc.conversion.compute import ComputeChoice
    from svc.conversion.feature_cache import FeatureCache
    from svc.conversion.options import DiffusionChoice, HearingChoice, InferOptions
    from svc.conversion.results import ResultOptions
    from svc.conversion.speaker_mix import SpeakerMix

__all__ = ["add_arguments", "run"]

NAME = "infer"
HELP = "sing songs with a trained voice"

_MIX_NAME = "spk_mix"  # what stands for the voice in the names of results, as in so-vits-svc 4.1
_RUN_DIR = Path("logs/44k")
_DIFFUSION = "diffusion"


def run(args: argparse.Namespace) -> int:
    """Convert every song for every voice. Returns 0 all done, 1 some failed, 2 none done."""
    _check_flags(args)
    sharing = find_sharing(args)

    # From the cheap checks to the heavy ones: no wrong flag waits for a model to load.
    from svc.conversion.cached_hearing import HearingCache
    from svc.conversion.chosen import choose_voice
    from svc.conversion.converter import Converter
    from svc.conversion.curves import CURVE_NAME, attach_curves
    from svc.conversion.file_hashes import FileHashes
    from svc.conversion.files import check_writable, convert_files
    from svc.conversion.jobs import plan_jobs, split_existing, with_mix
    from svc.conversion.manifest import Inputs, RunFacts
    from svc.conversion.names import wav_format

    report = InferReport(as_json=args.json)
    options, results, cache = _options(args), _results(args), _cache(args)
    suffix = wav_format(args.wav_format)
    diffusion, compute = _diffusion(args), _compute(args)
    voice = choose_voice(
        args.model_path,
        args.config_path,
        compute=compute,
        only_diffusion=diffusion if args.only_diffusion else None,
    )
    speakers, mix = _singers(args, voice)
    choice = _hearing(args, voice)
    jobs, settled = plan_jobs(
        args.clean_names,
        speakers if mix is None else [_MIX_NAME],
        options,
        f0_name=args.f0_predictor if args.f0 is None else CURVE_NAME,
        transposes=args.trans,
        suffix=suffix,
        output_dir=args.output_dir,
        output=_output(args.output, suffix),
        recursive=args.recursive,
    )
    if mix is not None:
        jobs = with_mix(jobs, mix)
    if args.f0 is not None:
        jobs, unfit = attach_curves(jobs, args.f0, voice.grid)
        settled += unfit
    if "auto" in args.trans or "auto-octave" in args.trans:
        voice.require_ranges(speakers)
    for path in {job.output.suffix: job.output for job in jobs}.values():
        results.check_format(path, voice.grid.sampling_rate)
    plan = jobs
    if args.skip_existing:
        jobs, there = split_existing(jobs)
        settled += there
    for outcome in settled if sharing.leads else []:
        report.show(outcome)
    if not jobs:
        return report.finish(settled) if sharing.leads else 0
    folder = args.output_dir if args.output is None else jobs[0].output.parent
    check_writable(folder)
    enhancer = (args.vocoder or ENHANCER) if args.enhance else None
    with FileHashes() as hashes:
        if cache is not None:
            choice = replace(choice, cache=HearingCache(cache, hashes))
        weights = [] if sharing.member is None else content_of([voice.model, voice.config], hashes)
        with (
            sharing.join(args, plan, jobs, folder, weights) as share,
            Converter.from_files(
                voice.model,
                voice.config,
                choice,
                diffusion=diffusion,
                enhancer=enhancer,
                compute=compute,
            ) as converter,
            progress_bar("infer") as progress,
        ):
            for singer in speakers if mix is None else [mix]:
                converter.check_options(options, singer)
            if sharing.leads:
                _tell_computing(args, converter.voice)
            facts = None
            if not args.no_manifest:
                inputs = Inputs(voice, choice, diffusion, enhancer)
                facts = RunFacts.of(args.words, inputs, converter.voice, hashes)
            outcomes = convert_files(
                converter,
                jobs,
                results=results,
                run=facts,
                skip_existing=args.skip_existing,
                progress=progress,
                on_outcome=report.show,
                on_key=report.tell,
                share=share,
            )
    return report.finish([*settled, *outcomes]) if sharing.leads else 0


def _check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that contradict each other; tell of those that do nothing."""
    if args.f0 is not None and args.auto_predict_f0:
        raise ConfigError("--f0 and -a/--auto_predict_f0: sing the curve or let the voice choose")
    if args.only_diffusion and args.shallow_diffusion:
        raise ConfigError(
            "-od/--only_diffusion and -shd/--shallow_diffusion: the diffusion model sings alone or goes "
            "over a voice; leave one of them out"
        )
    if args.second_encoding and not (args.shallow_diffusion or args.only_diffusion):
        raise ConfigError("-se/--second_encoding needs -shd/--shallow_diffusion")
    if args.enhance:
        from svc.conversion.options import check_enhancer

        check_enhancer(
            exported=_compute(args).sings_export(args.model_path),
            diffuses=args.shallow_diffusion or args.only_diffusion,
        )
    no_diffusion = not (args.shallow_diffusion or args.only_diffusion)
    no_timbre = args.cluster_infer_ratio == 0
    idle = {
        "-lg has no effect without -cl": args.linear_gradient > 0 and args.clip == 0,
        "--max_chunk has no effect with -cl or --compat": args.max_chunk is not None
        and (args.clip != 0 or args.compat),
        "-f0p has no effect with --f0": args.f0 is not None and args.f0_predictor != F0_PREDICTOR,
        "-ks has no effect without -shd": args.k_step != K_STEP and not args.shallow_diffusion,
        # Command lines of so-vits-svc 4.1 name the voice all the same.
        "-m and -c have no effect with -od": args.only_diffusion
        and bool(args.model_path or args.config_path),
        "--compile has no effect with -od": args.only_diffusion and args.compile,
        "-ns has no effect with -od": args.only_diffusion and args.noise_scale != NOISE_SCALE,
        "-eak has no effect without -eh": args.enhancer_adaptive_key != 0 and not args.enhance,
        "--vocoder has no effect without -shd, -od or -eh": no_diffusion
        and not args.enhance
        and args.vocoder is not None,
        "-dm, -dc, --diffusion_method, --diffusion_speedup and --diffusion_precision have no effect "
        "without -shd or -od": no_diffusion
        and any(
            value is not None
            for value in (
                args.diffusion_model_path,
                args.diffusion_config_path,
                args.diffusion_method,
                args.diffusion_speedup,
                args.diffusion_precision,
            )
        ),
        "-cm, -fr, --protect, --index_k and --index_nprobe have no effect without -cr": no_timbre
        and (
            bool(args.cluster_model_path)
            or args.feature_retrieval
            or args.protect != 0
            or args.index_k != INDEX_K
            or args.index_nprobe is not None
        ),
        "-s has no effect with a mix of speakers": _mixes(args) and args.spk_list is not None,
        "--cache_dir and --cache_gb have no effect with --no_cache": args.no_cache
        and (args.cache_dir is not None or args.cache_gb is not None),
    }
    for text, given in idle.items():
        if given:
            print(f"svc: note: {text}", file=sys.stderr)


def _options(args: argparse.Namespace) -> InferOptions:
    from svc.conversion.options import InferOptions, with_transposition

    options = InferOptions(
        auto_f0=args.auto_predict_f0,
        noise_scale=args.noise_scale,
        slice_db=args.slice_db,
        clip_seconds=args.clip,
        crossfade_seconds=args.linear_gradient,
        crossfade_retain=args.linear_gradient_retain,
        pad_seconds=args.pad_seconds,
        cluster_ratio=args.cluster_infer_ratio,
        protect=args.protect,
        mode="diff" if args.only_diffusion else "sovdiff" if args.shallow_diffusion else "sovits",
        k_step=args.k_step,
        second_encoding=args.second_encoding,
        enhancer_key=args.enhancer_adaptive_key,
        loudness_envelope=args.loudness_envelope_adjustment,
        keep_breath=args.keep_breath,
        keep_unvoiced=args.keep_unvoiced,
        max_chunk_seconds=args.max_chunk,
        seed=args.seed,
    )
    for value in args.trans:
        with_transposition(options, value)  # every value is checked, also those of later songs
    return options


def _compute(args: argparse.Namespace) -> ComputeChoice:
    from svc.conversion.compute import ComputeChoice

    return ComputeChoice(args.backend, args.precision, args.compile)


def _tell_computing(args: argparse.Namespace, voice: Backend) -> None:
    """Say what `--precision auto` has chosen, where the result is not exact."""
    if args.precision == "auto" and voice.computing.precision != "fp32":
        how = f"{voice.computing} on {voice.where}"
        print(f"svc: computing with {how} (--precision fp32 is exact)", file=sys.stderr)


def _results(args: argparse.Namespace) -> ResultOptions:
    from svc.conversion.results import ResultOptions

    return ResultOptions(
        bit_depth=args.bit_depth,
        rate=args.rate,
        channels=args.channels.replace("_", "-"),
        tags=not args.no_tags,
    )


def _cache(args: argparse.Namespace) -> FeatureCache | None:
    from svc.conversion.feature_cache import DEFAULT_GB, FeatureCache, default_folder

    limit = DEFAULT_GB if args.cache_gb is None else args.cache_gb
    folder = default_folder() if args.cache_dir is None else args.cache_dir
    if folder is None:  # a user without a home
        return None
    cache = FeatureCache(folder, limit)
    return None if args.no_cache else cache


def _diffusion(args: argparse.Namespace) -> DiffusionChoice | None:
    """Find the diffusion model, where one is asked for."""
    if not (args.shallow_diffusion or args.only_diffusion):
        return None
    from svc.conversion.companions import find_diffusion
    from svc.conversion.options import DiffusionChoice

    method, speedup = args.diffusion_method, args.diffusion_speedup
    precision = args.diffusion_precision
    if _compute(args).sings_export(args.model_path):
        if args.diffusion_model_path or args.diffusion_config_path or args.vocoder:
            raise ConfigError(
                "-dm, -dc and --vocoder: an exported voice carries its diffusion model and vocoder; "
                "leave them out"
            )
        if precision not in (None, "fp32"):
            raise ConfigError(
                "--diffusion_precision: an exported voice computes in fp32; leave it out"
            )
        return DiffusionChoice(Path(args.model_path), method=method, speedup=speedup)
    home = _RUN_DIR if args.model_path is None else Path(args.model_path).parent
    model, config = find_diffusion(
        args.diffusion_model_path, args.diffusion_config_path, home / _DIFFUSION
    )
    return DiffusionChoice(model, config, args.vocoder, method, speedup, precision)


def _mixes(args: argparse.Namespace) -> bool:
    return bool(args.use_spk_mix or args.spk_mix is not None)


def _singers(args: argparse.Namespace, voice: ChosenVoice) -> tuple[list[str], SpeakerMix | None]:
    """Names of the voices that sing, and the mix of them where one is asked for."""
    from svc.conversion.speakers import find_speaker, only_speaker

    if _mixes(args):
        from svc.conversion.companions import find_mix

        mix = find_mix(args.spk_mix, voice.speakers)
        return [name for name, track in zip(mix.speakers, mix.tracks) if name and track], mix
    wanted = args.spk_list if args.spk_list is not None else [only_speaker(voice.speakers)]
    names = [find_speaker(voice.speakers, name)[0] for name in wanted]
    return list(dict.fromkeys(names)), None


def _hearing(args: argparse.Namespace, voice: ChosenVoice) -> HearingChoice:
    from svc.conversion.companions import find_timbre
    from svc.conversion.options import HearingChoice

    timbre = None
    if args.cluster_infer_ratio != 0:
        folder = voice.home if voice.home.is_dir() else voice.home.parent
        if args.only_diffusion and folder.name == _DIFFUSION:
            folder = folder.parent  # diffusion models have a folder of their own in the voice's
        timbre = find_timbre(args.cluster_model_path, folder, index=args.feature_retrieval)
    return HearingChoice(
        device=args.device,
        f0_predictor=args.f0_predictor if args.f0 is None else None,
        f0_min=args.f0_min,
        f0_max=args.f0_max,
        f0_threshold=args.f0_filter_threshold,
        encoder_path=args.encoder_path,
        encoder_precision=args.encoder_precision,
        compat=args.compat,
        cluster_path=timbre,
        index_k=args.index_k,
        index_nprobe=args.index_nprobe,
    )


def _output(path: Path | None, suffix: str) -> Path | None:
    """Give `--output` a suffix when it has none, and refuse one that no writer knows."""
    if path is None:
        return None
    if path.is_dir():
        raise ConfigError(f"--output {path} is a folder; name a file, or use --output_dir {path}")
    if not path.suffix:
        return path.with_name(f"{path.name}.{suffix}")
    from svc.conversion.names import wav_format

    try:
        wav_format(path.suffix)
    except ConfigError:
        raise ConfigError(
            f'--output {path}: unknown format "{path.suffix}"; '
            "end it with .flac, .wav, .ogg or .mp3"
        ) from None
    return path
