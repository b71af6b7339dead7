"""`svc slice` as a user runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from svc.cli.main import main


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, wav: np.ndarray, sr: int = 8000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wav, sr)
    return path


def song(*seconds: float, sr: int = 8000) -> np.ndarray:
    """Tones of the given lengths with 1 s of silence after each."""
    time = [np.arange(round(length * sr)) / sr for length in seconds]
    parts = [np.concatenate([0.5 * np.sin(1500 * t), np.zeros(sr)]) for t in time]
    return np.concatenate(parts)


def test_the_default_folders(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(place / "dataset_raw_long/alice/tour 1.flac", song(7, 9, 8))
    assert main(["slice"]) == 0
    clips = sorted((place / "dataset_raw/alice").iterdir())
    assert [clip.name for clip in clips] == [f"tour 1_{n:03d}.wav" for n in (1, 2, 3)]
    out = capsys.readouterr().out
    assert "tour 1.flac: 3 clips" in out
    assert "3 clips (0.4 min) of 1 recording" in out


def test_every_flag_in_both_spellings(place: Path) -> None:
    write(place / "in/a.wav", song(30))
    flags = ["--in_dir", "in", "--out-dir", "out", "--speaker", "bob", "--slice_db", "-45"]
    flags += ["--min-seconds", "3", "--max_seconds", "10", "--min_interval", "200", "80"]
    flags += ["--hop-ms", "20", "--max_silence_kept", "300"]
    assert main(["slice", *flags]) == 0
    clips = sorted((place / "out/bob").iterdir())
    assert len(clips) >= 3
    assert all(3.0 <= soundfile.info(clip).duration <= 10.0 for clip in clips)


def test_what_was_dropped_is_told_and_a_bad_file_sets_the_exit_code(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lonely = np.concatenate([song(7), np.zeros(8000 * 20), song(0.5), np.zeros(8000 * 20)])
    write(place / "dataset_raw_long/alice/a.wav", lonely)
    (place / "dataset_raw_long/alice/empty.wav").write_bytes(b"")
    assert main(["slice"]) == 1
    out = capsys.readouterr().out
    assert "of silence" in out
    assert "too short" in out
    assert "left out: dataset_raw_long/alice/empty.wav: " in out
    assert "1 recording left out" in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "dataset_raw_long is not there"),
        (["--in_dir", "loose"], "--speaker NAME"),
        (["--in_dir", "loose", "--speaker", "a/b"], "--speaker"),
        (["--in_dir", "loose", "--speaker", "a", "--min_seconds", "20"], "--min_seconds"),
        (["--in_dir", "loose", "--speaker", "a", "--out_dir", "loose/x"], "--out_dir"),
        (["--in_dir", "loose", "--speaker", "a", "--out_dir", "file/x"], "not a folder"),
    ],
)
def test_trouble_is_one_line_and_exit_2(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    write(place / "loose/a.wav", song(7))
    (place / "file").write_text("in the way")
    assert main(["slice", *arguments]) == 2
    captured = capsys.readouterr()
    last = captured.err.strip().splitlines()[-1]
    assert last.startswith("svc: error: ")
    assert text in last
    assert "Traceback" not in captured.err
