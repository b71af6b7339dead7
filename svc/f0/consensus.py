"""One pitch out of several opinions: which octave, which of them agree, and their median.

Pitch detectors mostly err by whole octaves, each at other moments. So per frame every opinion, and
the notes an octave above and below it, is a candidate; what speaks for one is the certainty of the
opinions that name it, and a little that of those that name its octave. The best path through the
candidates pays for jumps: an octave leap that lasts is kept, one of a few frames that only doubtful
opinions support, against sure ones before and after it, is not.

Letters: M opinions, N frames, K candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_OCTAVE = 1200.0  # cents
_AGREE_CENTS = 50.0  # opinions as near as this name the same pitch
_STRANGE_CENTS = 100.0  # from here on they name another; between, less and less the same
_OCTAVE_SUPPORT = 0.4  # share of an opinion's certainty that goes to the octaves beside it
_GLIDE_CENTS = 200.0  # per frame of 10 ms: faster is a jump
_JUMP_CENTS = 700.0  # from here on a jump costs all
_JUMP_COST = 2.0  # opinions of full certainty, for one frame of 10 ms
_PAUSE_S = 0.15  # after a rest of this length the voice may begin anywhere


@dataclass(frozen=True)
class Consensus:
    """What opinions come to."""

    cents: Array  # (N,) above 1 Hz; NaN where no opinion is voiced
    agreement: Array  # (M, N) 1 = names this pitch, 0.5 = its octave, 0 = neither or unvoiced


def agree(
    cents: Array, certainty: Array, *, frame_seconds: float, low: float, high: float
) -> Consensus:
    """Find the pitch that opinions agree on.

    Args:
        cents: (M, N) above 1 Hz; anything where `certainty` is 0.
        certainty: (M, N) 0..1, 0 = unvoiced.
        frame_seconds: time between frames.
        low: cents, lowest pitch of all.
        high: cents, highest.

    Returns:
        The median of the opinions that agree, those an octave off moved to it; and who agrees.
    """
    opinions = np.where(certainty > 0, cents, np.nan)
    chosen = _best_path(opinions, certainty, frame_seconds, low, high)
    with np.errstate(invalid="ignore"):
        off = opinions - chosen
        octaves = np.round(off / _OCTAVE)
        folded = opinions - _OCTAVE * octaves
        near = (np.abs(off - _OCTAVE * octaves) <= _STRANGE_CENTS) & (np.abs(octaves) <= 2)
    agreement = np.where(near, np.where(octaves == 0, 1.0, 0.5), 0.0)
    return Consensus(_median(np.where(near, folded, np.nan)), agreement)


def _median(values: Array) -> Array:
    """Median over the first axis of what is not NaN; NaN where all are."""
    ordered = np.sort(values, axis=0)  # NaN comes last
    count = np.count_nonzero(~np.isnan(values), axis=0)
    frames = np.arange(values.shape[1])
    lower, upper = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, len(values) - 1)
    middle: Array = (ordered[lower, frames] + ordered[upper, frames]) / 2
    return middle


def _candidates(opinions: Array, certainty: Array, low: float, high: float) -> tuple[Array, Array]:
    """Pitches to choose from, (N, K) cents, NaN for none, and what speaks for each, (N, K)."""
    shifts = np.array([0.0, _OCTAVE, -_OCTAVE])
    pitches = np.concatenate(opinions[:, None] + shifts[:, None])  # (K, N)
    with np.errstate(invalid="ignore"):
        pitches[(pitches < low - _AGREE_CENTS) | (pitches > high + _AGREE_CENTS)] = np.nan
        support = np.zeros_like(pitches)
        for opinion, sure in zip(opinions, certainty, strict=True):
            off = np.abs(pitches - opinion)
            for shift, share in ((0.0, 1.0), (_OCTAVE, _OCTAVE_SUPPORT)):
                near = (_STRANGE_CENTS - np.abs(off - shift)) / (_STRANGE_CENTS - _AGREE_CENTS)
                support += np.nan_to_num(sure * share * near.clip(0, 1))
    support[np.isnan(pitches)] = -np.inf
    return pitches.T, support.T


def _best_path(
    opinions: Array, certainty: Array, frame_seconds: float, low: float, high: float
) -> Array:
    """Candidate of each frame on the path with the most support, (N,) cents, NaN where there is
    none.
    """
    pitches, support = _candidates(opinions, certainty, low, high)
    chosen = np.full(len(pitches), np.nan)
    there = np.flatnonzero(np.isfinite(support).any(axis=1))
    if not len(there):
        return chosen
    # Frames of other lengths count by their time.
    support = support[there] * (frame_seconds / 0.01)
    pitches = pitches[there]
    places = np.where(np.isnan(pitches), 1e6, pitches)  # far from everything, never taken
    rest = (np.diff(there, prepend=there[0]) - 1).clip(0) * frame_seconds
    cost = _JUMP_COST * (1 - rest / _PAUSE_S).clip(0)
    glide = _GLIDE_CENTS * np.maximum(1.0, np.diff(there, prepend=there[0])) * frame_seconds / 0.01
    back = np.zeros(pitches.shape, dtype=np.int64)
    best = support[0]
    columns = np.arange(pitches.shape[1])
    for n in range(1, len(there)):
        leap = np.abs(places[n, :, None] - places[n - 1]) - glide[n]  # (K now, K before)
        reached = best - cost[n] * (leap / (_JUMP_CENTS - _GLIDE_CENTS)).clip(0, 1)
        back[n] = reached.argmax(axis=1)
        best = reached[columns, back[n]] + support[n]
    state = int(best.argmax())
    for n in range(len(there) - 1, -1, -1):
        chosen[there[n]] = pitches[n, state]
        state = int(back[n, state])
    return chosen
