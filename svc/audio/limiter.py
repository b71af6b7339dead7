"""True-peak limiter for finished mixes.

The peak of a recording lies between its samples as often as on them. It is looked for on four times as
many points (ITU-R BS.1770-4, annex 2), and turned down by a gain that all channels share:

    peak at n0             |
    needed dip      _______|_______
    held            ___████|_______    for `AHEAD_SECONDS` before it
    released        ___████|██▇▅▃▂_    fades with the time constant `RELEASE_SECONDS`
    averaged        ___▁▃▅▇|██▇▅▃▂_    over `AHEAD_SECONDS`: no step, and nowhere above what is needed

`svc.audio.loudness.limit` is the simpler one for clips of a data set: it looks at samples only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from svc.audio.resample import resample

AHEAD_SECONDS = 0.005
RELEASE_SECONDS = 0.05
CEILING_DB = -1.0
"""dBTP; lossy encoders add up to about a decibel to a peak."""

_OVERSAMPLING = 4
_CONTEXT = 256  # samples around a block, more than the interpolation looks at
_BLOCK = 1 << 16  # samples at a time
_STEPS = float(1 << 30)  # dips are multiples of 1 / _STEPS, so that running sums of them are exact
_PASSES = 8

Samples = npt.NDArray[np.float32]
_Dips = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Limited:
    """What a limiter returns.

    Attributes:
        wav: (C, T).
        reduction_db: how much the loudest place was turned down, 0 = nothing was changed.
        seconds: time over which it was turned down by more than a tenth of a decibel.
    """

    wav: Samples
    reduction_db: float = 0.0
    seconds: float = 0.0


def true_peak(wav: Samples, sr: int) -> float:
    """Return the largest magnitude on and between the samples, linear: (C, T) -> float.

    As ITU-R BS.1770-4 annex 2 says: four times oversampled, with a longer filter than its example.
    """
    highest = 0.0
    for start in range(0, wav.shape[1], _BLOCK):
        stop = min(start + _BLOCK, wav.shape[1])
        highest = max(highest, float(_peaks(wav, sr, start, stop).max(initial=0.0)))
    return highest


def limit_true_peak(wav: Samples, sr: int, ceiling_db: float = CEILING_DB) -> Limited:
    """Turn down what is above the ceiling.

    Needs the memory of one more copy of the recording, and of some blocks.

    Args:
        wav: (C, T); channels share one gain.
        sr: Hz.
        ceiling_db: dBTP, highest true peak of the result.

    Returns:
        The result: `wav` itself where nothing is above the ceiling, and far from what is above it the
        same samples. It is not delayed.
    """
    ceiling = 10.0 ** (ceiling_db / 20.0)
    found = true_peak(wav, sr)
    if found <= ceiling:
        return Limited(wav)
    # A gain that moves while the curve between the samples is high can leave a trace above the ceiling.
    aim = ceiling
    for _ in range(_PASSES):
        limited = _limit(wav, sr, aim)
        over = true_peak(limited.wav, sr) / ceiling
        if over <= 1.0:
            return limited
        aim /= over * 1.0001
    scaled: Samples = limited.wav * np.float32(1.0 / (over * 1.0001))
    return Limited(scaled, limited.reduction_db + 20.0 * float(np.log10(over)), limited.seconds)


def _limit(wav: Samples, sr: int, ceiling: float) -> Limited:
    """Make one pass over a recording, block by block."""
    ahead = max(1, round(AHEAD_SECONDS * sr))
    decay = 1.0 / (RELEASE_SECONDS * sr)  # per sample, of the dip's logarithm
    out = np.empty_like(wav)
    n_samples = wav.shape[1]
    before: _Dips = np.zeros(ahead)  # released dips just in front of the block
    deepest, n_turned = 0.0, 0
    # A peak right at the start is averaged with what would be held in front of it.
    for start in range(-ahead, n_samples, _BLOCK):
        stop = min(start + _BLOCK, n_samples)
        dips = 1.0 - np.minimum(
            1.0, ceiling / np.maximum(_peaks(wav, sr, start, stop + ahead), 1e-9)
        )
        released = _release(_hold(dips, ahead), decay, float(before[-1]))
        row = np.concatenate((before, np.rint(released * _STEPS) / _STEPS))
        total = np.concatenate(([0.0], np.cumsum(row)))
        average = (total[ahead + 1 :] - total[: -ahead - 1]) / (ahead + 1)
        before = row[-ahead:]
        skip = max(0, -start)
        gain = 1.0 - average[skip:]
        out[:, start + skip : stop] = wav[:, start + skip : stop] * gain
        deepest = max(deepest, float(average[skip:].max(initial=0.0)))
        n_turned += int(np.count_nonzero(gain < 10.0**-0.005))
    return Limited(out, -20.0 * float(np.log10(1.0 - deepest)), n_turned / sr)


def _hold(dips: _Dips, ahead: int) -> _Dips:
    """Return the deepest dip of each sample and the `ahead` after it: (n + ahead,) -> (n,)."""
    from scipy.ndimage import maximum_filter1d

    held: _Dips = maximum_filter1d(dips, ahead + 1, mode="constant", origin=-((ahead + 1) // 2))
    return held[: dips.size - ahead]


def _release(held: _Dips, decay: float, last: float) -> _Dips:
    """Let dips fade: d[n] = max(held[n], d[n - 1] * exp(-decay)), as a running maximum of logarithms.

    Args:
        held: (n,).
        decay: per sample.
        last: d[-1].
    """
    with np.errstate(divide="ignore"):
        logs = np.log(np.concatenate(([last], held)))
    slope = decay * np.arange(logs.size)
    faded: _Dips = np.exp(np.maximum.accumulate(logs + slope) - slope)[1:]
    return np.maximum(faded, held)  # exponential and logarithm round


def _peaks(wav: Samples, sr: int, start: int, stop: int) -> npt.NDArray[np.float64]:
    """Return the largest magnitude of any channel within a sample of each sample, (stop - start,).

    Args:
        wav: (C, T).
        sr: Hz.
        start: first sample; outside of 0 ... T there is silence.
        stop: after the last one.
    """
    first, last = start - _CONTEXT, stop + _CONTEXT
    part = np.zeros((len(wav), last - first), dtype=np.float32)
    low, high = max(first, 0), min(last, wav.shape[1])
    if high > low:
        part[:, low - first : high - first] = wav[:, low:high]
    finer = resample(part, sr, _OVERSAMPLING * sr)
    between = np.abs(finer).max(axis=0).reshape(-1, _OVERSAMPLING).max(axis=1)  # from n to n + 1
    inside = slice(_CONTEXT, _CONTEXT + stop - start)
    near = np.maximum(between[inside], between[_CONTEXT - 1 : _CONTEXT - 1 + stop - start])
    peaks: npt.NDArray[np.float64] = np.maximum(near, np.abs(part[:, inside]).max(axis=0)).astype(
        np.float64
    )
    return peaks
