"""`svc compress` from the command line, songs sung with what it makes, training that refuses it."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.audio.io import read_audio, write_audio
from svc.checkpoint import load_checkpoint
from svc.cli.main import main

SMALL = Path(__file__).resolve().parents[1] / "export" / "small_voices.py"


def _small_voices() -> Any:
    spec = importlib.util.spec_from_file_location("svc_tests_small_voices", SMALL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


VOICES = _small_voices()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sine: Callable[..., np.ndarray]) -> Path:
    """A voice where svc train leaves it, and a song."""
    monkeypatch.chdir(tmp_path)
    VOICES.write_voice(tmp_path / "logs/44k", VOICES.small_config(["alice"]))
    write_audio("raw/song.wav", sine(220, 0.4, 8000), 8000)
    return tmp_path


def sing(model: str) -> np.ndarray:
    arguments = ["-c", "logs/44k/config.json", "-n", "song", "-d", "cpu", "--output", "out.wav"]
    assert main(["infer", "-m", model, *arguments]) == 0
    wav, sr = read_audio(Path("out.wav"))
    assert (sr, len(wav)) == (8000, 3200)
    assert np.abs(wav).max() > 1e-3
    return wav


def test_every_form_sings(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = sing("logs/44k/G_8.pth")
    capsys.readouterr()
    assert main(["compress", "-i", "logs/44k/G_8.pth"]) == 0
    shown = capsys.readouterr()
    assert "logs/44k/G_8.pth -> logs/44k/G_8_release.pth: " in shown.out
    assert "tensors of the posterior encoder left out" in shown.out
    assert "sound the same from both, to the last bit" in shown.out
    assert "svc train does not go on from G_8_release.pth" in shown.out
    assert not shown.err
    assert np.array_equal(sing("logs/44k/G_8_release.pth"), full)

    assert main(["compress", "-i", "logs/44k/G_8.pth", "-hf"]) == 0
    shown = capsys.readouterr()
    assert "(half precision, " in shown.out
    assert "SNR " in shown.out
    half = sing("logs/44k/G_8_release_half.pth")
    assert 0 < np.abs(half - full).max() < 0.05
    stored = load_checkpoint("logs/44k/G_8_release_half.pth")["model"]
    assert all(x.dtype == torch.float16 for x in stored.values())

    output = "release/voice.safetensors"
    arguments = ["-i", "logs/44k/G_8.pth", "--output", output, "--config", "logs/44k/config.json"]
    assert main(["compress", *arguments, "--no_check"]) == 0
    assert "check:" not in capsys.readouterr().out
    assert np.array_equal(sing(output), full)
    assert main(["compress", "-i", "logs/44k/G_8_release.pth", "--half", "--no-check"]) == 0
    assert "compressed already" in capsys.readouterr().out
    assert np.array_equal(sing("logs/44k/G_8_release_release_half.pth"), half)


def test_bad_input_is_one_line_and_exit_code_2(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("taken.pth").write_text("mine")
    for arguments, message in (
        (["-i", "G_9.pth"], "G_9.pth is not there"),
        (["-i", "logs/44k/G_8.pth", "-o", "taken.pth"], "taken.pth is there"),
        (["-i", "logs/44k/G_8.pth", "-o", "logs/44k/G_8.pth"], "to be read and written"),
        (["-i", "logs/44k/G_8.pth", "-o", "x.pth", "--safetensors"], "contradict"),
        (["-i", "logs/44k/G_8.pth", "-c", "none.json"], "none.json is not there"),
        (["-i", "taken.pth", "-c", "logs/44k/config.json"], "not a readable checkpoint"),
    ):
        assert main(["compress", *arguments]) == 2
        shown = capsys.readouterr()
        assert shown.err.count("\n") == 1
        assert shown.err.startswith("svc: error: ")
        assert message in shown.err
        assert not shown.out
    assert Path("taken.pth").read_text() == "mine"
    assert not list(Path("logs/44k").glob("*release*"))


def test_training_refuses_it_by_its_contents(work: Path) -> None:
    """The file under the name of a checkpoint, as a user would try."""
    from svc.config import load_config
    from svc.errors import CheckpointError
    from svc.training.resume import check_resumable
    from svc.training.rundir import find_start, load_pair

    folder = Path("logs/44k")
    shutil.copy(folder / "G_8.pth", folder / "D_8.pth")
    config = load_config(folder / "config.json")
    start = find_start(folder, "auto")
    check_resumable(config, folder, start, load_pair(start)[0])
    assert main(["compress", "-i", "logs/44k/G_8.pth", "--no_check"]) == 0
    (folder / "G_8_release.pth").replace(folder / "G_8.pth")
    content = load_pair(start)[0]
    for change in ({}, {"svc": {}}):  # also without our mark, as the original's files are
        with pytest.raises(CheckpointError, match=r"G_8\.pth is a released .*--force") as caught:
            check_resumable(config, folder, start, {**content, **change})
        assert "\n" not in str(caught.value)
