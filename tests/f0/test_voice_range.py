"""Ranges of voices and the shift that fits a song to one."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svc.audio.io import read_audio
from svc.audio.pitch import F0Track
from svc.audio.resample import resample
from svc.demo.singer import DEMO_HIGH, DEMO_LOW, sing_contour
from svc.f0 import build_f0_predictor
from svc.f0.voice_range import (
    FITS,
    MARGIN,
    NEARLY,
    PERCENTS,
    Choice,
    Pitches,
    VoiceRange,
    choose_transpose,
    hz_to_midi,
    note_hz,
    note_name,
)

STEP = 0.01  # seconds per frame


def track_of(midi: Any, voiced: Any = 1.0) -> F0Track:
    """A track of MIDI numbers (N,)."""
    f0 = 440.0 * 2.0 ** ((np.asarray(midi, dtype=np.float64) - 69) / 12)
    return F0Track(f0.astype(np.float32), np.broadcast_to(np.float32(voiced), f0.shape))


def pitches_of(midi: Any) -> Pitches:
    return Pitches.of([track_of(midi)], STEP)


def melody(rng: np.random.Generator, low: float, high: float, notes: int = 40) -> np.ndarray:
    """Notes of 0.3 s, most of them near the middle, with vibrato; reaches both ends."""
    middle, width = (low + high) / 2, (high - low) / 2
    heights = middle + width * np.clip(rng.normal(0, 0.45, notes), -0.95, 0.95)
    heights[:2] = low + 0.3, high - 0.3
    vibrato = 0.3 * np.sin(2 * np.pi * 5.5 * STEP * np.arange(30 * notes))
    return np.repeat(heights, 30) + vibrato


def range_of(midi: Any) -> VoiceRange:
    voice = VoiceRange.of(pitches_of(midi))
    assert voice is not None
    return voice


# ---- notes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hz", "name"), [(440.0, "A4"), (261.63, "C4"), (110.5, "A2"), (27.5, "A0"), (1046.5, "C6")]
)
def test_names_of_notes(hz: float, name: str) -> None:
    assert note_name(hz) == name
    assert note_hz(name) == pytest.approx(hz, rel=0.01)


def test_sharps_flats_and_octaves() -> None:
    assert note_hz("C#4") == note_hz("db4") == pytest.approx(277.183, abs=1e-3)
    assert note_hz("Cb4") == note_hz("B3")
    assert note_hz("B#3") == note_hz("C4")
    for midi in range(21, 109):
        assert hz_to_midi(note_hz(note_name(440 * 2 ** ((midi - 69) / 12)))) == pytest.approx(midi)


@pytest.mark.parametrize("name", ["H4", "A", "A44", "", "A#b4", "440"])
def test_what_is_no_note(name: str) -> None:
    with pytest.raises(ValueError, match="is no note"):
        note_hz(name)


# ---- measuring -----------------------------------------------------------------------------------


def test_quantiles_and_histogram_of_a_glide() -> None:
    voice = range_of(np.linspace(48, 60, 10001))
    expected = 48 + 12 * np.array(PERCENTS) / 100
    np.testing.assert_allclose(hz_to_midi(voice.quantiles), expected, atol=1e-3)
    assert voice.seconds == pytest.approx(100.01)
    assert voice.first_note == 48
    assert len(voice.histogram) == 13
    assert sum(voice.histogram) == pytest.approx(voice.seconds, abs=0.01)
    np.testing.assert_allclose(voice.histogram[1:-1], 100.01 / 12, rtol=2e-3)
    assert str(voice) == "C3-C4"
    assert note_name(voice.median) == "F#3"


def test_unvoiced_frames_and_clicks_do_not_count() -> None:
    midi, voiced = np.full(200, 60.0), np.zeros(200)
    voiced[10:60] = 1
    midi[100:104], voiced[100:104] = 90.0, 1  # 40 ms
    midi[150:156], voiced[150:156] = 70.0, 1  # 60 ms
    pitches = Pitches.of([track_of(midi, voiced)], STEP)
    assert pitches.seconds == pytest.approx(0.56)
    assert sorted(set(np.round(pitches.midi, 3))) == [60.0, 70.0]


def test_voiced_frames_without_a_pitch_do_not_count() -> None:
    pitches = Pitches.of([F0Track(np.zeros(100, "f4"), np.ones(100, "f4"))], STEP)
    assert pitches.seconds == 0
    assert VoiceRange.of(pitches) is None
    assert VoiceRange.of(Pitches.of([], STEP)) is None


def test_several_clips_count_by_their_length() -> None:
    long, short = np.full(900, 50.0), np.full(100, 62.0)
    pitches = Pitches.of([track_of(short), track_of(long)], STEP)
    assert np.all(np.diff(pitches.midi) >= 0)
    voice = VoiceRange.of(pitches)
    assert voice is not None
    assert voice.quantiles[:5] == (pytest.approx(note_hz("D3"), abs=1e-3),) * 5
    assert voice.histogram[0] == pytest.approx(9.0)
    assert voice.histogram[-1] == pytest.approx(1.0)


def test_slips_of_the_predictor_do_not_widen_the_range() -> None:
    """4 % octave errors on both sides: the 1st and 99th percentile lie among them."""
    sung = np.linspace(55, 67, 9200)
    slips = np.concatenate([np.linspace(43, 46, 400), np.linspace(79, 82, 400)])
    voice = range_of(np.concatenate([sung, slips]))
    assert hz_to_midi(voice.quantiles[0]) < 46 < 79 < hz_to_midi(voice.quantiles[-1])
    low, high = hz_to_midi([voice.low, voice.high])
    assert 50 <= low <= 52
    assert 70 <= high <= 72


def test_plain_values_survive_json_and_a_checkpoint(tmp_path: Path) -> None:
    from svc.checkpoint import load_checkpoint, save_checkpoint

    voice = range_of(melody(np.random.default_rng(1), 45, 64))
    plain = voice.to_plain()
    assert VoiceRange.from_plain(json.loads(json.dumps(plain))) == voice
    save_checkpoint({"svc": {"voice_range": {"alice": plain}}}, tmp_path / "G.pth")
    read = load_checkpoint(tmp_path / "G.pth")["svc"]["voice_range"]["alice"]
    assert VoiceRange.from_plain(read) == voice


GOOD: dict[str, Any] = range_of(np.linspace(48, 60, 1001)).to_plain()


@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        {},
        {"hz": {}},
        {**GOOD, "hz": {**GOOD["hz"], "50": "x"}},
        {**GOOD, "hz": {**GOOD["hz"], "50": None}},
        {**GOOD, "hz": {**GOOD["hz"], "50": math.nan}},
        {**GOOD, "hz": {**GOOD["hz"], "1": 0.0}},
        {**GOOD, "hz": {**GOOD["hz"], "99": 1e9}},
        {**GOOD, "hz": {**GOOD["hz"], "50": 20.0}},
        {**GOOD, "seconds": -1.0},
        {**GOOD, "first_note": math.inf},
        {**GOOD, "seconds_per_note": 3},
        {**GOOD, "seconds_per_note": [-1.0]},
    ],
)
def test_damaged_values_are_refused(values: Any) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        VoiceRange.from_plain(values)
    assert type(caught.value) is ValueError


def test_a_range_between_two_notes() -> None:
    voice = VoiceRange.between(note_hz("A2"), note_hz("E4"))
    assert str(voice) == "A2-E4"
    assert (voice.low, voice.high) == pytest.approx((110.0, 329.628), abs=1e-3)
    assert hz_to_midi(voice.median) == pytest.approx((45 + 64) / 2, abs=0.01)
    assert voice.seconds == 0
    with pytest.raises(ValueError, match="must rise"):
        VoiceRange.between(300.0, 200.0)


def test_a_mix_lies_between_its_voices() -> None:
    low, high = VoiceRange.between(100, 200), VoiceRange.between(200, 400)
    half = VoiceRange.mixed([(low, 1.0), (high, 1.0)])
    assert half.low == pytest.approx(100 * math.sqrt(2))
    assert VoiceRange.mixed([(low, 0.0), (high, 3.0)]).quantiles == pytest.approx(high.quantiles)
    nearly = VoiceRange.mixed([(low, 0.9), (high, 0.1)])
    assert nearly.high == pytest.approx(200 * 2**0.1)
    for wrong in ([], [(low, 0.0)], [(low, -1.0), (high, 2.0)]):
        with pytest.raises(ValueError, match="a mix needs"):
            VoiceRange.mixed(wrong)


# ---- choosing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("octaves", [False, True])
def test_a_mans_song_for_a_woman_and_back(octaves: bool) -> None:
    rng = np.random.default_rng(3)
    man, woman = range_of(melody(rng, 45, 64, 400)), range_of(melody(rng, 57, 76, 400))
    song = pitches_of(melody(rng, 46, 63))
    up = choose_transpose(song, woman, whole_octaves=octaves)
    assert abs(up.semitones - 12) <= (0 if octaves else 1)
    assert up.outside_before > 0.3
    assert up.outside_after <= FITS
    assert up.reason == "it fits"
    down = choose_transpose(pitches_of(melody(rng, 58, 75)), man, whole_octaves=octaves)
    assert abs(down.semitones + 12) <= (0 if octaves else 1)
    assert choose_transpose(song, man) == Choice(0, 0.0, 0.0, "the song fits as it is")


def test_moving_the_song_moves_the_choice_back() -> None:
    """As long as the song does not fit unmoved, and the shift stays within the limit."""
    rng = np.random.default_rng(4)
    for _ in range(20):
        low, width = rng.uniform(40, 60), rng.uniform(8, 20)
        voice = range_of(melody(rng, low, low + width, 200))
        notes = melody(rng, low + rng.uniform(-30, -22), low + width + rng.uniform(-26, -18))
        first = choose_transpose(pitches_of(notes), voice)
        assert 14 < first.semitones < 34
        for moved in range(-20, 9):
            choice = choose_transpose(pitches_of(notes + moved), voice)
            assert choice.semitones == first.semitones - moved
            assert choice.outside_after == pytest.approx(first.outside_after, abs=0.002)


def test_nothing_leaves_less_outside_than_the_choice() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        low = rng.uniform(36, 60)
        voice = range_of(melody(rng, low, low + rng.uniform(3, 24), 100))
        start = rng.uniform(30, 70)
        song = pitches_of(melody(rng, start, start + rng.uniform(3, 36)))
        for octaves in (False, True):
            choice = choose_transpose(song, voice, whole_octaves=octaves)
            assert choice.outside_before == voice.share_outside(song)
            assert choice.outside_after == voice.share_outside(song, choice.semitones)
            assert choice.outside_after <= choice.outside_before
            shifts = range(-60, 61, 12 if octaves else 1)
            best = min(voice.share_outside(song, shift) for shift in shifts)
            assert choice.outside_after <= max(FITS, best + NEARLY, 1.1 * best) + 1e-12
            assert choice.semitones in shifts
            if choice.semitones == 0:
                assert choice.outside_after <= max(FITS, best + NEARLY)


def test_more_lies_outside_the_farther_a_song_is_moved_away() -> None:
    rng = np.random.default_rng(6)
    voice = range_of(melody(rng, 50, 68, 200))
    song = pitches_of(melody(rng, 51, 67))
    up = [voice.share_outside(song, shift) for shift in range(40)]
    down = [voice.share_outside(song, -shift) for shift in range(40)]
    for shares in (up, down):
        assert shares[0] <= FITS
        assert shares[-1] == 1.0
        assert np.all(np.diff(shares) >= 0)


def test_the_margin_is_half_a_semitone() -> None:
    voice = VoiceRange.between(note_hz("C3"), note_hz("C4"))
    inside, outside = 60 + MARGIN - 0.02, 60 + MARGIN + 0.02
    assert voice.share_outside(pitches_of(np.full(10, inside))) == 0
    assert voice.share_outside(pitches_of(np.full(10, outside))) == 1


def test_equally_good_shifts_bring_the_medians_together() -> None:
    """A narrow song fits a wide voice in many places; it is sung in the middle of the voice."""
    voice = range_of(np.linspace(40, 70, 3001))
    choice = choose_transpose(pitches_of(np.linspace(76, 80, 400)), voice)
    assert choice.semitones == 55 - 78
    # As good on either side: the smaller shift.
    choice = choose_transpose(pitches_of(np.full(400, 75.5)), voice)
    assert choice.semitones == -20


def test_a_song_that_fits_up_to_a_small_share_stays() -> None:
    voice = VoiceRange.between(note_hz("C3"), note_hz("C4"))
    for high, semitones in ((4, 0), (7, -6)):
        song = np.concatenate([np.full(100 - high, 60.0), np.full(high, 62.0)])
        assert choose_transpose(pitches_of(song), voice).semitones == semitones


def test_a_song_wider_than_the_voice_says_so() -> None:
    voice = VoiceRange.between(note_hz("C4"), note_hz("G4"))
    choice = choose_transpose(pitches_of(np.linspace(40, 80, 4001)), voice)
    assert choice.outside_after > 0.7
    # 8 of 40 semitones are reached from every place: no shift is worth it.
    assert (choice.semitones, choice.reason) == (0, "no shift fits better")
    low = choose_transpose(pitches_of(np.linspace(30, 50, 2001)), voice)
    assert low.semitones > 0
    assert low.reason == "the best there is"


@pytest.mark.parametrize("octaves", [False, True])
def test_songs_of_almost_nothing(octaves: bool) -> None:
    voice = VoiceRange.between(note_hz("C4"), note_hz("C5"))
    for tracks in ([], [F0Track(np.zeros(0, "f4"), np.zeros(0, "f4"))], [track_of([50] * 9, 0.0)]):
        choice = choose_transpose(Pitches.of(tracks, STEP), voice, whole_octaves=octaves)
        assert choice == Choice(0, 0.0, 0.0, "nothing in the song is voiced")
    one = Pitches(np.array([54.0]), STEP)
    assert choose_transpose(one, voice, whole_octaves=octaves).semitones == 12


def test_a_voice_of_a_single_note() -> None:
    """Too little to know a voice by: the song is centred on what is known."""
    voice = range_of(np.full(10, 69.0))
    choice = choose_transpose(pitches_of(melody(np.random.default_rng(8), 40, 60)), voice)
    assert 15 <= choice.semitones <= 23
    assert choose_transpose(pitches_of([68.8] * 10), voice).semitones == 0
    octave = choose_transpose(pitches_of([56.9] * 10), voice, whole_octaves=True)
    assert octave.semitones == 12


# ---- through a predictor -------------------------------------------------------------------------


def sung(midi: np.ndarray, voice: Any, seed: int) -> F0Track:
    """What pm hears of the synthetic singer; `midi` at 100 values a second."""
    f0 = 440 * 2 ** ((np.repeat(midi, 441) - 69) / 12)
    rng = np.random.default_rng(seed)
    return build_f0_predictor("pm")(sing_contour(f0, voice=voice, rng=rng).wav)


def test_the_synthetic_singers() -> None:
    """Known ranges, heard by a predictor: C3-C4 and C4-C5."""
    rng = np.random.default_rng(9)
    frame = 512 / 44100
    low = sung(melody(rng, 48, 60), DEMO_LOW, 1)
    high = sung(melody(rng, 60, 72), DEMO_HIGH, 2)
    song = sung(melody(rng, 49, 59), DEMO_LOW, 3)
    voices = [VoiceRange.of(Pitches.of([track], frame)) for track in (low, high)]
    assert voices[0] is not None
    assert voices[1] is not None
    assert abs(hz_to_midi(voices[0].low) - 48) < 1
    assert abs(hz_to_midi(voices[0].high) - 60) < 1
    assert abs(hz_to_midi(voices[1].low) - 60) < 1
    assert abs(hz_to_midi(voices[1].high) - 72) < 1
    heard = Pitches.of([song], frame)
    assert choose_transpose(heard, voices[0]).semitones == 0
    assert abs(choose_transpose(heard, voices[1]).semitones - 12) <= 1
    assert choose_transpose(heard, voices[1], whole_octaves=True).semitones == 12


@pytest.fixture(scope="module")
def heard(shared: Path) -> Callable[..., Pitches]:
    """A function: name of a real singer, which recordings -> their pitches, by pm."""
    known: dict[Path, F0Track] = {}
    predictor = build_f0_predictor("pm")

    def hear(name: str, which: slice = slice(None)) -> Pitches:
        paths = sorted((shared / "audio/singing" / name).glob("*.flac"))[which]
        assert paths
        for path in paths:
            if path not in known:
                wav, sr = read_audio(path)
                known[path] = predictor(resample(wav, sr, 44100))
        return Pitches.of([known[path] for path in paths], 512 / 44100)

    return hear


REAL = {  # name -> what a musician would say of the clips, as MIDI with 2.5 semitones to spare
    "gts_es_bass_1": (47, 63),
    "gts_en_tenor_1": (56, 67),
    "gts_zh_alto_1": (54, 69),
    "gts_ko_soprano_1": (64, 76),
}


def test_real_singers(heard: Callable[..., Pitches]) -> None:
    voices = {}
    for name, (low, high) in REAL.items():
        voice = VoiceRange.of(heard(name))
        assert voice is not None
        assert abs(hz_to_midi(voice.low) - low) < 2.5, (name, str(voice))
        assert abs(hz_to_midi(voice.high) - high) < 2.5, (name, str(voice))
        voices[name] = voice
        own = choose_transpose(heard(name), voice)
        assert own.semitones == 0
        assert own.outside_before <= FITS
    soprano, bass = "gts_ko_soprano_1", "gts_es_bass_1"
    up = choose_transpose(heard(bass), voices[soprano])
    assert 9 <= up.semitones <= 13
    assert up.outside_before > 0.9
    assert up.outside_after < 0.05
    down = choose_transpose(heard(soprano), voices[bass])
    assert -15 <= down.semitones <= -9
    assert down.outside_before > 0.9
    assert down.outside_after < 0.05
    for name, song, octave in ((soprano, bass, 12), (bass, soprano, -12)):
        choice = choose_transpose(heard(song), voices[name], whole_octaves=True)
        assert choice.semitones == octave
        assert choice.outside_after < 0.1
    # A tenor and an alto sing much the same notes.
    tenor = choose_transpose(heard("gts_en_tenor_1"), voices["gts_zh_alto_1"])
    assert tenor.semitones == 0


def test_other_songs_of_the_same_singer_stay_where_they_are(heard: Callable[..., Pitches]) -> None:
    """Half of the recordings are the voice, the others the song, and the other way round."""
    names = ("gts_ru_alto_1", "gts_zh_alto_1", "gts_ja_tenor_1")
    for name, half in itertools.product(names, (0, 1)):
        voice = VoiceRange.of(heard(name, slice(half, None, 2)))
        assert voice is not None
        song = heard(name, slice(1 - half, None, 2))
        assert abs(choose_transpose(song, voice).semitones) <= 2
        assert choose_transpose(song, voice, whole_octaves=True).semitones == 0
        assert voice.share_outside(song, 12) > 0.3
