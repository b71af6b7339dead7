"""Going on from files that `svc compress` and `svc mix` made."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from svc.checkpoint import load_checkpoint
from svc.cli.main import main

pytestmark = pytest.mark.usefixtures("no_pictures")


def train(voices: Any, steps: int, *more: str, model: str = "m") -> int:
    arguments = ["-c", str(voices.config_path), "-m", model, "-d", "cpu", "--max_steps", str(steps)]
    return main(["train", *arguments, *more])


def log_of(model: str) -> str:
    return Path("logs", model, "train.log").read_text(encoding="utf-8")


def test_a_compressed_checkpoint_refuses_to_be_resumed(
    voices: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(voices, 1) == 0
    assert main(["compress", "-i", "logs/m/G_1.pth", "-o", "logs/n/G_0.pth", "--no_check"]) == 0
    capsys.readouterr()
    shutil.copy("logs/n/G_0.pth", "logs/m/G_1.pth")
    assert train(voices, 2) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "G_1.pth is a released (compressed) file" in error
    assert "take the full checkpoint, or --force" in error
    assert not Path("logs/m/G_2.pth").exists()
    # As a base model it is taken, and what it lacks is told.
    shutil.copy("logs/m/D_1.pth", "logs/n/D_0.pth")
    assert train(voices, 1, model="n") == 0
    assert "G_0.pth has no posterior encoder (enc_q) that fits" in capsys.readouterr().err
    assert "G_0.pth: new: enc_q" in log_of("n")


def test_training_goes_on_from_a_mix(voices: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """As from a base model: every tensor from the file, the optimizer anew."""
    assert train(voices, 2, "--eval_interval", "1") == 0
    files = ["logs/m/G_1.pth", "logs/m/G_2.pth"]
    assert main(["mix", *files, "-o", "logs/n/G_0.pth", "-w", "25", "75"]) == 0
    shutil.copy("logs/m/D_2.pth", "logs/n/D_0.pth")
    one, two, mixed = (load_checkpoint(file) for file in (*files, "logs/n/G_0.pth"))
    for name, x in mixed["model"].items():
        exact = 0.25 * one["model"][name].double() + 0.75 * two["model"][name].double()
        assert torch.equal(x, exact.float())
    assert mixed["svc"]["voice_range"].keys() == two["svc"]["voice_range"].keys()
    capsys.readouterr()
    assert train(voices, 1, model="n") == 0
    assert "posterior encoder" not in capsys.readouterr().err
    log = log_of("n")
    assert "base start" in log
    assert "G_0.pth: every tensor; no optimizer state in the file" in log
    assert Path("logs/n/G_1.pth").is_file()
