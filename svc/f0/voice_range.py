"""How low and how high a voice sings, and the shift that brings a song into its reach.

A `VoiceRange` is measured on the training clips of a voice and kept in its checkpoints;
`choose_transpose` lays the pitches of a song over it. Nothing here touches files or audio.

    song      ....:::||||||||:::...
    voice                ...::::||||||||||::::....
                         ^low   1 % to 99 % of its time   ^high
    shift     ---------------->  the time that stays outside is least

All pitches are compared as MIDI numbers (69 = A4 = 440 Hz, a semitone each), all shares as time.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from svc.audio.pitch import F0Track

FloatArray = npt.NDArray[np.float64]

PERCENTS = (1, 5, 25, 50, 75, 95, 99)
"""Percentiles of the voiced time that are kept. The outermost bound the range: the notes beyond
them are too rare to have been learnt, or slips of the pitch predictor."""
MARGIN = 0.5  # semitones beyond the range that a voice reaches too: vibrato, another tuning
SLIP = 5.0  # semitones; 1 % lies farther than this beyond 5 % only where a predictor slips
SHORTEST_SECONDS = 0.05  # voiced stretches below it are clicks and slips, not notes
FITS = 0.05  # share of a song that may lie outside of a voice before a shift is looked for
NEARLY = 0.02  # shares of a song that differ by less are the same to the ear
MAX_SHIFT = 60  # semitones
_SLIP_RATIO: float = 2.0 ** (SLIP / 12.0)
_NOTES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
_NOTE = re.compile(r"([A-Ga-g])([#b]?)(-?\d)")


def hz_to_midi(f0: npt.ArrayLike) -> FloatArray:
    """Return MIDI numbers (69 = 440 Hz) of pitches above 0 Hz."""
    midi: FloatArray = 69.0 + 12.0 * np.log2(np.asarray(f0, dtype=np.float64) / 440.0)
    return midi


def note_name(hz: float) -> str:
    """Return the nearest note of a pitch above 0 Hz, like "A4" for 440 Hz."""
    midi = round(float(hz_to_midi(hz)))
    return f"{_NOTES[midi % 12]}{midi // 12 - 1}"


def note_hz(name: str) -> float:
    """Return the pitch of a note in Hz, 440 for "A4"; "C#4" and "Db4" are the same. Raises
    ValueError.
    """
    found = _NOTE.fullmatch(name.strip())
    if found is None:
        raise ValueError(f'"{name}" is no note; write it like A2, C#4 or Eb5')
    letter, sign, octave = found.groups()
    step = _NOTES.index(letter.upper()) + {"#": 1, "b": -1, "": 0}[sign]
    return float(440.0 * 2.0 ** ((12 * (int(octave) + 1) + step - 69) / 12))


@dataclass(frozen=True)
class Pitches:
    """What is sung in a song or in all clips of a voice, whatever its order.

    Attributes:
        midi: (M,) MIDI numbers of the voiced frames, lowest first.
        frame_seconds: time between frames.
    """

    midi: FloatArray
    frame_seconds: float

    @classmethod
    def of(cls, tracks: Iterable[F0Track], frame_seconds: float) -> Pitches:
        """Collect the voiced frames of tracks, apart from stretches below `SHORTEST_SECONDS`.

        Args:
            tracks: all with the same time between frames, each (N,).
            frame_seconds: that time.

        Returns:
            The pitches; M = 0 where nothing is voiced.
        """
        parts = [track.f0[_sung(track, frame_seconds)] for track in tracks]
        f0 = np.concatenate(parts) if parts else np.zeros(0)
        return cls(np.sort(hz_to_midi(f0)), frame_seconds)

    @property
    def seconds(self) -> float:
        """Voiced time."""
        return self.midi.size * self.frame_seconds

    def share_outside(self, low: float, high: float, shift: float = 0.0) -> float:
        """Return the share 0..1 of the voiced time outside of low..high (MIDI), shifted."""
        if self.midi.size == 0:
            return 0.0
        below = np.searchsorted(self.midi, low - shift, side="left")
        above = self.midi.size - np.searchsorted(self.midi, high - shift, side="right")
        return float(below + above) / self.midi.size


def _sung(track: F0Track, frame_seconds: float) -> npt.NDArray[np.bool_]:
    """Mark the frames that are voiced in a stretch of some length, (N,)."""
    voiced = (track.uv > 0.5) & (track.f0 > 0)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], voiced.astype(np.int8), [0]])))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if (end - start) * frame_seconds < SHORTEST_SECONDS:
            voiced[start:end] = False
    return voiced


@dataclass(frozen=True)
class VoiceRange:
    """Which pitches a voice sings, and for how long.

    Attributes:
        seconds: voiced time that was measured; 0 = not measured but given by a person.
        quantiles: Hz at `PERCENTS` of that time, rising.
        first_note: MIDI number of the first bin of the histogram.
        histogram: voiced seconds per semitone, from `first_note` up.

    Raises:
        ValueError: values that no voice has.
    """

    seconds: float
    quantiles: tuple[float, ...]
    first_note: int = 0
    histogram: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        hz = self.quantiles
        numbers = (self.seconds, *hz, *self.histogram)
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            raise ValueError("seconds and pitches must be numbers from 0 up")
        if len(hz) != len(PERCENTS) or not 1 <= hz[0] <= hz[-1] <= 20000:
            raise ValueError(f"{len(PERCENTS)} pitches from 1 to 20000 Hz are needed, not {hz}")
        if any(after < before for before, after in itertools.pairwise(hz)):
            raise ValueError(f"the pitches must rise: {hz}")

    @classmethod
    def of(cls, pitches: Pitches) -> VoiceRange | None:
        """Measure pitches; None where nothing is voiced."""
        if pitches.midi.size == 0:
            return None
        midi = np.percentile(pitches.midi, PERCENTS)
        notes = np.rint(pitches.midi).astype(np.int64)
        counts = np.bincount(notes - notes[0]) * pitches.frame_seconds
        return cls(
            round(pitches.seconds, 3),
            tuple(round(float(hz), 3) for hz in 440.0 * 2.0 ** ((midi - 69.0) / 12.0)),
            int(notes[0]),
            tuple(round(float(count), 3) for count in counts),
        )

    @classmethod
    def between(cls, low: float, high: float) -> VoiceRange:
        """Return the range of a voice of which only the lowest and the highest pitch, Hz, are
        known: every note in between is as frequent as the others. Raises ValueError.
        """
        if not 0 < low <= high:
            raise ValueError(f"the range must rise from above 0 Hz, not {low:g} to {high:g}")
        share = (np.array(PERCENTS) - PERCENTS[0]) / (PERCENTS[-1] - PERCENTS[0])
        return cls(0.0, tuple(round(float(hz), 3) for hz in low * (high / low) ** share))

    @classmethod
    def mixed(cls, voices: Sequence[tuple[VoiceRange, float]]) -> VoiceRange:
        """Return the range of a mix of voices: their percentiles, averaged in semitones.

        Args:
            voices: range and weight >= 0 of each; the weights need not add up to 1.

        Raises:
            ValueError: no weight above 0.
        """
        weights = np.array([weight for _, weight in voices], dtype=np.float64)
        if not voices or weights.min() < 0 or weights.sum() <= 0:
            raise ValueError("a mix needs voices with weights from 0 up, and one above 0")
        weights /= weights.sum()
        table = np.log([voice.quantiles for voice, _ in voices])
        seconds = float(weights @ [voice.seconds for voice, _ in voices])
        return cls(seconds, tuple(float(hz) for hz in np.exp(weights @ table)))

    @property
    def low(self) -> float:
        """Hz, lower end of the range: the 1st percentile, at most `SLIP` below the 5th."""
        return max(self.quantiles[0], self.quantiles[1] / _SLIP_RATIO)

    @property
    def high(self) -> float:
        """Hz, upper end of the range: the 99th percentile, at most `SLIP` above the 95th."""
        return min(self.quantiles[-1], self.quantiles[-2] * _SLIP_RATIO)

    @property
    def median(self) -> float:
        """Hz."""
        return self.quantiles[PERCENTS.index(50)]

    def __str__(self) -> str:
        """Return the range as notes, like "A2-E4"."""
        return f"{note_name(self.low)}-{note_name(self.high)}"

    def summary(self) -> str:
        """Return the range in words: notes, measured time, the middle of the voice."""
        known = f", {self.seconds:.0f} s of voiced sound" if self.seconds else ""
        return f"{self}, half of it above {note_name(self.median)}{known}"

    def share_outside(self, song: Pitches, shift: float = 0.0) -> float:
        """Return the share 0..1 of a song, shifted by semitones, that this voice does not reach."""
        low, high = hz_to_midi([self.low, self.high])
        return song.share_outside(float(low) - MARGIN, float(high) + MARGIN, shift)

    def to_plain(self) -> dict[str, Any]:
        """Return plain values for JSON files and checkpoints."""
        return {
            "seconds": self.seconds,
            "hz": {str(percent): hz for percent, hz in zip(PERCENTS, self.quantiles, strict=True)},
            "first_note": self.first_note,
            "seconds_per_note": list(self.histogram),
        }

    @classmethod
    def from_plain(cls, values: object) -> VoiceRange:
        """Read what `to_plain` returned. Raises ValueError for anything else."""
        if not isinstance(values, Mapping) or not isinstance(values.get("hz"), Mapping):
            raise ValueError('a range is {"seconds": ..., "hz": {"1": ..., "99": ...}}')
        try:
            return cls(
                float(values.get("seconds", 0.0)),
                tuple(float(values["hz"][str(percent)]) for percent in PERCENTS),
                int(values.get("first_note", 0)),
                tuple(float(seconds) for seconds in values.get("seconds_per_note", ())),
            )
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"a range lacks or misspells {error}") from error


@dataclass(frozen=True)
class Choice:
    """The shift chosen for a song.

    Attributes:
        semitones: to add to the song.
        outside_before: share 0..1 of the voiced time that the voice does not reach, unshifted.
        outside_after: the same with the shift.
        reason: why this one, in a few words.
    """

    semitones: int
    outside_before: float
    outside_after: float
    reason: str


def choose_transpose(song: Pitches, voice: VoiceRange, *, whole_octaves: bool = False) -> Choice:
    """Pick the shift that leaves the least time of a song outside of a voice's range.

    Nothing is shifted where at most `FITS` of the song is outside as it is, or where no shift wins
    `NEARLY` of it. Among shifts that are as good as the best (within `NEARLY`, or a tenth of what
    the best leaves outside), the one that brings the medians together is taken, and of two such the
    smaller one.

    Args:
        song: its pitches.
        voice: the range of the target voice.
        whole_octaves: choose among multiples of 12 only, which keep the key of the accompaniment.

    Returns:
        The choice; 0 semitones for a song without any voiced frame.
    """
    before = voice.share_outside(song)
    if song.midi.size == 0:
        return Choice(0, 0.0, 0.0, "nothing in the song is voiced")
    if before <= FITS:
        return Choice(0, before, before, "the song fits as it is")
    step = 12 if whole_octaves else 1
    shifts = range(-(MAX_SHIFT // step) * step, MAX_SHIFT + 1, step)
    outside = {shift: voice.share_outside(song, shift) for shift in shifts}
    best = min(outside.values())
    near = [n for n in shifts if outside[n] <= best + max(NEARLY, 0.1 * best)]
    if outside[0] <= best + NEARLY:
        kind = "whole octave" if whole_octaves else "shift"
        return Choice(0, before, before, f"no {kind} fits better")
    apart = float(hz_to_midi(voice.median)) - float(np.median(song.midi))
    shift = min(near, key=lambda n: (round(abs(apart - n), 6), abs(n)))
    after = outside[shift]
    reason = "it fits" if after <= FITS else "the best there is"
    return Choice(shift, before, after, reason)
