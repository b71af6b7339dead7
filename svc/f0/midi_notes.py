"""Notes of a pitch curve: which note each voiced stretch of frames stands for."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from svc.audio.pitch import F0Track
from svc.f0.viterbi import Transitions, viterbi
from svc.f0.voice_range import hz_to_midi

_LAST_NUMBER = 127
# A path of note numbers pays for each frame its distance to the pitch and for each change a fixed
# price: the hysteresis. Vibrato of a semitone to either side and faults of some frames stay below
# the price; a real step of a semitone pays it back within a tenth of a second.
_CHANGE_PRICE = 0.07  # seconds * semitones
_FARTHEST = 1.5  # semitones; a pitch farther away costs no more: slides get no notes of their own


@dataclass(frozen=True)
class Note:
    """A note on the frame grid."""

    start: int  # first frame
    end: int  # one past the last frame
    number: int  # MIDI note number, 69 = A4 = 440 Hz


def segment(track: F0Track, frame_seconds: float, *, reach: float) -> list[Note]:
    """Divide the voiced stretches of a curve into notes.

    Of all sequences of notes the one is taken whose distances to the curve, summed over the frames,
    and number of changes cost least, so that a small change of the curve moves few borders.

    Args:
        track: the curve.
        frame_seconds: time between frames.
        reach: semitones by which the curve may leave its note, at least 0.5.

    Returns:
        Notes in order; every voiced frame with a pitch is in one.
    """
    voiced = (track.uv > 0) & (track.f0 > 0)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], voiced, [False])).astype(np.int8)))
    starts, ends = edges[::2].tolist(), edges[1::2].tolist()
    if not starts:
        return []
    pitch = hz_to_midi(np.where(voiced, track.f0, 440.0))
    low, high = np.clip((pitch[voiced].min(), pitch[voiced].max()), 0, _LAST_NUMBER)
    states = np.arange(int(np.floor(low)), int(np.ceil(high)) + 1)
    scores = [
        _scores(pitch[start:end], states, reach) for start, end in zip(starts, ends, strict=True)
    ]
    price = _CHANGE_PRICE / frame_seconds
    paths = viterbi(scores, Transitions(np.zeros((1, len(states))), leap=-price))
    notes: list[Note] = []
    for start, path in zip(starts, paths, strict=True):
        borders = [0, *(np.flatnonzero(np.diff(path)) + 1).tolist(), len(path)]
        notes += [
            Note(start + first, start + last, int(states[path[first]]))
            for first, last in pairwise(borders)
        ]
    return notes


def _scores(
    pitch: npt.NDArray[np.float64], states: npt.NDArray[np.int64], reach: float
) -> npt.NDArray[np.float64]:
    """Log-scores (N, S) of each frame for each note: minus the distance; -inf out of reach."""
    away = np.abs(pitch[:, None] - states)
    scores = -np.minimum(away, _FARTHEST)
    # The nearest note is always allowed, or a pitch beyond MIDI's range would allow none.
    allowed = (away <= reach) | (away <= away.min(axis=1, keepdims=True))
    return np.where(allowed, scores, -np.inf)
