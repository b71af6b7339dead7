"""Recordings to feature files: each worker loads the encoder and the F0 predictor once (spec_core
10, D11 and D12) and takes a few recordings at a time, which an accelerator encodes together.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from svc.audio.loudness import frame_volume
from svc.audio.mel import LogMel, linear_spectrogram
from svc.audio.pitch import F0Track
from svc.audio.resample import resample
from svc.dataset.augment import augment, draw_change
from svc.dataset.clips import LeftOut, read_clip
from svc.dataset.feature_settings import AUGMENTED, MEL_PARTS, FeatureSettings
from svc.dataset.features import FeatureCache
from svc.dataset.pool import Outcome, run_jobs
from svc.devices import resolve_device
from svc.errors import DatasetError
from svc.f0.base import build_f0_predictor
from svc.pretrained import PRETRAIN_DIR
from svc.progress import Progress, silent
from svc.speech.base import build_speech_encoder
from svc.threads import cpu_count

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]

_ENCODER_RATE = 16000  # Hz
_TOGETHER = 8  # recordings that an accelerator encodes at a time, unless told otherwise


@dataclass(frozen=True)
class ExtractorOptions:
    """What an `Extractor` needs to know."""

    settings: FeatureSettings
    encoder_paths: Mapping[str, Path] = field(default_factory=dict)  # file or folder by encoder
    device: str | None = None  # None = the best one
    pretrain_dir: Path = PRETRAIN_DIR
    spec_cache: bool = False  # write the spectrogram too
    threads: int | None = None  # of torch on the CPU; None = torch's own choice
    encoder_batch: int | None = None  # recordings encoded together; None = 1 on the CPU, else 8

    @property
    def parts(self) -> tuple[str, ...]:
        """The feature files to keep up to date."""
        spec = ("spec",) if self.spec_cache else ()
        mels = MEL_PARTS if self.settings.mel is not None else ()
        return ("units", "f0", "volume", *spec, *mels)

    def group_size(self, n_files: int, jobs: int) -> int:
        """Return how many recordings a worker takes at a time, so that all workers have some."""
        together = self.encoder_batch
        if together is None:
            # On a CPU one clip keeps all cores busy, and padding the others would cost time.
            together = 1 if resolve_device(self.device).type == "cpu" else _TOGETHER
        return max(1, min(together, -(-n_files // jobs)))


@dataclass
class ExtractReport:
    """What `extract_features` did."""

    computed: int = 0  # recordings with at least one new feature file
    fresh: int = 0  # recordings whose features were up to date
    left_out: list[LeftOut] = field(default_factory=list)


@dataclass(frozen=True)
class _Clip:
    """One recording with something to compute."""

    path: Path
    stale: set[str]
    wav: FloatArray  # (T,) at the config's rate
    wav16k: torch.Tensor | None  # (T',) at the encoder's rate, where units are wanted


class Extractor:
    """Computes the stale features of a few recordings at a time.

    Args:
        options: encoder, F0 predictor, device.

    Raises:
        SvcError: the encoder or the predictor cannot be built.
    """

    def __init__(self, options: ExtractorOptions) -> None:
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self.options = options
        settings = options.settings
        self._cache = FeatureCache(settings)
        self._together = True  # until the memory turns out too small for it
        device = str(resolve_device(options.device))
        # Complex numbers are not at home on every other kind of device.
        self._mel_device = device if device.startswith("cuda") else "cpu"
        # The predictor first: it is the cheaper one to find missing.
        self._predictor = build_f0_predictor(
            settings.f0_predictor,
            sampling_rate=settings.sampling_rate,
            hop_length=settings.hop_length,
            f0_min=settings.f0_min,
            f0_max=settings.f0_max,
            device=device,
            pretrain_dir=options.pretrain_dir,
        )
        self._encoder = build_speech_encoder(
            settings.speech_encoder,
            device=device,
            path=options.encoder_paths,
            pretrain_dir=options.pretrain_dir,
            precision=settings.encoder_precision,
        )

    @torch.inference_mode()
    def __call__(self, wav_paths: Sequence[Path]) -> list[Outcome[Path, bool]]:
        """Bring the features of some recordings up to date; a bad one harms no other.

        Args:
            wav_paths: clips at the config's rate.

        Returns:
            For each, whether anything had to be computed, or why it cannot be used.

        Raises:
            OutputError: nothing can be written beside the recordings.
        """
        read = list(run_jobs(lambda _: self._read, wav_paths, jobs=1))
        clips = [outcome.result for outcome in read if outcome.result is not None]
        units = self._encode_together(clips)
        tracks = self._track_together(clips)
        finish = functools.partial(self._finish, units=units, tracks=tracks)
        finished = run_jobs(lambda _: finish, clips, jobs=1)
        return [
            *(Outcome(item.task, error=item.error) for item in read if item.result is None),
            *(Outcome(item.task.path, item.result, item.error) for item in finished),
        ]

    def _read(self, path: Path) -> _Clip:
        settings = self.options.settings
        stale = self._cache.stale(path, self.options.parts)
        if not stale:
            return _Clip(path, stale, np.zeros(0, dtype=np.float32), None)
        wav = read_clip(path, settings.sampling_rate)
        wav16k = None
        if "units" in stale:
            heard = resample(wav, settings.sampling_rate, _ENCODER_RATE)
            wav16k = torch.from_numpy(np.ascontiguousarray(heard))
        return _Clip(path, stale, wav, wav16k)

    def _encode_together(self, clips: Sequence[_Clip]) -> dict[Path, torch.Tensor]:
        """Units by recording; none where there is one clip only, or where it does not work."""
        waves = {clip.path: clip.wav16k for clip in clips if clip.wav16k is not None}
        if len(waves) < 2 or not self._together:
            return {}
        try:
            units = self._encoder.encode_batch(list(waves.values()))
        except Exception as error:
            # Perhaps one of them is bad, perhaps the memory is too small: each is tried by itself,
            # and what fails then is reported with its name.
            self._together = not isinstance(error, torch.OutOfMemoryError | MemoryError)
            logger.warning(
                "encoding %d clips at a time failed (%s); %s one by one, as --encoder_batch 1 does",
                len(waves),
                " ".join(str(error).split())[:200] or type(error).__name__,
                "they are encoded" if self._together else "from here on they are encoded",
            )
            return {}
        return dict(zip(waves, units, strict=True))

    def _track_together(self, clips: Sequence[_Clip]) -> dict[Path, F0Track]:
        """Pitch by recording; none where there is one clip only, or where it does not work."""
        waves = {clip.path: clip.wav for clip in clips if "f0" in clip.stale}
        if len(waves) < 2:
            return {}
        try:
            return dict(zip(waves, self._predictor.track_batch(list(waves.values())), strict=True))
        except Exception as error:
            # Each is tried by itself, and what fails then is reported with its name.
            logger.warning(
                "finding the pitch of %d clips at a time failed (%s); it is found one by one",
                len(waves),
                " ".join(str(error).split())[:200] or type(error).__name__,
            )
            return {}

    def _finish(
        self, clip: _Clip, units: Mapping[Path, torch.Tensor], tracks: Mapping[Path, F0Track]
    ) -> bool:
        """Compute and save what is stale of one recording; returns whether that was anything."""
        if not clip.stale:
            return False
        settings, wav = self.options.settings, torch.from_numpy(clip.wav)[None]
        made: dict[str, torch.Tensor] = {}
        if clip.wav16k is not None:
            known = units.get(clip.path)
            made["units"] = self._encoder.encode(clip.wav16k) if known is None else known
        if "f0" in clip.stale:
            made["f0"] = self._f0(clip.wav, tracks.get(clip.path))
        if "volume" in clip.stale:
            made["volume"] = frame_volume(wav, settings.hop_length)[0]
        if "spec" in clip.stale:
            made["spec"] = linear_spectrogram(
                wav,
                n_fft=settings.filter_length,
                hop_length=settings.hop_length,
                win_length=settings.win_length,
            )[0]
        made |= self._mels(clip)
        self._cache.save(clip.path, **made)
        return True

    def _mels(self, clip: _Clip) -> dict[str, torch.Tensor]:
        """Mels of a recording, where wanted."""
        settings, made = self.options.settings, dict[str, torch.Tensor]()
        if settings.mel is None:
            return made
        wav, log_mel = torch.from_numpy(clip.wav).to(self._mel_device), LogMel(settings.mel)
        if "mel" in clip.stale:
            made["mel"] = log_mel(wav[None])[0].T
        if clip.stale & set(AUGMENTED):  # both: half of a pair fits no other half
            peak = float(wav.abs().max())
            gain, key_shift = draw_change(clip.path, settings.aug_seed, peak)
            made |= augment(wav, log_mel, gain=gain, key_shift=key_shift)
        return made

    def _f0(self, wav: FloatArray, track: F0Track | None) -> torch.Tensor:
        track = self._predictor(wav) if track is None else track
        expected = len(wav) // self.options.settings.hop_length
        if len(track.f0) != expected:
            name = self.options.settings.f0_predictor
            raise DatasetError(f"{name} gave {len(track.f0)} frames, expected {expected}")
        return torch.from_numpy(np.stack([track.f0, track.uv]).astype(np.float32))


def build_worker(options: ExtractorOptions, jobs: int, number: int) -> Extractor:
    """Build the extractor of one of several workers: its own share of the CPU, its own GPU where
    there are several.
    """
    share = max(1, cpu_count() // jobs) if jobs > 1 else None
    device = options.device
    if resolve_device(device) == torch.device("cuda") and torch.cuda.device_count() > 1:
        # so-vits-svc 4.1 behaviour (spec_core 6.4), but only where no certain card was asked for.
        device = f"cuda:{number % torch.cuda.device_count()}"
    return Extractor(replace(options, threads=share, device=device))


def _ready(extractor: Extractor, number: int) -> Extractor:
    """Stand in for `build_worker` where the extractor is built already."""
    del number
    return extractor


def extract_features(
    files: Sequence[Path],
    options: ExtractorOptions,
    *,
    jobs: int = 1,
    extractor: Extractor | None = None,
    progress: Progress | None = None,
) -> ExtractReport:
    """Bring the feature files of many recordings up to date.

    What is up to date is skipped, so an interrupted run goes on where it was; a bad recording is
    reported and does not stop the others. Each worker holds one group of recordings in memory.

    Args:
        files: clips at the config's rate.
        options: encoder, F0 predictor, device.
        jobs: processes, each with an encoder of its own.
        extractor: one that is built already, used when `jobs` is 1.
        progress: called after each recording.

    Returns:
        Counts, and the recordings left out with reasons.

    Raises:
        SvcError: encoder or predictor cannot be built.
        OutputError: nothing can be written beside the recordings.
    """
    report, tell = ExtractReport(), progress or silent
    # Looked at here, so that no process is started where nothing is to do.
    cache = FeatureCache(options.settings)
    todo = [file for file in files if not cache.is_fresh(file, options.parts)]
    report.fresh = len(files) - len(todo)
    if report.fresh:
        tell(report.fresh, len(files), "up to date")
    build: Callable[[int], Extractor] = functools.partial(build_worker, options, jobs)
    if jobs == 1 and extractor is not None:
        build = functools.partial(_ready, extractor)
    groups = _group(todo, options.group_size(len(todo), jobs))
    done = report.fresh
    while groups:
        again: list[list[Path]] = []
        for outcome in run_jobs(build, groups, jobs=jobs):
            clips = outcome.result
            if clips is None and len(outcome.task) > 1:
                # The process died: which clip it was at shows when each goes by itself.
                again += [[path] for path in outcome.task]
                continue
            for clip in clips or [Outcome(outcome.task[0], error=outcome.error)]:
                if clip.error is not None:
                    report.left_out.append(LeftOut(clip.task, clip.error))
                else:
                    report.computed += 1
                done += 1
                tell(done, len(files), clip.task.name)
        groups = again
    report.left_out.sort(key=lambda item: item.path)
    return report


def _group(files: Sequence[Path], size: int) -> list[list[Path]]:
    """Divide recordings into groups of `size`; those of a group are similarly long, or the short
    ones would be padded for nothing.
    """
    if size > 1:
        files = sorted(files, key=lambda file: file.stat().st_size if file.is_file() else 0)
    return [list(files[start : start + size]) for start in range(0, len(files), size)]
