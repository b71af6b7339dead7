"""How near a clip as sung is to its recording: every figure that a validation reports, for voices and
vocoders.

Letters: T samples, N frames, M mel bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from svc.audio.loudness import rms_frames
from svc.audio.mel import stft_magnitude
from svc.audio.pitch import cents
from svc.f0.base import F0Predictor, build_f0_predictor

FloatArray = npt.NDArray[np.float32]

_WINDOWS = (512, 1024, 2048)  # samples
_QUIET = 1e-7  # added to magnitudes; keeps the logarithm of silence finite
_LEVEL_HOPS = 4  # hops in the window of a level
_FLOOR_DB = -90.0  # dBFS; levels below it are all "nothing"
_ACTIVE_DB = 40.0  # frames of the recording this far below its loud ones do not count for loudness
_SILENT_DBFS = -60.0  # nor those below this
_ENOUGH = 10  # frames voiced in both, for a correlation
_STILL = 1e-6  # standard deviation of log F0, a 600th of a cent: below it there is no melody


@dataclass(frozen=True)
class Take:
    """A clip as recorded or as sung."""

    wav: FloatArray  # (T,) samples in [-1, 1]
    mel: FloatArray  # (M, N) natural-log mel
    f0: FloatArray  # (N,) Hz, 0 = unvoiced
    level: FloatArray  # (N,) dBFS


@dataclass(frozen=True)
class ClipScore:
    """The figures of one clip."""

    mel: float
    stft: float
    interval: npt.NDArray[np.float64]  # (K,) cents, sung over recorded, where both are voiced
    f0_correlation: float | None
    both: int  # frames voiced in both,
    missed: int  # only as recorded,
    added: int  # only as sung,
    frames: int  # and in all
    loudness: float | None


@dataclass(frozen=True)
class Sung:
    """A held-out clip as recorded and as sung."""

    index: int  # among the clips that are sung, from 0
    recorded: Take
    made: Take
    score: ClipScore


@dataclass(frozen=True)
class Score:
    """How far the clips as sung are from the recordings; None where there is nothing to measure."""

    mel: float
    """Mean |difference| of the log-mels (natural log); the mean over the clips, as the next ones."""
    stft: float
    """`stft_distance`."""
    f0_cents: float | None
    """Median |interval| of the pitch over all frames voiced in both."""
    f0_rmse_cents: float | None = None
    """Root of the mean square of the same; an octave error costs 1200."""
    f0_correlation: float | None = None
    """Pearson's correlation of log F0 in these frames, -1...1, the mean over the clips."""
    voicing_error: float | None = None
    """Share of the frames that are voiced in only one of the two, 0...1."""
    voicing_f1: float | None = None
    """Harmonic mean of precision and recall of the voiced frames, 0...1."""
    loudness_db: float | None = None
    """Mean |difference| of the level in dB where the recording sounds; the mean over the clips."""

    @classmethod
    def of(cls, clips: Sequence[ClipScore]) -> Score:
        """Put the figures of one clip or more together."""
        interval = np.concatenate([clip.interval for clip in clips])
        both, wrong = sum(c.both for c in clips), sum(c.missed + c.added for c in clips)
        return cls(
            mel=float(np.mean([clip.mel for clip in clips])),
            stft=float(np.mean([clip.stft for clip in clips])),
            f0_cents=float(np.median(np.abs(interval))) if len(interval) else None,
            f0_rmse_cents=float(np.sqrt(np.mean(interval**2))) if len(interval) else None,
            f0_correlation=_mean([clip.f0_correlation for clip in clips]),
            voicing_error=wrong / max(1, sum(clip.frames for clip in clips)),
            voicing_f1=2 * both / (2 * both + wrong) if both + wrong else None,
            loudness_db=_mean([clip.loudness for clip in clips]),
        )

    def scalars(self) -> dict[str, float]:
        """Return the numbers there are, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        """Every figure there is, for a log line."""
        return ", ".join(f"{name} {value:.4g}" for name, value in self.scalars().items())


class Judge:
    """Measures clips with one predictor of the pitch for both sides, so that its slips cancel.

    Args:
        sampling_rate: Hz.
        hop_length: samples per frame.
    """

    def __init__(self, sampling_rate: int, hop_length: int) -> None:
        self._hop = hop_length
        self._pitch: F0Predictor = build_f0_predictor(
            "pm", sampling_rate=sampling_rate, hop_length=hop_length
        )

    def listen(self, wav: FloatArray, mel: FloatArray) -> Take:
        """Measure a recording or a clip as sung; what is compared later can be kept.

        Args:
            wav: (T,) samples.
            mel: (M, N) log-mel of it.

        Raises:
            AudioError: samples that are not numbers.
        """
        track = self._pitch(wav)
        level = rms_frames(wav, _LEVEL_HOPS * self._hop, self._hop)[: len(track)]
        decibel = 20 * np.log10(np.maximum(level, np.float32(10 ** (_FLOOR_DB / 20))))
        f0 = np.where(track.uv > 0, track.f0, np.float32(0))
        return Take(wav, mel, f0, decibel.astype(np.float32))

    def compare(self, recorded: Take, made: Take) -> ClipScore:
        """Return the figures of a clip; both sides of equal length."""
        interval = cents(made.f0, recorded.f0)
        both = np.isfinite(interval)
        one, two = recorded.f0 > 0, made.f0 > 0
        pair = torch.from_numpy(recorded.wav)[None], torch.from_numpy(made.wav)[None]
        return ClipScore(
            mel=float(np.abs(recorded.mel - made.mel).mean()),
            stft=stft_distance(*pair),
            interval=interval[both],
            f0_correlation=log_correlation(recorded.f0[both], made.f0[both]),
            both=int(both.sum()),
            missed=int((one & ~two).sum()),
            added=int((two & ~one).sum()),
            frames=len(one),
            loudness=_loudness_difference(recorded.level, made.level),
        )


def stft_distance(recorded: Tensor, made: Tensor) -> float:
    """Multi-resolution STFT distance: spectral convergence plus the mean |difference| of the log
    magnitudes, averaged over windows of 512, 1024 and 2048 samples (Parallel WaveGAN,
    arXiv:1910.11480; its windows differ).

    Args:
        recorded: (B, T) samples.
        made: (B, T).

    Returns:
        0 for equal signals.
    """
    total = 0.0
    for window in _WINDOWS:
        true, ours = (
            stft_magnitude(wav, window, window // 4, window, center=True) + _QUIET
            for wav in (recorded, made)
        )
        convergence = torch.linalg.vector_norm(true - ours) / torch.linalg.vector_norm(true)
        total += float(convergence + (true.log() - ours.log()).abs().mean())
    return total / len(_WINDOWS)


def log_correlation(recorded: npt.ArrayLike, made: npt.ArrayLike) -> float | None:
    """Return Pearson's correlation of the logarithms of two pitch tracks.

    Args:
        recorded: (K,) Hz, above 0.
        made: (K,) Hz, above 0.

    Returns:
        -1...1, or None for fewer than ten frames or where one of them does not move.
    """
    one, two = (np.log(np.asarray(track, dtype=np.float64)) for track in (recorded, made))
    if len(one) < _ENOUGH:
        return None
    one, two = one - one.mean(), two - two.mean()
    if min(one.std(), two.std()) < _STILL:
        return None
    return float(np.mean(one * two) / (one.std() * two.std()))


def _loudness_difference(recorded: FloatArray, made: FloatArray) -> float | None:
    if not len(recorded):
        return None
    loud = float(np.percentile(recorded, 95))
    active = (recorded > loud - _ACTIVE_DB) & (recorded > _SILENT_DBFS)
    if not active.any():
        return None
    return float(np.abs(made[active] - recorded[active]).mean())


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
