"""MIDI files: the contour comes back, notes are stable, files of others are read as a voice."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest

from svc.audio.pitch import F0Track, cents
from svc.errors import CurveError, MissingDependencyError
from svc.f0.curve import FrameGrid, read_curve, write_curve
from svc.f0.midi import midi_bytes, read_midi
from svc.f0.midi_notes import Note, segment

GRID = FrameGrid()
STEP = GRID.frame_seconds


def contour(*parts: tuple[float, float, float], vibrato: float = 0.0) -> F0Track:
    """Parts of (seconds, first note, last note); note 0 is a pause. Vibrato in cents at 6 Hz."""
    pitches = []
    for seconds, first, last in parts:
        n = round(seconds / STEP)
        notes = np.linspace(first, last, n) + vibrato / 100 * np.sin(
            2 * np.pi * 6 * np.arange(n) * STEP
        )
        pitches.append(np.where(first > 0, 440 * 2 ** ((notes - 69) / 12), 0))
    f0 = np.concatenate(pitches).astype(np.float32)
    return F0Track(f0, (f0 > 0).astype(np.float32))


def notes_of(track: F0Track, reach: float = 12) -> list[tuple[float, float, int]]:
    return [
        (round(note.start * STEP, 1), round(note.end * STEP, 1), note.number)
        for note in segment(track, STEP, reach=reach)
    ]


# ------------------------------------------------------------------------------ notes


@pytest.mark.parametrize("vibrato", [0, 50, 100])
def test_a_melody_is_its_notes(vibrato: float) -> None:
    track = contour(
        (0.5, 60, 60), (0.5, 62, 62), (0.3, 0, 0), (0.4, 62, 62), (0.2, 67, 67), vibrato=vibrato
    )
    assert notes_of(track) == [
        (0.0, 0.5, 60), (0.5, 1.0, 62), (1.3, 1.7, 62), (1.7, 1.9, 67),
    ]  # fmt: skip


def test_a_pitch_between_two_notes_does_not_flutter(rng: np.random.Generator) -> None:
    track = contour((3.0, 60.5, 60.5), vibrato=40)
    noisy = F0Track(
        (track.f0 * 2 ** (rng.normal(0, 0.2, len(track)) / 12)).astype(np.float32), track.uv
    )
    nearest = np.rint(12 * np.log2(noisy.f0 / 440))
    assert np.count_nonzero(np.diff(nearest)) > 30
    assert len(segment(noisy, STEP, reach=12)) <= 3


def test_faults_of_some_frames_make_no_notes() -> None:
    track = contour((1.0, 57, 57))
    f0 = track.f0.copy()
    f0[20:24] *= 2  # an octave
    f0[50] *= 1.3
    assert notes_of(F0Track(f0, track.uv)) == [(0.0, 1.0, 57)]


def test_a_slide_belongs_to_its_notes() -> None:
    track = contour((0.4, 57, 57), (0.12, 57, 64), (0.4, 64, 64))
    assert [number for *_, number in notes_of(track)] == [57, 64]


def test_the_bend_range_is_kept() -> None:
    track = contour((0.2, 57, 57), (0.12, 57, 81), (0.2, 81, 81))
    for reach in (1, 2, 12):
        for note in segment(track, STEP, reach=reach):
            away = 12 * np.log2(track.f0[note.start : note.end] / 440) + 69 - note.number
            assert np.abs(away).max() <= reach


def test_a_small_change_moves_few_borders(rng: np.random.Generator) -> None:
    walk = 60 + np.cumsum(rng.normal(0, 0.25, 2000))
    f0 = (440 * 2 ** ((walk - 69) / 12)).astype(np.float32)
    ones = np.ones(2000, np.float32)
    first = segment(F0Track(f0, ones), STEP, reach=12)
    second = segment(F0Track(f0 * np.float32(2 ** (1 / 1200)), ones), STEP, reach=12)
    shared = {(n.start, n.number) for n in first} & {(n.start, n.number) for n in second}
    assert len(shared) >= 0.8 * len(first)


def test_every_voiced_frame_is_in_one_note(rng: np.random.Generator) -> None:
    f0 = np.exp(rng.uniform(np.log(10), np.log(12000), 500)).astype(np.float32)
    uv = (rng.random(500) < 0.7).astype(np.float32)
    covered = np.zeros(500)
    for note in segment(F0Track(f0, uv), STEP, reach=12):
        assert isinstance(note, Note)
        covered[note.start : note.end] += 1
    assert np.array_equal(covered, uv)


# ------------------------------------------------------------------------------ there and back


@pytest.mark.parametrize(("bend_range", "limit"), [(2, 0.0125), (12, 0.0735), (24, 0.147)])
@pytest.mark.parametrize("grid", [GRID, FrameGrid(16000, 160), FrameGrid(48000, 240)])
def test_the_contour_comes_back(
    tmp_path: Path, rng: np.random.Generator, bend_range: int, limit: float, grid: FrameGrid
) -> None:
    n = 4000
    walk = 60 + np.cumsum(rng.normal(0, 0.3, n)) + rng.normal(0, 0.2, n)
    walk = np.abs((walk - 36) % 96 - 48) + 36  # within 36 to 84
    f0 = (440 * 2 ** ((walk - 69) / 12)).astype(np.float32)
    uv = (np.sin(np.arange(n) / 30) + rng.normal(0, 0.3, n) > -0.5).astype(np.float32)
    write_curve(tmp_path / "a.mid", F0Track(f0, uv), grid, bend_range=bend_range)
    for n_frames in (None, n):
        back = read_curve(tmp_path / "a.mid", grid, n_frames)
        assert np.array_equal(back.uv, uv)
        assert np.abs(cents(back.f0, f0))[uv > 0].max() < limit  # half a bend step of 8192
        assert (back.f0 > 0).all()  # gaps are filled


def test_a_song_that_ends_unvoiced_keeps_its_length() -> None:
    track = contour((0.5, 0, 0), (0.5, 60, 60), (2.0, 0, 0))
    back = read_midi(midi_bytes(track, GRID), "a.mid", GRID)
    assert np.array_equal(back.uv, track.uv)
    silent = F0Track(np.zeros(100), np.zeros(100))
    with pytest.raises(CurveError, match="holds no notes"):
        read_midi(midi_bytes(silent, GRID), "a.mid", GRID)


def test_a_sequencer_may_round_the_ticks() -> None:
    """Files that another program writes again with its own resolution keep frames and contour."""
    track = contour((0.4, 57, 57), (0.3, 60, 62), (0.4, 0, 0), (0.7, 64, 64), vibrato=60)
    file = mido.MidiFile(file=io.BytesIO(midi_bytes(track, GRID)))
    for ticks, tempo in ((480, 500_000), (220, 500_000), (960, 1_200_000)):
        other = mido.MidiFile(ticks_per_beat=ticks)
        events = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=tempo)])
        seconds = before = 0.0
        for message in file:
            seconds += message.time
            if message.type == "set_tempo":
                continue
            tick = round(seconds * 1e6 / tempo * ticks)
            events.append(message.copy(time=int(tick - before)))
            before = tick
        other.tracks.append(events)
        back = read_midi(data_of(other), "a.mid", GRID, len(track))
        assert np.array_equal(back.uv, track.uv)
        assert np.abs(cents(back.f0, track.f0))[track.uv > 0].max() < 0.08


def test_unplayable_pitches_and_ranges() -> None:
    with pytest.raises(CurveError, match=r"3 Hz at 0\.00 s cannot be written"):
        midi_bytes(F0Track(np.full(10, 3.0), np.ones(10)), GRID)
    with pytest.raises(CurveError, match="bend range is 0"):
        midi_bytes(contour((0.1, 60, 60)), GRID, bend_range=0)


# ------------------------------------------------------------------------------ files of others


def data_of(file: mido.MidiFile) -> bytes:
    stream = io.BytesIO()
    file.save(file=stream)
    return stream.getvalue()


def midi(*tracks: list[Any], kind: int = 1, ticks: int = 480) -> bytes:
    """A file from tracks of (absolute tick, message)."""
    file = mido.MidiFile(type=kind, ticks_per_beat=ticks)
    for events in tracks:
        track, before = mido.MidiTrack(), 0
        for tick, message in sorted(events, key=lambda event: event[0]):
            track.append(message.copy(time=tick - before))
            before = tick
        file.tracks.append(track)
    return data_of(file)


def on(number: int, ch: int = 0, velocity: int = 90) -> Any:
    return mido.Message("note_on", note=number, channel=ch, velocity=velocity)


def off(number: int, ch: int = 0) -> Any:
    return mido.Message("note_off", note=number, channel=ch)


def bend(value: int, ch: int = 0) -> Any:
    return mido.Message("pitchwheel", pitch=value, channel=ch)


def control(number: int, value: int, ch: int = 0) -> Any:
    return mido.Message("control_change", control=number, value=value, channel=ch)


def name(text: str) -> Any:
    return mido.MetaMessage("track_name", name=text.encode().decode("latin-1"))


def tempo(microseconds: int) -> Any:
    return mido.MetaMessage("set_tempo", tempo=microseconds)


def sung(data: bytes, seconds: float = 2.0, **settings: Any) -> Callable[[float], float]:
    """Read, and return the MIDI number sung at a time (0 = nothing)."""
    track = read_midi(data, "a.mid", GRID, round(seconds / STEP), **settings)

    def at(second: float) -> float:
        frame = round(second / STEP)
        if track.uv[frame] == 0:
            return 0
        return round(69 + 12 * float(np.log2(track.f0[frame] / 440)), 3)

    return at


def test_notes_and_pauses() -> None:
    at = sung(midi([(0, on(60)), (480, off(60)), (960, on(64)), (1440, on(64, velocity=0))]))
    assert [at(s) for s in (0.1, 0.45, 0.6, 1.1, 1.45, 1.6)] == [60, 60, 0, 64, 64, 0]


def test_tempo_changes_anywhere_count() -> None:
    conductor = [(0, tempo(1_000_000)), (480, tempo(250_000)), (960, tempo(500_000))]
    melody = [(480, on(60)), (960, off(60)), (960, on(62)), (1440, off(62))]
    at = sung(midi(conductor, melody))
    assert [at(s) for s in (0.95, 1.02, 1.2, 1.3, 1.7, 1.78)] == [0, 60, 60, 62, 62, 0]
    # The songs of a format 2 file have nothing to do with each other.
    at = sung(midi(conductor, melody, kind=2))
    assert [at(s) for s in (0.45, 0.55, 1.05)] == [0, 60, 62]


def test_smpte_time() -> None:
    body = midi([(0, on(60)), (1000, off(60))])
    at = sung(body[:12] + bytes((256 - 25, 40)) + body[14:], 1.5)  # 1000 ticks per second
    assert [at(s) for s in (0.5, 0.97, 1.03)] == [60, 60, 0]


def test_running_status() -> None:
    events = bytes.fromhex("00 90 3c 5a  83 60 3c 00  00 3e 5a  83 60 3e 00  00 ff 2f 00")
    data = b"MThd" + bytes.fromhex("00000006 0000 0001 01e0")
    data += b"MTrk" + len(events).to_bytes(4, "big") + events
    at = sung(data)
    assert [at(s) for s in (0.4, 0.6, 1.1)] == [60, 62, 0]


def test_bends_with_and_without_a_range(caplog: pytest.LogCaptureFixture) -> None:
    notes = [(0, on(60)), (480, bend(4096)), (960, bend(-8192)), (1440, bend(0)), (1920, off(60))]
    with caplog.at_level(logging.WARNING):
        at = sung(midi(notes))
        assert [at(s) for s in (0.2, 0.7, 1.2, 1.7)] == [60, 61, 58, 60]  # 2 semitones
    assert "read as reaching 2 semitones" in caplog.text
    caplog.clear()
    at = sung(midi(notes), bend_range=12)
    assert [at(s) for s in (0.7, 1.2)] == [66, 48]
    rpn = [control(101, 0), control(100, 0), control(6, 24), control(38, 50)]
    at = sung(midi([*((0, m) for m in rpn), *notes]))
    assert [at(s) for s in (0.7, 1.2)] == [72.25, 35.5]
    # A parameter of the maker's own is not the bend range; nor is another registered one.
    for select in ((99, 98), (101, 100)):
        other = [*rpn, control(select[0], 1), control(select[1], 2), control(6, 7)]
        assert sung(midi([*((0, m) for m in other), *notes]))(0.7) == 72.25
    assert not caplog.text


def test_where_notes_overlap_the_last_one_is_sung() -> None:
    at = sung(midi([(0, on(60)), (480, on(55)), (960, off(55)), (1440, off(60)), (1440, off(60))]))
    assert [at(s) for s in (0.3, 0.7, 1.2, 1.6)] == [60, 55, 60, 0]
    chord = [
        (0, on(60)),
        (0, on(67)),
        (0, on(64)),
        (960, off(67)),
        (1440, off(64)),
        (1500, off(60)),
    ]
    at = sung(midi(chord))
    assert [at(s) for s in (0.3, 1.2, 1.53)] == [67, 64, 60]


def test_the_track_with_most_notes_is_sung_or_the_one_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    piano = [(0, name("Piano")), (0, on(40)), (960, off(40))]
    voice = [(0, name("声"))] + [
        event for i in range(4) for event in ((240 * i, on(70 + i)), (240 * i + 200, off(70 + i)))
    ]
    drums = [event for i in range(50) for event in ((9 * i, on(36, 9)), (9 * i + 5, off(36, 9)))]
    data = midi([(0, name("empty"))], piano, voice, drums)
    with caplog.at_level(logging.WARNING):
        assert sung(data)(0.3) == 71
    assert (
        'track 2 is sung, it has most notes, of 1 "Piano" (1 notes), 2 "声" (4 notes)'
        in caplog.text
    )
    caplog.clear()
    for wanted in ("1", "piano"):
        assert sung(data, wanted=wanted)(0.3) == 40
    assert sung(data, wanted="声")(0.3) == 71
    assert not caplog.text
    with pytest.raises(CurveError, match='no track "bass"; it has 1 "Piano"'):
        sung(data, wanted="bass")


def test_channels_of_a_single_track_are_parts() -> None:
    one = [(0, on(40, 1)), (1000, off(40, 1)), (0, on(60, 2)), (300, off(60, 2)), (400, on(62, 2)),
           (900, off(62, 2)), (0, bend(8191, 1))]  # fmt: skip
    data = midi(one, kind=0)
    assert sung(data)(0.2) == 60
    assert sung(data, wanted="channel 2")(0.2) == pytest.approx(42, abs=0.01)


def test_a_note_that_never_ends_lasts_until_the_track_does() -> None:
    end = mido.MetaMessage("end_of_track")
    at = sung(midi([(0, on(60)), (960, end)]))
    assert [at(s) for s in (0.9, 1.1)] == [60, 0]


def test_notes_beyond_the_song_are_an_error_and_a_short_file_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = midi([(0, on(60)), (2400, off(60))])
    with pytest.raises(CurveError, match=r"last until 2\.50 s, the song 2\.00 s"):
        sung(data, 2.0)
    sung(data, 2.45)  # a tenth of a second is let through
    sung(data, 2.6)
    assert not caplog.text
    with caplog.at_level(logging.WARNING):
        sung(data, 10.0)
    assert "ends at 2.50 s, the song at 10.00 s" in caplog.text


def test_damaged_files(rng: np.random.Generator) -> None:
    whole = midi_bytes(contour((1.0, 60, 60), vibrato=30), GRID)
    bad = [whole[:n] for n in (4, 10, 14, 20, 200, len(whole) - 3)]
    bad += [whole[:12] + division + whole[14:] for division in (b"\0\0", b"\xe7\0")]
    for data in bad:
        with pytest.raises(CurveError, match=r"no readable MIDI file|holds no notes") as caught:
            read_midi(data, "a.mid", GRID)
        assert "\n" not in str(caught.value)
    for _ in range(300):
        data = bytearray(whole)
        for place in rng.integers(4, len(data), 3):
            data[place] = rng.integers(256)
        with contextlib.suppress(CurveError):
            read_midi(bytes(data), "a.mid", GRID, 87)


def test_without_mido_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mido", None)
    with pytest.raises(MissingDependencyError, match=r"svc\[midi\]"):
        midi_bytes(contour((0.1, 60, 60)), GRID)
