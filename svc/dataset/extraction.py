"""Recordings to feature files: each worker loads the encoder and the F0 predictor once (spec_core
10, D11 and D12).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from svc.audio.loudness import frame_volume
from svc.audio.mel import linear_spectrogram
from svc.audio.resample import resample
from svc.dataset.clips import LeftOut, read_clip
from svc.dataset.features import FeatureCache, FeatureSettings
from svc.dataset.pool import cpu_count, run_jobs
from svc.devices import resolve_device
from svc.errors import ConfigError, DatasetError
from svc.f0.base import build_f0_predictor
from svc.pretrained import PRETRAIN_DIR
from svc.progress import Progress, silent
from svc.speech.base import build_speech_encoder

_ENCODER_RATE = 16000  # Hz


@dataclass(frozen=True)
class ExtractorOptions:
    """What an `Extractor` needs to know."""

    settings: FeatureSettings
    unit_channels: int  # width the config expects of the units
    encoder_path: Path | None = None  # weight file other than the encoder's own
    device: str | None = None  # None = the best one
    pretrain_dir: Path = PRETRAIN_DIR
    spec_cache: bool = False  # write the spectrogram too
    threads: int | None = None  # of torch on the CPU; None = torch's own choice

    @property
    def parts(self) -> tuple[str, ...]:
        """The feature files to keep up to date."""
        return ("units", "f0", "volume", "spec") if self.spec_cache else ("units", "f0", "volume")


@dataclass
class ExtractReport:
    """What `extract_features` did."""

    computed: int = 0  # recordings with at least one new feature file
    fresh: int = 0  # recordings whose features were up to date
    left_out: list[LeftOut] = field(default_factory=list)


class Extractor:
    """Computes the stale features of one recording at a time.

    Args:
        options: encoder, F0 predictor, device.

    Raises:
        SvcError: the encoder or the predictor cannot be built, or does not fit the config.
    """

    def __init__(self, options: ExtractorOptions) -> None:
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self.options = options
        settings = options.settings
        self._cache = FeatureCache(settings)
        device = str(resolve_device(options.device))
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
            path=options.encoder_path,
            pretrain_dir=options.pretrain_dir,
        )
        if self._encoder.dim != options.unit_channels:
            raise ConfigError(
                f'the speech encoder "{settings.speech_encoder}" gives units {self._encoder.dim} '
                f'wide, "model.ssl_dim" of the config says {options.unit_channels}; run '
                "svc preprocess --stage config"
            )

    @torch.inference_mode()
    def __call__(self, wav_path: Path) -> bool:
        """Bring the features of one recording up to date.

        Args:
            wav_path: a clip at the config's rate.

        Returns:
            Whether anything had to be computed.

        Raises:
            SvcError: the recording cannot be used.
        """
        settings = self.options.settings
        stale = self._cache.stale(wav_path, self.options.parts)
        if not stale:
            return False
        wav = read_clip(wav_path, settings.sampling_rate)
        made: dict[str, torch.Tensor] = {}
        if "units" in stale:
            made["units"] = self._units(wav)
        if "f0" in stale:
            made["f0"] = self._f0(wav)
        if "volume" in stale:
            made["volume"] = frame_volume(torch.from_numpy(wav)[None], settings.hop_length)[0]
        if "spec" in stale:
            made["spec"] = linear_spectrogram(
                torch.from_numpy(wav)[None],
                n_fft=settings.filter_length,
                hop_length=settings.hop_length,
                win_length=settings.win_length,
            )[0]
        self._cache.save(wav_path, **made)
        return True

    def _units(self, wav: np.ndarray) -> torch.Tensor:
        wav16k = resample(wav, self.options.settings.sampling_rate, _ENCODER_RATE)
        return self._encoder.encode(torch.from_numpy(np.ascontiguousarray(wav16k)))

    def _f0(self, wav: np.ndarray) -> torch.Tensor:
        track = self._predictor(wav)
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
    reported and does not stop the others. One recording per worker is in memory at a time.

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
    if jobs == 1 and extractor is not None:
        outcomes = run_jobs(lambda _: extractor, todo, jobs=1)
    else:
        outcomes = run_jobs(functools.partial(build_worker, options, jobs), todo, jobs=jobs)
    for done, outcome in enumerate(outcomes, start=report.fresh + 1):
        if outcome.error is not None:
            report.left_out.append(LeftOut(outcome.task, outcome.error))
        else:
            report.computed += 1
        tell(done, len(files), outcome.task.name)
    report.left_out.sort(key=lambda item: item.path)
    return report
