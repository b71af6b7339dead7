"""What the synthetic singer sings: notes with syllables, and how a voice performs them.

`compose` draws a melody, `perform` turns notes into control curves (legato, vibrato, consonants,
breaths, releases) and has `singer.render` sing them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from svc.demo.singer import HOP, SAMPLING_RATE, Controls, Performance, Voice, render, smooth
from svc.demo.tract import CONSONANTS, NASAL_POLE, NOISES, PHONEMES, VOWELS, FloatArray

# major, minor, pentatonic
_SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9))
_ONSETS = ("", *CONSONANTS)  # a syllable may start with its vowel
_TAIL_SECONDS = 0.18  # silence after the last note
_STEPS = (-4, -3, -2, -1, -1, 0, 1, 1, 2, 3, 4)  # scale degrees from note to note


@dataclass(frozen=True)
class Note:
    """One sung syllable.

    Attributes:
        start: when the vowel begins, seconds; the consonant comes just before.
        seconds: length of the vowel, up to the next consonant or the release.
        midi: pitch, MIDI number (69 = 440 Hz).
        onset: a key of `tract.CONSONANTS`, or "" for none.
        vowel: a key of `tract.VOWELS`.
        loudness: amplitude, 1 = normal.
    """

    start: float
    seconds: float
    midi: float
    onset: str
    vowel: str
    loudness: float = 1.0

    @property
    def end(self) -> float:
        """When the vowel is over, seconds."""
        return self.start + self.seconds

    @property
    def begin(self) -> float:
        """When its consonant starts, seconds."""
        return self.start - (CONSONANTS[self.onset].seconds if self.onset else 0.0)


def compose(
    voice: Voice,
    seconds: float,
    rng: np.random.Generator,
    *,
    phrases: int = 1,
    key: int | None = None,
    range_midi: tuple[int, int] | None = None,
) -> list[Note]:
    """Draw a melody of phrases, each a walk over a scale that ends on a long note.

    Args:
        voice: gives the range.
        seconds: length of the whole, the rests and the silence at both ends included.
        rng: drives every choice.
        phrases: how many; between them is a rest to breathe.
        key: root of the scale, MIDI number; None = drawn.
        range_midi: lowest and highest note; None = the voice's.

    Returns:
        The notes in order of time.
    """
    low, high = range_midi or voice.range_midi
    root = int(rng.integers(low, low + 12)) if key is None else key
    scale = _SCALES[int(rng.integers(len(_SCALES)))]
    ladder = [midi for midi in range(low, high + 1) if (midi - root) % 12 in scale]
    rest, lead = 0.55, 0.4
    phrase_seconds = (seconds - lead - _TAIL_SECONDS - rest * (phrases - 1)) / phrases
    if phrase_seconds < 0.8:
        raise ValueError(f"{seconds} s is too short for {phrases} phrase(s)")
    # Dealt from shuffled decks, each sound turns up equally often, also in a small data set.
    onsets, vowels = _Deck(_ONSETS, rng), _Deck(tuple(VOWELS), rng)
    notes: list[Note] = []
    time = lead
    step = int(rng.integers(len(ladder)))
    for _ in range(phrases):
        count = max(2, round(phrase_seconds / float(rng.uniform(0.36, 0.52))))
        lengths = rng.choice([1.0, 1.0, 1.0, 1.5, 2.0], size=count)
        lengths[-1] = 2.5
        lengths *= phrase_seconds / lengths.sum()
        loud = float(rng.uniform(0.7, 1.0))
        for length in lengths:
            jump = int(rng.choice(_STEPS))
            # Turn back at the ends of the range instead of staying there.
            step += jump if 0 <= step + jump < len(ladder) else -jump
            step = min(max(step, 0), len(ladder) - 1)
            loudness = loud * float(rng.uniform(0.88, 1.12))
            midi = float(ladder[step])
            notes.append(Note(time, float(length), midi, onsets.draw(), vowels.draw(), loudness))
            time += float(length)
        time += rest
    return notes


class _Deck:
    """Deals its cards in random order and shuffles anew when they are used up."""

    def __init__(self, cards: tuple[str, ...], rng: np.random.Generator) -> None:
        self._cards = cards
        self._rng = rng
        self._left: list[str] = []

    def draw(self) -> str:
        if not self._left:
            self._left = [str(card) for card in self._rng.permutation(self._cards)]
        return self._left.pop()


def perform(notes: Sequence[Note], voice: Voice, rng: np.random.Generator) -> Performance:
    """Sing notes.

    Args:
        notes: in order of time, at least one.
        voice: the singer.
        rng: drives vibrato, drift, jitter and noise.

    Returns:
        The performance; it ends shortly after the last note.
    """
    n_frames = int((notes[-1].end + _TAIL_SECONDS) * SAMPLING_RATE / HOP) + 2
    time = np.arange(n_frames) * HOP / SAMPLING_RATE
    f0 = _pitch_curve(notes, voice, time, rng)
    samples = np.arange((n_frames - 1) * HOP)
    return render(
        np.interp(samples, np.arange(n_frames) * HOP, f0),
        _controls(notes, time),
        voice=voice,
        rng=rng,
    )


def _ramp(time: FloatArray, start: float, seconds: float) -> FloatArray:
    """0 before `start`, 1 after `start + seconds`, a smooth step between."""
    x = np.clip((time - start) / max(seconds, 1e-6), 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def _bump(time: FloatArray, up: float, rise: float, down: float, fall: float) -> FloatArray:
    """0, then 1 from `up + rise` to `down`, then 0 from `down + fall`; smooth."""
    return _ramp(time, up, rise) * (1.0 - _ramp(time, down, fall))


def _phrase_starts(notes: Sequence[Note]) -> list[int]:
    """Indices of the notes that follow a rest (or nothing)."""
    return [i for i, note in enumerate(notes) if i == 0 or note.start - notes[i - 1].end > 0.05]


def _pitch_curve(
    notes: Sequence[Note], voice: Voice, time: FloatArray, rng: np.random.Generator
) -> FloatArray:
    """f0 (F,) in Hz: glides between notes, scoops, releases, late vibrato, slow drift, jitter."""
    midi = np.full(len(time), float(notes[0].midi))
    for before, note in itertools.pairwise(notes):
        glide = float(rng.uniform(0.07, 0.16))
        midi += (note.midi - before.midi) * _ramp(time, note.start - 0.6 * glide, glide)
    starts = _phrase_starts(notes)
    for index in starts:
        # Come to the first note from below.
        scoop = float(rng.uniform(0.3, 1.0))
        after = np.maximum(time - notes[index].start, 0.0)
        since = notes[index - 1].end + 0.1 if index else 0.0
        midi -= scoop * np.exp(-after / 0.05) * ((time >= since) & (time < notes[index].end))
    ends = {index - 1 for index in starts if index} | {len(notes) - 1}
    depth = np.zeros(len(time))
    for index, note in enumerate(notes):
        delay = float(rng.uniform(0.18, 0.32))
        amount = voice.vibrato_cents * float(rng.uniform(0.85, 1.15))
        swell = _bump(time, note.start + delay, 0.2, note.end - 0.07, 0.07)
        depth = np.maximum(depth, amount * swell)
        if index in ends:
            midi -= 0.5 * _bump(time, note.end - 0.08, 0.1, note.end + 0.05, 0.05)
    rate = voice.vibrato_rate + 6.0 * smooth(rng.normal(0, 0.35, len(time)), 0.5)
    vibrato = np.sin(2 * np.pi * np.cumsum(rate) * HOP / SAMPLING_RATE + rng.uniform(0, 2 * np.pi))
    drift = smooth(rng.normal(0, 60.0, len(time)), 0.4)
    cents = depth * vibrato + drift + rng.normal(0, voice.jitter_cents, len(time))
    curve: FloatArray = 440.0 * 2.0 ** ((midi - 69.0 + cents / 100.0) / 12.0)
    return curve


def _controls(notes: Sequence[Note], time: FloatArray) -> Controls:
    """Formants, voicing and noise levels (F, ...) of the syllables."""
    order = list(PHONEMES)
    which = np.full(len(time), order.index(notes[0].onset or notes[0].vowel))
    voicing = np.zeros(len(time))
    aspiration = np.zeros(len(time))
    noises = {name: np.zeros(len(time)) for name in NOISES}
    fade = np.ones(len(time))
    starts = set(_phrase_starts(notes))
    for index, note in enumerate(notes):
        vowel = (time >= note.start) & (time < note.end)
        which[time >= note.start] = order.index(note.vowel)
        place = np.clip((time - note.start) / note.seconds, 0, 1)
        voicing[vowel] = (note.loudness * (0.82 + 0.18 * np.sin(np.pi * place)))[vowel]
        if note.onset:
            _add_consonant(note, time, which, voicing, aspiration, noises)
        if index + 1 == len(notes) or index + 1 in starts:
            fade *= 1 - _ramp(time, note.end - 0.13, 0.13) * (time < note.end + 0.2)
        if index in starts:
            # A short breath before the phrase.
            aspiration += 0.035 * _bump(time, note.begin - 0.34, 0.12, note.begin - 0.14, 0.08)
    formants = np.array([PHONEMES[name].formants for name in order])[which]
    widths = np.array([PHONEMES[name].bandwidths for name in order])[which]
    zero = np.array([PHONEMES[name].nasal_zero for name in order])[which]
    return Controls(
        formants=np.exp(smooth(np.log(formants), 0.07)),
        bandwidths=smooth(widths, 0.05),
        zero=NASAL_POLE * np.exp(smooth(np.log(zero / NASAL_POLE), 0.03)),
        voicing=smooth(voicing, 0.035) * fade,
        aspiration=aspiration,
        noises=noises,
    )


def _add_consonant(
    note: Note,
    time: FloatArray,
    which: np.ndarray[tuple[int], np.dtype[np.int64]],
    voicing: FloatArray,
    aspiration: FloatArray,
    noises: dict[str, FloatArray],
) -> None:
    """Write the consonant that leads into a note over the curves, in place."""
    sound = CONSONANTS[note.onset]
    span = (time >= note.begin) & (time < note.start)
    which[span] = list(PHONEMES).index(note.onset)
    voicing[span] = sound.voicing * note.loudness
    if not sound.noise:
        return
    level = sound.noise_level * note.loudness
    opening = note.begin + sound.closure
    if sound.closure:
        since = time - opening
        noises[sound.noise] += level * np.exp(-np.maximum(since, 0) / 0.009) * (since >= 0)
        aspiration += 0.12 * _bump(time, opening, 0.01, note.start - 0.005, 0.03)
    else:
        noises[sound.noise] += level * _bump(
            time, note.begin - 0.01, 0.03, note.start - 0.015, 0.03
        )
