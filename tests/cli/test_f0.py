"""`svc f0`: the real command line in an empty folder, and with it `svc preprocess` and `svc infer`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from svc.audio.io import write_audio
from svc.audio.pitch import F0Track, cents
from svc.cli.main import main
from svc.config import find_template, load_config, save_config
from svc.f0 import build_f0_predictor
from svc.f0.curve import FrameGrid, read_curve, write_curve
from svc.f0.extract import curve_from_file

SR = 44100
GRID = FrameGrid()


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        (line,) = self.err.splitlines()
        assert line.startswith("svc: error: ")
        return line


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> Result:
        code = main(["f0", *arguments])
        return Result(code, *capsys.readouterr())

    return call


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a song of two notes, half a second each."""
    monkeypatch.chdir(tmp_path)
    pitch = np.repeat([220.0, 330.0], SR // 2)
    phase = 2 * np.pi * np.cumsum(pitch) / SR
    wav = 0.2 * sum(np.sin(k * phase) / k for k in range(1, 12))
    write_audio("raw/song.wav", wav.astype(np.float32), SR)
    return tmp_path


def expected(predictor: str, grid: FrameGrid = GRID) -> F0Track:
    build = build_f0_predictor(
        predictor, sampling_rate=grid.sampling_rate, hop_length=grid.hop_length
    )
    return curve_from_file("raw/song.wav", build, grid)


@pytest.mark.parametrize("predictor", ["pm", "dio", "harvest", "fcpe"])
def test_extraction_is_the_predictors_track(run: Run, place: Path, predictor: str) -> None:
    done = run("extract", "song", "-o", "new/a.csv", "-f0p", predictor, "-d", "cpu")
    assert done.code == 0, done.err
    assert "song.wav -> new/a.csv  (1.00 s, 86 frames, " in done.out
    track, read = expected(predictor), read_curve("new/a.csv", GRID, 86)
    assert np.array_equal(read.f0, track.f0)
    assert np.array_equal(read.uv, track.uv)


def test_where_curves_go(run: Run, place: Path) -> None:
    assert run("extract", "song.wav").code == 0
    assert Path("raw/song.f0.csv").is_file()
    write_audio("raw/two.flac", np.zeros(SR // 4, np.float32), SR)
    done = run("extract", "raw", "song", "-o", "curves")
    assert done.code == 0, done.err
    assert sorted(path.name for path in Path("curves").iterdir()) == ["song.f0.csv", "two.f0.csv"]
    assert "nothing voiced" in done.out
    done = run("extract", "raw", "-o", "one.csv")
    assert (done.code, "-o one.csv is one file and there are 2 songs" in done.error) == (2, True)
    done = run("extract", "song", "-o", "a.wav")
    assert (done.code, 'unknown suffix ".wav"' in done.error) == (2, True)
    write_audio("raw/two.wav", np.zeros(SR // 4, np.float32), SR)
    done = run("extract", "raw", "-o", "other")
    assert (done.code, "two songs have the curve other/two.f0.csv" in done.error) == (2, True)


def test_edits_are_not_written_over(run: Run, place: Path) -> None:
    assert run("extract", "song").code == 0
    Path("raw/song.f0.csv").write_text("time_s,f0_hz\n0,220\n")
    for arguments in (
        ("extract", "song"),
        ("extract", "song", "-o", "raw"),
        ("convert", "raw/song.f0.csv", "raw/song.f0.csv"),
    ):
        done = run(*arguments)
        assert done.code == 2
        assert "is there already and may hold edits" in done.error
    assert len(Path("raw/song.f0.csv").read_text().splitlines()) == 2
    assert run("extract", "song", "--overwrite").code == 0
    assert len(Path("raw/song.f0.csv").read_text().splitlines()) == 87


def test_other_rates_and_ranges(run: Run, place: Path) -> None:
    base = ("extract", "song", "-f0p", "dio", "--overwrite", "-o", "a.csv")
    assert run(*base, "--sampling_rate", "32000", "--hop-length", "320").code == 0
    grid = FrameGrid(32000, 320)
    assert np.array_equal(read_curve("a.csv", grid, 100).f0, expected("dio", grid).f0)
    save_config(load_config(find_template("template.json")), "config.json")
    assert run(*base, "-c", "config.json").code == 0
    assert np.array_equal(read_curve("a.csv", GRID, 86).f0, expected("dio").f0)
    assert run(*base, "--f0_max", "300").code == 0
    track = read_curve("a.csv", GRID, 86)
    assert track.f0[track.uv > 0].max() < 301
    done = run(*base, "-c", "config.json", "--hop_length", "256")
    assert (done.code, "leave --sampling_rate" in done.error) == (2, True)
    done = run(*base, "--hop_length", "0")
    assert (done.code, "must be above 0" in done.error) == (2, True)
    with pytest.raises(SystemExit):
        run(*base, "-f0p", "pitchy")


def test_midi_there_and_back(run: Run, place: Path) -> None:
    assert run("extract", "song", "-o", "a.csv", "-f0p", "harvest").code == 0
    assert run("extract", "song", "-o", "a.mid", "-f0p", "harvest", "--bend_range", "2").code == 0
    assert run("convert", "a.csv", "b.mid").code == 0
    track = read_curve("a.csv", GRID, 86)
    for name, limit in (("a.mid", 0.013), ("b.mid", 0.08)):
        done = run("convert", name, f"{name}.csv", "--song", "raw/song.wav")
        assert done.code == 0, done.err
        back = read_curve(f"{name}.csv", GRID, 86)
        assert np.array_equal(back.uv, track.uv)
        assert np.abs(cents(back.f0, track.f0))[track.uv > 0].max() < limit
    done = run("convert", "b.mid", "c.csv", "--track", "9")
    assert (done.code, 'no track "9"; it has 1 "F0"' in done.error) == (2, True)
    done = run("convert", "b.mid", "c.csv", "--bend_range", "99")
    assert (done.code, "--bend_range is 99" in done.error) == (2, True)
    # MIDI has no end of its own: a longer song makes the curve longer.
    write_audio("long.wav", np.zeros(3 * SR, np.float32), SR)
    assert run("convert", "b.mid", "c.csv", "--song", "long.wav").code == 0
    assert len(read_curve("c.csv", GRID)) == 3 * SR // 512


def test_apply_to_a_clip(run: Run, place: Path) -> None:
    clip = Path("dataset/44k/alice/a.wav")
    clip.parent.mkdir(parents=True)
    Path("raw/song.wav").rename(clip)
    Path("configs").mkdir()
    save_config(load_config(find_template("template.json")), "configs/config.json")
    assert run("extract", str(clip), "-o", "a.csv").code == 0
    done = run("apply", "a.csv", str(clip))
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        f"{clip} has the F0 of a.csv now  (1.00 s, 86 frames, 93 % voiced, A3 to E4)",
        "its units and volume are not there yet: run  svc preprocess",
    ]
    track = read_curve("a.csv", GRID)
    stored = np.load(f"{clip}.f0.npy")
    assert np.array_equal(stored, np.stack([track.f0, track.uv]))
    write_curve("short.csv", F0Track(track.f0[:50], track.uv[:50]), GRID)
    done = run("apply", "short.csv", str(clip))
    assert done.code == 2
    assert "short.csv lasts 0.58 s, the song 1.00 s" in done.error
    assert np.array_equal(np.load(f"{clip}.f0.npy"), stored)
    done = run("apply", "a.csv", str(clip), "-c", "no.json")
    assert (done.code, "no.json" in done.error) == (2, True)


def test_plot(run: Run, place: Path) -> None:
    assert run("extract", "song", "-o", "a.csv").code == 0
    done = run("plot", "song", "a.csv", "-f0p", "pm", "dio")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["a.csv", "pm", "dio", "picture"]
    assert (
        "from a.csv: median 0 cents, 100.0 % within 50 cents, voicing alike in 100.0 %" in lines[1]
    )
    assert Path("song.f0.png").read_bytes().startswith(b"\x89PNG")
    assert run("plot", "song", "--png", "b.png", "--start", "0.2", "--end", "0.6").code == 0
    assert Path("b.png").read_bytes() != Path("song.f0.png").read_bytes()
    for name in "ab":
        write_audio(f"more/{name}.wav", np.zeros(SR, np.float32), SR)
    for arguments, message in (
        (("more",), "more is a folder; give one song"),
        (("song", "no.csv"), "no.csv is not there"),
        (("song", "-o", "a.jpg"), 'end its name with ".png"'),
        (("song", "--start", "2"), "leave nothing of a song of 1.00 s"),
    ):
        done = run("plot", *arguments)
        assert done.code == 2
        assert message in done.error


def test_an_action_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["f0"])
    assert caught.value.code == 2
    assert "ACTION" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["extract", "apply", "plot", "convert"])
def test_every_action_has_help(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["f0", action, "--help"])
    assert caught.value.code == 0
    assert f"svc f0 {action}" in capsys.readouterr().out


def test_warnings_reach_the_user(run: Run, place: Path) -> None:
    rows = "\n".join(f"{0.01 * i:.2f},200,1" for i in range(100) if not 30 < i < 60)
    Path("a.csv").write_text("time_s,f0_hz,voiced\n" + rows)
    done = run("convert", "a.csv", "b.csv")
    assert done.code == 0
    assert "svc: WARNING: a.csv: no rows for 0.30 s in 1 places" in done.err
    assert logging.getLogger("svc").level == logging.WARNING
