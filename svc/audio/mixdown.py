"""Stems into one song: loudness of a stem, its place between left and right, the sum of all.

All stems start together. One that is shorter than the longest is followed by silence.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]

BLOCK_SECONDS = 0.4
"""Gating block of ITU-R BS.1770-4: what is shorter has no gated loudness."""


def gated_loudness(wav: FloatArray, sr: int) -> float:
    """Return how loud a recording is where it sounds: pauses do not count (ITU-R BS.1770-4).

    Args:
        wav: (C, T) with at most 5 channels.
        sr: Hz.

    Returns:
        LUFS; of less than `BLOCK_SECONDS` the RMS in dBFS, summed over the channels as LUFS are.
        Minus infinity for silence (all of it below -70 LUFS).
    """
    power = float(np.sum(np.mean(np.square(wav, dtype=np.float64), axis=-1))) if wav.size else 0.0
    if power == 0.0:
        return float("-inf")
    if wav.shape[-1] < BLOCK_SECONDS * sr:
        return float(10.0 * np.log10(power))
    import pyloudnorm

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Where all is below the gate its mean is that of no block: minus infinity is the answer.
        warnings.simplefilter("ignore", RuntimeWarning)
        found = float(pyloudnorm.Meter(sr).integrated_loudness(np.asarray(wav, np.float32).T))
    return found if np.isfinite(found) else float("-inf")


def matching_gain_db(wav: FloatArray, wanted: FloatArray, sr: int) -> float:
    """Return the gain that makes one recording as loud as another of the same length.

    Args:
        wav: (C, T) what is to be turned up or down.
        wanted: (C, T) what it shall be as loud as.
        sr: Hz.

    Returns:
        dB; 0 where one of them is silent.
    """
    gain = gated_loudness(wanted, sr) - gated_loudness(wav, sr)
    return gain if np.isfinite(gain) else 0.0


def db_to_factor(db: float) -> float:
    """Return the factor that samples are multiplied by, 2 for about 6 dB."""
    return float(10.0 ** (db / 20.0))


def in_channels(wav: FloatArray, n_channels: int) -> npt.NDArray[np.float32]:
    """Return a recording with another number of channels: one channel goes into all unchanged.

    Args:
        wav: (C, T), C is 1 or `n_channels`.
        n_channels: wanted.

    Returns:
        float32 (n_channels, T).
    """
    if wav.ndim != 2 or len(wav) not in (1, n_channels):
        raise ValueError(f"wav must be (1, T) or ({n_channels}, T), not {wav.shape}")
    spread: npt.NDArray[np.float32] = np.repeat(
        np.asarray(wav, np.float32), n_channels // len(wav), axis=0
    )
    return spread


def balance(pan: float) -> tuple[float, float]:
    """Return factors of left and right for a place between them.

    The side that the sound moves away from is turned down, the other one stays: in the middle nothing
    changes.

    Args:
        pan: -1 left, 0 middle, 1 right.
    """
    if not -1.0 <= pan <= 1.0:
        raise ValueError(f"pan must be from -1 to 1, not {pan}")
    return min(1.0, 1.0 - pan), min(1.0, 1.0 + pan)


def fit_length(wav: FloatArray, n_samples: int) -> npt.NDArray[np.float32]:
    """Cut the end off, or add silence: (C, T) -> float32 (C, n_samples)."""
    fitted = np.zeros((len(wav), n_samples), dtype=np.float32)
    n_both = min(n_samples, wav.shape[-1])
    fitted[:, :n_both] = wav[:, :n_both]
    return fitted


class Mixdown:
    """The sum of stems, as long as the longest of them.

    Args:
        n_channels: of the sum, 1 or 2.
    """

    def __init__(self, n_channels: int) -> None:
        self._sum: npt.NDArray[np.float32] = np.zeros((n_channels, 0), dtype=np.float32)

    @property
    def wav(self) -> npt.NDArray[np.float32]:
        """What has been added so far, (C, T)."""
        return self._sum

    def add(self, wav: npt.NDArray[np.float32]) -> None:
        """Add a stem (C, T) that starts where the others do."""
        if wav.ndim != 2 or len(wav) != len(self._sum):
            raise ValueError(f"a stem must be ({len(self._sum)}, T), not {wav.shape}")
        if wav.shape[1] > self._sum.shape[1]:
            self._sum = fit_length(self._sum, wav.shape[1])
        self._sum[:, : wav.shape[1]] += wav


def mix_down(stems: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Return the sum of stems, each (C, T) with the same C."""
    mixdown = Mixdown(len(stems[0]))
    for stem in stems:
        mixdown.add(stem)
    return mixdown.wav
