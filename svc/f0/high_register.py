"""Notes that a net reads an octave low, told from lower notes by their spectrum.

rmvpe reads pitches above about 1040 Hz an octave too low, and sure of itself: it was trained so. The
same net hears the audio right when that is moved down an octave, so a second reading of it, doubled,
is right there. What remains is to choose, and the spectrum does: a voice at half the frequency has
partials below the note and between its harmonics, a whistle has nothing there.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from svc.audio.mel import stft_magnitude
from svc.devices import exact_device

Track = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

READS_TO_HZ = 1040.0  # rmvpe reads notes above this an octave low
FROM_HZ = READS_TO_HZ * 2 ** (-1 / 12)  # notes from here on may be; a semitone for vibrato

_SR = 16000  # Hz, of the waves here
_HOP = 160  # samples per frame
_WINDOW = 1024  # samples: 15.6 Hz per bin
_BINS_PER_HZ = _WINDOW / _SR
_LOWEST_HZ = 100.0  # rumble below it says nothing about the note
_GAP = 2 ** (3 / 12)  # what lies within three semitones below a note belongs to it (vibrato)
# How far the loudest thing below a note has to lie under it. In 8 minutes of ordinary singing by 17
# real voices (50-800 Hz) it was never more than 14.2 dB under what is loudest from 950 to 2000 Hz.
_PROOF_DB = 20.0  # dB
_SUPPORT_DB = 10.0  # dB, enough beside frames that are proven
_SHORTEST = 5  # proven frames in a row that make a note
_FLOOR = 1e-6  # power of 16-bit rounding noise; an empty spectrum proves nothing
_MARGIN = 50  # frames of context around what is read again


def whistle_spectrum(wave: Tensor) -> Tensor:
    """Power spectrum of a wave: (1, T) at 16 kHz -> (bins, T // 160 + 1)."""
    return stft_magnitude(wave, _WINDOW, _HOP, _WINDOW, center=True)[0].square()


def clearance(power: Tensor, hz: Tensor) -> Tensor:
    """How far everything that a lower voice would have there lies below a note.

    Args:
        power: (bins, N) of `whistle_spectrum`.
        hz: (N,) the note per frame; anything for frames without one.

    Returns:
        (N,) dB between the note (its first or second partial) and the loudest thing from 100 Hz up
        to three semitones under it.
    """
    frames = torch.arange(power.shape[1], device=power.device)
    low, top = int(_LOWEST_HZ * _BINS_PER_HZ), len(power) - 2
    # Partials are read as the loudest of three bins.
    near = torch.nn.functional.max_pool1d(power.T[:, None], 3, stride=1, padding=1)[:, 0].T
    note = torch.zeros_like(hz, dtype=power.dtype)
    for partial in (1, 2):
        bin_of = (hz * partial * _BINS_PER_HZ).round().long()
        level = near[bin_of.clamp(1, top), frames]
        note = torch.where(bin_of <= top, torch.maximum(note, level), note)
    rising = power[low:].cummax(dim=0).values
    under = (hz / _GAP * _BINS_PER_HZ).long().clamp(low, top) - low
    below = rising[under, frames]
    return 10 * torch.log10((note + _FLOOR) / (below + _FLOOR))


def suspects(power: Tensor, f0: Tensor, f0_max: float) -> Flags:
    """Frames that may hold a note above what the net reads, and that it has not read as one.

    Args:
        power: (bins, N) of `whistle_spectrum`.
        f0: (N,) Hz as the net reads it, 0 = unvoiced.
        f0_max: Hz, highest pitch wanted.

    Returns:
        (N,) true for suspects.
    """
    first, last = int(FROM_HZ * _BINS_PER_HZ), int(f0_max * _BINS_PER_HZ) + 1
    band = power[first : last + 1]
    if not len(band):
        return np.zeros(len(f0), dtype=np.bool_)
    loudest = (band.argmax(dim=0) + first) / _BINS_PER_HZ
    doubled = 2 * f0
    note = torch.where((doubled >= FROM_HZ) & (doubled <= f0_max), doubled, loudest)
    proven = (clearance(power, note) >= _PROOF_DB) & (f0 < FROM_HZ)
    flags: Flags = proven.cpu().numpy()
    return _long_enough(flags, flags)


def spans(flags: Flags) -> list[tuple[int, int]]:
    """Stretches to read again: the flagged frames with half a second on both sides, joined.

    Args:
        flags: (N,) frames, 100 per second.

    Returns:
        [(start, stop)] in frames, in order, apart from each other.
    """
    n = len(flags)
    wide = np.zeros(n, dtype=np.bool_)
    for start, stop in _runs(flags):
        wide[max(0, start - _MARGIN) : min(n, stop + _MARGIN)] = True
    return _runs(wide)


def choose(power: Tensor, f0: Tensor, doubled: Tensor, f0_max: float) -> Flags:
    """Frames in which the second reading is the right one.

    It is taken where it is a high note, the first reading is lower or absent, and nothing a lower
    voice would have is within 20 dB of the note; or within 10 dB on frames of the same note around
    such ones, where the echo of an earlier note or noise may be in the way.

    Args:
        power: (bins, N) of `whistle_spectrum`.
        f0: (N,) Hz, first reading, 0 = unvoiced.
        doubled: (N,) Hz, second reading, of the audio moved down an octave, times 2.
        f0_max: Hz, highest pitch wanted.

    Returns:
        (N,) true where `doubled` is to be used.
    """
    higher = (doubled >= FROM_HZ) & (doubled <= f0_max) & (f0 * 2 ** (1 / 12) < doubled)
    clear = clearance(power, doubled)
    notes = doubled.to(exact_device(doubled.device)).double().clamp(min=1.0)
    jumps = torch.log2(notes[1:] / notes[:-1]).abs() > 1 / 12
    candidate: Flags = (higher & (clear >= _SUPPORT_DB)).cpu().numpy()
    proven: Flags = (higher & (clear >= _PROOF_DB)).cpu().numpy()
    return _long_enough(candidate, proven, jumps.cpu().numpy())


def _long_enough(candidate: Flags, proven: Flags, jumps: Flags | None = None) -> Flags:
    """Keep the runs of candidates with at least `_SHORTEST` proven frames; a jump ends a run."""
    kept = np.zeros(len(candidate), dtype=np.bool_)
    for start, stop in _runs(candidate):
        inside = jumps[start : stop - 1] if jumps is not None else np.zeros(0, dtype=np.bool_)
        edges = [start, *(start + 1 + np.flatnonzero(inside)).tolist(), stop]
        for a, b in pairwise(edges):
            kept[a:b] = np.count_nonzero(proven[a:b]) >= _SHORTEST
    return kept


def _runs(flags: Flags) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
