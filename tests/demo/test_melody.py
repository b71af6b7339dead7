from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from svc.demo.melody import Note, compose, perform
from svc.demo.singer import DEMO_HIGH, DEMO_LOW, SAMPLING_RATE, VOICES
from svc.demo.tract import CONSONANTS, VOWELS


def midi_of(f0: np.ndarray) -> np.ndarray:
    return 69 + 12 * np.log2(f0 / 440)


def band_rms(wav: np.ndarray, low: float, high: float) -> float:
    power = np.abs(np.fft.rfft(wav)) ** 2
    frequencies = np.fft.rfftfreq(len(wav), 1 / SAMPLING_RATE)
    return float(np.sqrt(power[(frequencies >= low) & (frequencies < high)].mean()))


@pytest.mark.parametrize("voice", VOICES, ids=lambda voice: voice.name)
def test_melodies_stay_in_range_and_fill_the_time(voice, rng):
    notes = compose(voice, 6.0, rng)
    assert all(voice.range_midi[0] <= note.midi <= voice.range_midi[1] for note in notes)
    assert all(a.end <= b.start + 1e-9 for a, b in itertools.pairwise(notes))
    assert notes[-1].end == pytest.approx(6.0, abs=0.2)
    assert notes[-1].seconds > np.median([note.seconds for note in notes])


def test_phrases_are_separated_by_rests(rng):
    notes = compose(DEMO_HIGH, 12.0, rng, phrases=3)
    gaps = [b.start - a.end for a, b in itertools.pairwise(notes)]
    assert sum(gap > 0.4 for gap in gaps) == 2


def test_a_melody_too_short_to_sing_is_refused(rng):
    with pytest.raises(ValueError, match="too short"):
        compose(DEMO_HIGH, 1.0, rng)


def test_a_minute_holds_every_sound(rng):
    notes = [note for _ in range(13) for note in compose(DEMO_LOW, 4.5, rng)]
    assert {note.onset for note in notes} == {"", *CONSONANTS}
    assert {note.vowel for note in notes} == set(VOWELS)


def test_a_long_note_has_late_vibrato_of_the_voice(rng):
    performance = perform([Note(0.4, 3.0, 57, "", "a")], DEMO_LOW, rng)
    time = np.arange(len(performance.f0)) / SAMPLING_RATE
    cents = 100 * (midi_of(np.maximum(performance.f0, 1)) - 57)
    early = cents[(time > 0.48) & (time < 0.56)]
    late = cents[(time > 1.2) & (time < 3.2)]
    late = np.convolve(late, np.hanning(1500) / np.hanning(1500).sum(), mode="valid")  # no jitter
    assert np.ptp(early[:: SAMPLING_RATE // 100]) < 60
    assert np.ptp(late) == pytest.approx(2 * DEMO_LOW.vibrato_cents, rel=0.4)
    crossings = np.count_nonzero(np.diff(np.sign(late - np.median(late)))) / 2
    assert crossings / (len(late) / SAMPLING_RATE) == pytest.approx(DEMO_LOW.vibrato_rate, abs=1.0)


def test_every_note_reaches_its_pitch(rng):
    steady = dataclasses.replace(DEMO_HIGH, vibrato_cents=0.0)
    notes = compose(steady, 12.0, rng, phrases=3)
    performance = perform(notes, steady, rng)
    for note in notes:
        middle = slice(
            round((note.start + 0.4 * note.seconds) * SAMPLING_RATE),
            round((note.start + 0.5 * note.seconds) * SAMPLING_RATE),
        )
        assert performance.voiced[middle].all()
        assert np.mean(midi_of(performance.f0[middle])) == pytest.approx(note.midi, abs=0.3)


def sung(onset: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The samples of a consonant between two vowels, and where they are voiced."""
    notes = [Note(0.4, 0.6, 60, "", "a"), Note(1.0, 0.6, 60, onset, "a")]
    performance = perform(notes, DEMO_HIGH, rng)
    place = slice(
        round((notes[1].begin + 0.02) * SAMPLING_RATE),
        round((notes[1].start - 0.02) * SAMPLING_RATE),
    )
    return performance.wav[place], performance.voiced[place]


@pytest.mark.parametrize("onset", ["s", "sh", "f", "k", "t"])
def test_unvoiced_consonants_interrupt_the_voice(onset, rng):
    _, voiced = sung(onset, rng)
    assert not voiced[len(voiced) // 4 : -len(voiced) // 4].any()


@pytest.mark.parametrize("onset", ["m", "n", "l", ""])
def test_voiced_consonants_keep_it(onset, rng):
    if onset:
        assert sung(onset, rng)[1].all()
    notes = [Note(0.4, 0.6, 60, "", "a"), Note(1.0, 0.6, 64, onset, "e")]
    performance = perform(notes, DEMO_HIGH, rng)
    assert performance.voiced[round(0.5 * SAMPLING_RATE) : round(1.4 * SAMPLING_RATE)].all()


def test_sibilants_hiss_and_nasals_hum(rng):
    hiss, _ = sung("s", rng)
    hum, _ = sung("m", rng)
    assert band_rms(hiss, 4000, 12000) > 5 * band_rms(hiss, 100, 1000)
    assert band_rms(hum, 100, 600) > 20 * band_rms(hum, 4000, 12000)


def test_a_stop_is_silent_before_its_burst(rng):
    notes = [Note(0.4, 0.6, 60, "", "a"), Note(1.0, 0.6, 60, "k", "a")]
    wav = perform(notes, DEMO_HIGH, rng).wav
    closing = notes[1].begin
    closure = wav[
        round((closing + 0.03) * SAMPLING_RATE) : round((closing + 0.045) * SAMPLING_RATE)
    ]
    burst = wav[round((closing + 0.055) * SAMPLING_RATE) : round((closing + 0.07) * SAMPLING_RATE)]
    assert np.sqrt(np.mean(burst**2)) > 10 * np.sqrt(np.mean(closure**2))


def test_a_phrase_starts_with_a_breath_and_ends_in_silence(rng):
    performance = perform(compose(DEMO_LOW, 4.0, rng), DEMO_LOW, rng)

    def level(part: np.ndarray) -> float:
        return float(20 * np.log10(np.sqrt(np.mean(part**2))))

    tenth = SAMPLING_RATE // 10
    assert -60 < level(performance.wav[tenth : 2 * tenth]) < -35
    assert level(performance.wav[-tenth // 2 :]) < -65
    assert np.max(np.abs(performance.wav)) <= 0.95
