"""`svc voice-range` as a user runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from svc.audio.io import write_audio
from svc.checkpoint import save_checkpoint
from svc.cli.main import main
from svc.f0.range_files import plain_ranges, read_ranges
from svc.f0.voice_range import VoiceRange

Sine = Callable[..., np.ndarray]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sine: Sine) -> Path:
    monkeypatch.chdir(tmp_path)
    write_audio("dataset/44k/alice/1.wav", sine(220, 1.0), 44100)
    write_audio("dataset/44k/bob/1.wav", sine(110, 1.0), 44100)
    return tmp_path


def test_a_data_set(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["voice-range", "dataset/44k"]) == 0
    out = capsys.readouterr().out
    assert "alice: A3-A3, half of it above A3, 1 s of voiced sound" in out
    assert "note: that is little sound to know the range of alice by" in out
    assert "written to logs/44k/voice_range.json" in out
    found = read_ranges("logs/44k/voice_range.json")
    assert {name: str(voice) for name, voice in found.items()} == {
        "alice": "A3-A3",
        "bob": "A2-A2",
    }


def test_recordings_of_one_voice_with_every_flag(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["-s", "carol", "-o", "her/range.json", "--f0-predictor", "fcpe"]
    flags += ["--f0_min", "60", "--f0-max", "900"]
    assert main(["voice-range", "dataset/44k/alice", "dataset/44k/bob/1.wav", *flags]) == 0
    assert str(read_ranges("her/range.json")["carol"]) == "A2-A3"
    assert "written to her/range.json" in capsys.readouterr().out


def test_notes_that_a_person_knows(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["voice-range", "dataset/44k", "-o", "r.json"]) == 0
    assert main(["voice-range", "--notes", "G3", "E5", "-s", "alice", "-o", "r.json"]) == 0
    out = capsys.readouterr().out
    assert "alice: G3-E5, half of it above F4\n" in out
    assert {name: str(voice) for name, voice in read_ranges("r.json").items()} == {
        "alice": "G3-E5",
        "bob": "A2-A2",
    }


def test_a_checkpoint_that_knows_better_is_told(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranges = plain_ranges({"alice": VoiceRange.between(100, 200)})
    content = {"model": {"x": torch.zeros(1)}, "svc": {"voice_range": ranges}}
    save_checkpoint(content, Path("logs/44k/G_7.pth"))
    assert main(["voice-range", "dataset/44k"]) == 0
    out = capsys.readouterr().out
    assert "note: the newest checkpoint beside it knows the range of alice" in out
    assert "the range of bob; that counts" not in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give recordings of the voice, or its notes"),
        (["--notes", "A2", "E4"], "needs -s NAME"),
        (["dataset/44k", "--notes", "A2", "E4", "-s", "x"], "takes the place of recordings"),
        (["--notes", "A2", "high", "-s", "x"], '"high" is no note'),
        (["nowhere"], "nowhere is not there"),
        (["dataset/44k/alice/1.wav"], "Name it with -s"),
        (["dataset/44k", "-f0p", "nonsense"], "nonsense"),
        (["dataset/44k", "-o", "dataset"], "dataset"),
    ],
)
def test_mistakes_answer_in_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["voice-range", *words]) == 2
    out, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if line.startswith("svc: error: ")]
    assert message in line
    assert "Traceback" not in err
    assert "written" not in out
