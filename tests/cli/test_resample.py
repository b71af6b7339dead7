"""`svc resample` as a user runs it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from svc.cli.main import main

Sine = Callable[..., np.ndarray]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, wav: np.ndarray, sr: int = 44100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wav, sr)
    return path


def peak(path: str) -> float:
    return float(np.abs(soundfile.read(path)[0]).max())


def test_the_default_folders(place: Path, sine: Sine, capsys: pytest.CaptureFixture[str]) -> None:
    write(place / "dataset_raw/alice/a.flac", sine(300, 1.5, 48000, 0.3), 48000)
    write(place / "dataset_raw/bob/b.wav", sine(200, 2.0, 22050, 0.1), 22050)
    assert main(["resample"]) == 0
    captured = capsys.readouterr()
    assert "2 clips of 2 voices in dataset/44k; 0 recordings left out" in captured.out
    assert "resample: 2/2" in captured.err
    for name in ("alice/a.wav", "bob/b.wav"):
        info = soundfile.info(f"dataset/44k/{name}")
        assert (info.samplerate, info.channels, info.subtype) == (44100, 1, "PCM_16")
        assert peak(f"dataset/44k/{name}") > 0.9999


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--loudness", "peak"], 1.0),
        (["--loudness", "none"], 0.3),
        (["--skip_loudnorm"], 0.3),
        (["--skip-loudnorm", "--loudness", "none"], 0.3),
        (["--loudness", "lufs"], None),
    ],
)
def test_loudness(place: Path, sine: Sine, flags: list[str], expected: float | None) -> None:
    write(place / "raw/alice/a.wav", sine(1000, 2.0, amplitude=0.3))
    places = ["--in_dir", "raw", "--out_dir2", "out", "--sr2", "32000", "--jobs", "1"]
    assert main(["resample", *places, *flags]) == 0
    assert soundfile.info("out/alice/a.wav").samplerate == 32000
    if expected is None:
        import pyloudnorm

        wav, sr = soundfile.read("out/alice/a.wav")
        assert abs(pyloudnorm.Meter(sr).integrated_loudness(wav) + 18) < 0.3
    else:
        assert abs(peak("out/alice/a.wav") - expected) < 0.01


def test_a_bad_file_is_listed_and_the_exit_code_is_1(
    place: Path, sine: Sine, capsys: pytest.CaptureFixture[str]
) -> None:
    write(place / "dataset_raw/alice/good.wav", sine(300, 1.0))
    (place / "dataset_raw/alice/empty.wav").write_bytes(b"")
    (place / "dataset_raw/alice/text.wav").write_text("hello")
    write(place / "dataset_raw/alice/silent.wav", np.zeros(44100))
    write(place / "dataset_raw/alice/short.wav", sine(300, 0.1))
    assert main(["resample", "--jobs", "2"]) == 1
    out = capsys.readouterr().out
    for name, reason in (
        ("empty", "empty"),
        ("text", "no readable audio"),
        ("silent", "silent: all zeros"),
        ("short", "too short: 0.10 s"),
    ):
        (line,) = [text for text in out.splitlines() if f"{name}.wav" in text]
        assert line.startswith("left out: ")
        assert reason in line
    assert "1 clip of 1 voice in dataset/44k; 4 recordings left out" in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "dataset_raw is not there"),
        (["--in_dir", "empty"], "is empty"),
        (["--in_dir", "loose"], "sub-folder named after the voice"),
        (["--in_dir", "bad"], "not one of the 1 recordings"),
        (["--in_dir", "good", "--out_dir2", "good"], "choose another folder"),
        (["--in_dir", "good", "--out_dir2", "good/a/a.wav/x"], "choose another folder"),
        (["--in_dir", "good", "--out_dir2", "loose/a.wav"], "not a folder"),
        (["--in_dir", "good", "--sr2", "44"], "--sr2"),
        (["--in_dir", "good", "--jobs", "-3"], "--jobs"),
        (["--in_dir", "good", "--skip_loudnorm", "--loudness", "lufs"], "contradict"),
    ],
)
def test_trouble_is_one_line_and_exit_2(
    place: Path, sine: Sine, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    (place / "empty").mkdir()
    write(place / "loose/a.wav", sine(300, 1.0))
    write(place / "bad/alice/a.wav", np.zeros(44100))
    write(place / "good/a/a.wav", sine(300, 1.0))
    assert main(["resample", *arguments]) == 2
    captured = capsys.readouterr()
    last = captured.err.strip().splitlines()[-1]
    assert last.startswith("svc: error: ")
    assert text in last
    assert "Traceback" not in captured.err


def test_m4a_without_ffmpeg_says_so(
    place: Path, sine: Sine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    write(place / "dataset_raw/alice/good.wav", sine(300, 1.0))
    (place / "dataset_raw/alice/phone.m4a").write_bytes(b"\0\0\0 ftypM4A " + bytes(500))
    assert main(["resample"]) == 1
    out = capsys.readouterr().out
    assert "phone.m4a" in out
    assert "ffmpeg" in out


def test_real_recordings(place: Path, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for voice in ("iona", "gts_zh_alto_1"):
        (place / "dataset_raw" / voice).mkdir(parents=True)
        for file in sorted((shared / "audio/singing" / voice).glob("*.flac"))[:4]:
            shutil.copy(file, place / "dataset_raw" / voice)
    assert main(["resample"]) == 0
    clips = sorted((place / "dataset/44k").rglob("*.wav"))
    assert len(clips) == 8
    for clip in clips:
        source = soundfile.info(place / "dataset_raw" / clip.parent.name / f"{clip.stem}.flac")
        assert 0.3 <= soundfile.info(clip).duration <= source.duration + 0.01
        assert peak(str(clip)) > 0.9999
