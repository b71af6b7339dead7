"""crepe as so-vits-svc 4.1 runs it: its resampler, its cut paths, its dither and its filters.

Everything here is described in spec_f0 6; the defaults of `svc.f0.crepe` use none of it but
`median3`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from svc.errors import ConfigError
from svc.f0.crepe_net import CENTS_PER_BIN, FIRST_BIN_CENTS, SAMPLING_RATE
from svc.f0.settings import F0Settings
from svc.f0.viterbi import triangular_transitions, viterbi

Array32 = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.floating]

# resampy 0.4's filter "kaiser_best"
_ZEROS = 50  # crossings on either side
_STEPS = 1 << 13  # table entries from one crossing to the next
_ROLLOFF = 0.9173473712608761  # cut-off as a part of the Nyquist frequency
_BETA = 12.984585247040012  # of the Kaiser window
_CHUNK = 1 << 14  # samples resampled at a time, so that the temporaries stay in cache

_BATCH = 1024  # frames that one path spans
_TINY = np.finfo(np.float32).tiny  # what probabilities are raised by before the logarithm


@lru_cache(maxsize=1)
def _half_window() -> FloatArray:
    """Right half of the windowed sinc, `_STEPS` entries per crossing."""
    n = _ZEROS * _STEPS
    sinc = _ROLLOFF * np.sinc(_ROLLOFF * np.linspace(0, _ZEROS, num=n + 1))
    half: FloatArray = np.kaiser(2 * n + 1, _BETA)[n:] * sinc
    half.setflags(write=False)
    return half


def resample_kaiser(wav: Array32, orig_sr: int, new_sr: int) -> Array32:
    """Resample as resampy 0.4 does by default: J. O. Smith, "Digital Audio Resampling".

    A windowed sinc is read from a table with linear interpolation. Down-sampling stretches it by a
    whole number of entries, which shifts its cut-off slightly; sums are rounded to float32 after
    every term. Both are repeated here, and no bit differs.

    Args:
        wav: (T,) samples.
        orig_sr: their rate, Hz.
        new_sr: the rate wanted, Hz.

    Returns:
        (floor(T * new_sr / orig_sr),).
    """
    if orig_sr == new_sr:
        return wav
    ratio = float(new_sr) / orig_sr
    scale = min(1.0, ratio)
    window = _half_window() * scale
    table = window, np.diff(window, append=window[-1])
    n_out = int(len(wav) * float(new_sr) / float(orig_sr))
    times: FloatArray = np.arange(n_out) * (1.0 / ratio)
    out = np.zeros(len(times), dtype=np.float32)
    for start in range(0, len(times), _CHUNK):
        part = slice(start, start + _CHUNK)
        whole = times[part].astype(np.int64)
        phase = scale * (times[part] - whole)
        _add_wing(out[part], wav, whole, -1, phase, scale, table)
        _add_wing(out[part], wav, whole + 1, 1, scale - phase, scale, table)
    return out


def _add_wing(
    out: Array32,
    wav: Array32,
    first: npt.NDArray[np.int64],
    direction: int,
    phase: FloatArray,
    scale: float,
    table: tuple[FloatArray, FloatArray],
) -> None:
    """Add one half of the filter to `out`: the samples from index `first` on, outwards."""
    window, slope = table
    step = int(scale * _STEPS)
    position = phase * _STEPS
    entry = position.astype(np.int64)
    between = position - entry
    inside = first + 1 if direction < 0 else len(wav) - first  # samples there are on this side
    n_taps = np.minimum(inside, (len(window) - entry) // step)
    for tap in range(int(n_taps.max(initial=0))):
        live = tap < n_taps
        index = np.where(live, entry + tap * step, 0)
        weight = window[index] + between * slope[index]
        sample = wav[np.where(live, first + direction * tap, 0)]
        out += np.where(live, weight * sample, 0.0)


def original_hop(settings: F0Settings) -> int:
    """Samples at 16 kHz between the original's frames: the exact number cut to a whole one.

    Raises:
        ConfigError: nothing is left.
    """
    hop = int(settings.hop_length * SAMPLING_RATE / settings.sampling_rate)
    if hop < 1:
        raise ConfigError(
            f"a hop of {settings.hop_length} samples at {settings.sampling_rate} Hz is too short for"
            " crepe in compat mode; use a longer hop"
        )
    return hop


def original_pitch(
    salience: Tensor,
    loud: npt.NDArray[np.bool_],
    bins: tuple[int, int],
    threshold: float,
    random: np.random.RandomState,
) -> tuple[Array32, Array32]:
    """Decode all frames of a clip.

    Args:
        salience: (F, 360) float32.
        loud: (F,) frames that are not silent.
        bins: first bin of the range, and the one after the last.
        threshold: frames whose periodicity is below it are unvoiced.
        random: where the dither comes from.

    Returns:
        Pitch (F,) in Hz, 0 = unvoiced, and periodicity (F,).
    """
    parts = [decode_dithered(part, bins, random) for part in torch.split(salience, _BATCH)]
    pitch = np.concatenate([part[0] for part in parts])
    periodicity = np.where(loud, median3(np.concatenate([part[1] for part in parts])), 0)
    periodicity = periodicity.astype(np.float32)
    pitch[periodicity < threshold] = np.nan
    return np.nan_to_num(_mean3(pitch), nan=0.0), periodicity


def decode_dithered(
    salience: Tensor, bins: tuple[int, int], random: np.random.RandomState
) -> tuple[Array32, Array32]:
    """Decode frames that share one path.

    Args:
        salience: (F, 360) float32.
        bins: first bin of the range, and the one after the last.
        random: where the dither comes from, triangular and up to a bin wide to either side.

    Returns:
        Pitch (F,) in Hz, and periodicity (F,), the salience of the path.
    """
    first, stop = bins
    masked = salience.clone()
    masked[:, :first] = -torch.inf
    masked[:, stop:] = -torch.inf
    scores = np.log(torch.softmax(masked, dim=1).numpy() + _TINY)
    # A step beyond the triangle has probability 0, raised to _TINY as well.
    transitions = triangular_transitions(salience.shape[1], leap=float(np.log(_TINY)))
    path = torch.from_numpy(viterbi([scores], transitions)[0])
    cents = CENTS_PER_BIN * path + FIRST_BIN_CENTS
    noise = random.triangular(0, 0.5, 1, len(path)) * (2 * CENTS_PER_BIN) - CENTS_PER_BIN
    pitch = 10 * 2 ** ((cents + torch.from_numpy(noise).float()) / 1200)
    return pitch.numpy(), masked.gather(1, path[:, None])[:, 0].numpy()


def median3(x: Array32) -> Array32:
    """Median of every three neighbours; at the ends the smaller of the two there are."""
    median: Array32 = x.copy()
    if len(x) < 2:
        return median
    median[0], median[-1] = min(x[0], x[1]), min(x[-2], x[-1])
    median[1:-1] = np.median(np.stack([x[:-2], x[1:-1], x[2:]]), axis=0)
    return median


def _mean3(x: Array32) -> Array32:
    """Mean of the numbers among every three neighbours, NaN where there are none: fills the frames
    beside voiced ones.
    """
    known = np.pad(np.isfinite(x), 1)
    values = np.pad(np.nan_to_num(x, nan=0.0), 1)
    total = values[:-2] + values[1:-1] + values[2:]
    count = known[:-2].astype(np.float32) + known[1:-1] + known[2:]
    mean: Array32 = total / np.maximum(count, np.float32(1))
    mean[mean == 0] = np.nan
    return mean
