"""Curves on a grid: exact round trips, other grids, lengths, cutting."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from svc.audio.pitch import F0Track, cents
from svc.errors import CurveError, MissingFileError
from svc.f0.curve import (
    FrameGrid,
    cut,
    cut_at,
    describe,
    find_curve,
    fit_length,
    read_curve,
    write_curve,
)

GRID = FrameGrid()


def random_track(rng: np.random.Generator, n: int = 3000) -> F0Track:
    """Values with all 24 bits of a float32 in use, unvoiced stretches filled with anything."""
    f0 = np.exp(rng.uniform(np.log(20), np.log(3000), n)).astype(np.float32)
    uv = (rng.random(n) < 0.6).astype(np.float32)
    return F0Track(f0, uv, rng.random(n).astype(np.float32))


def same(a: F0Track, b: F0Track) -> None:
    np.testing.assert_array_equal(a.f0.view(np.uint32), b.f0.view(np.uint32))
    np.testing.assert_array_equal(a.uv, b.uv)
    if a.confidence is None or b.confidence is None:
        assert a.confidence is b.confidence
    else:
        np.testing.assert_array_equal(a.confidence, b.confidence)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt"])
@pytest.mark.parametrize("grid", [GRID, FrameGrid(48000, 480), FrameGrid(16000, 160)])
def test_text_gives_every_bit_back(
    tmp_path: Path, rng: np.random.Generator, suffix: str, grid: FrameGrid
) -> None:
    track = random_track(rng)
    path = tmp_path / f"new/a{suffix}"
    write_curve(path, track, grid)
    same(read_curve(path, grid), track)
    same(read_curve(path, grid, len(track)), track)


def test_unsure_and_silent_curves_come_back_too(tmp_path: Path) -> None:
    zeros = np.zeros(40, np.float32)
    for track in (
        F0Track(zeros, zeros),
        F0Track(zeros + 220, zeros),
        F0Track(zeros + 220, zeros + 1),
    ):
        write_curve(tmp_path / "a.csv", track, GRID)
        same(read_curve(tmp_path / "a.csv", GRID, 40), track)


def test_the_file_is_what_is_promised(tmp_path: Path) -> None:
    track = F0Track(np.float32([220, 220.5]), np.float32([1, 0]), np.float32([0.25, 1 / 3]))
    write_curve(tmp_path / "a.csv", track, GRID)
    assert (tmp_path / "a.csv").read_bytes() == (
        b"time_s,f0_hz,voiced,confidence\n0.000000,220.0,1,0.25\n0.011610,220.5,0,0.33333334\n"
    )
    write_curve(tmp_path / "a.csv", F0Track(track.f0, track.uv), GRID)
    assert (tmp_path / "a.csv").read_text().splitlines()[1] == "0.000000,220.0,1,"


def test_times_rounded_by_a_spreadsheet_are_still_the_grid(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    track = random_track(rng, 500)
    write_curve(tmp_path / "a.csv", track, GRID)
    lines = (tmp_path / "a.csv").read_text().splitlines()
    rounded = [lines[0]]
    for line in lines[1:]:
        time, rest = line.split(",", 1)
        rounded.append(f"{float(time):.3f},{rest}")
    (tmp_path / "b.csv").write_text("\n".join(rounded))
    same(read_curve(tmp_path / "b.csv", GRID, 500), track)


def other_grid(path: Path, step: float, seconds: float, shift: float = 0.0) -> None:
    """A glide over an octave with a pause from 1.0 to 1.5 s, every `step` seconds."""
    times = np.arange(shift, seconds, step)
    f0 = 200 * 2 ** (times / seconds)
    sung = (times < 1.0) | (times >= 1.5)
    rows = [f"{t:.6f},{f if s else 0:.6f},{int(s)}" for t, f, s in zip(times, f0, sung)]
    path.write_text("time_s,f0_hz,voiced\n" + "\n".join(rows))


@pytest.mark.parametrize("step", [0.010, 0.0058, 0.016, 0.02322, 0.04])
@pytest.mark.parametrize("shift", [0.0, 0.003])
def test_rows_of_another_grid_are_resampled(tmp_path: Path, step: float, shift: float) -> None:
    other_grid(tmp_path / "a.csv", step, 3.0, shift)
    n = int(3.0 * 44100) // 512
    track = read_curve(tmp_path / "a.csv", GRID, n)
    times = np.arange(n) * GRID.frame_seconds
    expected = 200 * 2 ** (times / 3.0)
    sung = (times < 1.0) | (times >= 1.5)
    near_border = (np.abs(times - 1.0) < step) | (np.abs(times - 1.5) < step)
    near_end = (times < step) | (times > 3.0 - 2 * step)
    clear = ~near_border & ~near_end
    assert np.array_equal(track.uv[clear] > 0, sung[clear])
    both = sung & (track.uv > 0) & clear
    assert np.abs(cents(track.f0, expected))[both].max() < 0.01
    # Near a border the nearest voiced row is held.
    assert np.abs(cents(track.f0, expected))[track.uv > 0].max() < 1200 * 2 * step / 3.0
    assert (track.f0 > 0).all()  # filled


def test_between_two_points_the_pitch_is_straight_in_log_hertz(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("time_s,f0_hz\n0,110\n1,440\n2,220\n")
    track = read_curve(tmp_path / "a.csv", GRID, int(2 / GRID.frame_seconds))
    assert track.uv.all()
    times = np.arange(len(track)) * GRID.frame_seconds
    expected = 110 * 2 ** np.interp(times, [0, 1, 2], [0, 2, 1])
    assert np.abs(cents(track.f0, expected)).max() < 1e-3


def test_frames_that_are_left_out_are_unvoiced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    track = F0Track(np.full(300, 200, np.float32), np.ones(300, np.float32))
    write_curve(tmp_path / "a.csv", track, GRID)
    lines = (tmp_path / "a.csv").read_text().splitlines()
    del lines[101:201]  # frames 100 to 199
    del lines[51]  # and frame 50
    (tmp_path / "a.csv").write_text("\n".join(lines))
    with caplog.at_level(logging.WARNING):
        read = read_curve(tmp_path / "a.csv", GRID, 300)
    assert np.array_equal(np.flatnonzero(read.uv == 0), np.arange(100, 200))
    assert (read.f0 == 200).all()
    assert "no rows for 1.17 s in 1 places" in caplog.text


@pytest.mark.parametrize("change", [-8, -1, 1, 8])
def test_a_few_frames_more_or_less_are_fitted(rng: np.random.Generator, change: int) -> None:
    track = random_track(rng, 400)
    fitted = fit_length(track, 400 + change, GRID, what="x")
    assert len(fitted) == 400 + change
    n = min(400, len(fitted))
    same(cut(fitted, 0, n), cut(track, 0, n))
    if change > 0:
        assert (fitted.f0[400:] == track.f0[-1]).all()
        assert (fitted.uv[400:] == track.uv[-1]).all()


def test_other_lengths_are_told_in_seconds(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "a.csv"
    write_curve(path, random_track(rng, 1000), GRID)
    with pytest.raises(CurveError, match=r"a\.csv lasts 11\.61 s, the song 13\.93 s.*13\.932,0,0"):
        read_curve(path, GRID, 1200)
    with pytest.raises(CurveError, match=r"lasts 11\.61 s, the song 10\.45 s.*delete the rows"):
        read_curve(path, GRID, 900)
    with pytest.raises(CurveError, match="lasts"):
        fit_length(F0Track(np.zeros(0), np.zeros(0)), 5, GRID, what="x")
    # What the message proposes works.
    with path.open("a") as stream:
        stream.write("13.932,0,0\n")
    read = read_curve(path, GRID, 1200)
    assert not read.uv[1001:].any()


@pytest.mark.parametrize(
    ("factor", "unit"), [(1000, "milliseconds"), (44100, "samples"), (44100 / 512, "frames")]
)
def test_times_in_other_units_are_recognised(tmp_path: Path, factor: float, unit: str) -> None:
    rows = [f"{i * 512 / 44100 * factor:.3f},220,1" for i in range(400)]
    (tmp_path / "a.csv").write_text("time_s,f0_hz,voiced\n" + "\n".join(rows))
    with pytest.raises(CurveError, match=f"times look like {unit}"):
        read_curve(tmp_path / "a.csv", GRID, 400)


def test_absurd_times_take_no_memory(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("time_s,f0_hz\n0,220\n1e12,220\n")
    for n_frames in (None, 100):
        with pytest.raises(CurveError):
            read_curve(tmp_path / "a.csv", GRID, n_frames)


def test_cuts_outside_the_song_are_unvoiced(rng: np.random.Generator) -> None:
    track = random_track(rng, 100)
    part = cut(track, -10, 130)
    assert len(part) == 130
    same(cut(part, 10, 100), track)
    assert not part.uv[:10].any()
    assert not part.uv[110:].any()
    assert (part.f0[:10] == track.f0[0]).all()
    assert (part.f0[110:] == track.f0[-1]).all()
    assert len(cut_at(F0Track(np.zeros(0), np.zeros(0)), np.arange(5))) == 5


def test_curves_are_found_by_the_songs_name(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no pitch curve for song\.wav"):
        find_curve(tmp_path, "song.wav")
    for name in ("song.f0.csv", "song.csv", "song.mid", "song.wav.f0.tsv"):
        (tmp_path / name).touch()
        assert find_curve(tmp_path, "in/song.wav") == tmp_path / name
        (tmp_path / name).unlink()
    (tmp_path / "song.csv").touch()
    (tmp_path / "song.mid").touch()
    with pytest.raises(CurveError, match=r"song\.csv, song\.mid"):
        find_curve(tmp_path, "song.wav")


def test_descriptions(rng: np.random.Generator) -> None:
    track = F0Track(np.float32([220, 440, 100, 0]), np.float32([1, 1, 0, 0]))
    assert describe(track, GRID) == "0.05 s, 4 frames, 50 % voiced, A3 to A4"
    assert describe(F0Track(np.zeros(2), np.zeros(2)), GRID).endswith("nothing voiced")


def test_files_that_cannot_be(tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(MissingFileError, match="is not there"):
        read_curve(tmp_path / "no.csv", GRID)
    with pytest.raises(CurveError, match="cannot be read"):
        read_curve(tmp_path, GRID)
    with pytest.raises(CurveError, match="unknown suffix"):
        write_curve(tmp_path / "a.wav", random_track(rng, 5), GRID)
