"""`svc mix` from the command line, and songs sung with what it makes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.audio.io import read_audio, write_audio
from svc.checkpoint import load_checkpoint
from svc.cli import mix as command
from svc.cli.main import build_parser, main
from svc.export.mix import MODES
from svc.f0.voice_range import VoiceRange

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
    """Two voices of one singer and a song."""
    monkeypatch.chdir(tmp_path)
    config = VOICES.small_config(["alice"])
    for seed, name in enumerate("ab", 1):
        ranges = {"alice": VoiceRange.between(100.0 * seed, 300.0 * seed)}
        VOICES.write_voice(tmp_path / name, config, seed=seed, ranges=ranges)
    write_audio("raw/song.wav", sine(220, 0.4, 8000), 8000)
    return tmp_path


def sing(model: str) -> np.ndarray:
    assert main(["infer", "-m", model, "-n", "song", "-d", "cpu", "--output", "out.wav"]) == 0
    wav, sr = read_audio(Path("out.wav"))
    assert (sr, len(wav)) == (8000, 3200)
    assert np.isfinite(wav).all()
    assert np.abs(wav).max() > 1e-3
    return wav


def test_a_mix_and_its_safetensors_sing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["a/G_8.pth", "b/G_8.pth"]
    assert main(["mix", *files, "-w", "70", "30", "-o", "mixed/voice.pth"]) == 0
    shown = capsys.readouterr()
    assert "0.7000 of a/G_8.pth\n0.3000 of b/G_8.pth\n" in shown.out
    assert "mix: mixed/voice.pth, config: mixed/config.json" in shown.out
    assert "alice sings " in shown.out
    assert "mix: 3/3 voice.pth" in shown.err
    arguments = ["mix", *files, "-w", "70", "30", "--safetensors", "-o"]
    assert main([*arguments, "mixed/voice.safetensors"]) == 0
    mixed = sing("mixed/voice.pth")
    assert np.array_equal(sing("mixed/voice.safetensors"), mixed)
    assert not np.array_equal(sing("a/G_8.pth"), mixed)
    # Half of one voice and half of the same is that voice, to the last sample.
    assert main(["mix", files[0], files[0], "-o", "mixed/same.pth"]) == 0
    assert np.array_equal(sing("mixed/same.pth"), sing("a/G_8.pth"))
    # The range of the mix lies between the two, and -t auto reads it.
    assert main(["infer", "-m", "mixed/voice.pth", "-n", "song", "-d", "cpu", "-t", "auto"]) == 0


def test_the_original_modes(work: Path) -> None:
    files = ["a/G_8.pth", "b/G_8.pth"]
    one, other = (load_checkpoint(file)["model"]["pre.weight"].double() for file in files)
    for mode, shares in (("linear", (0.7, 0.3)), ("convex", (0.5986876601, 0.4013123399))):
        output = f"{mode}/G.pth"
        assert main(["mix", *files, "-w", "70", "30", "--mode", mode, "-o", output]) == 0
        mixed = load_checkpoint(output)["model"]["pre.weight"]
        assert torch.allclose(mixed.double(), shares[0] * one + shares[1] * other, atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a/G_8.pth"], "two or more files"),
        (["a/G_8.pth", "c/G_8.pth"], "c/G_8.pth is not there"),
        (["a/G_8.pth", "b/G_8.pth", "-w", "1"], "-w has 1 numbers for 2 files"),
        (["a/G_8.pth", "b/G_8.pth", "-w", "nan", "1"], "numbers in percent"),
        (["a/G_8.pth", "b/G_8.pth", "-w", "70", "-30"], "shares from 0 up"),
        (["a/G_8.pth", "b/G_8.pth", "-c", "none.json"], "none.json is not there"),
        (["a/G_8.pth", "b/G_8.pth", "--half"], "all in half precision"),
        (["a/G_8.pth", "b/G_8.pth", "--speakers", "x", "y"], "--speakers needs 1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    work: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["mix", *arguments, "-o", "mixed/voice.pth"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("mix:")]
    assert len(errors) == 1
    assert errors[0].startswith("svc: error: ")
    assert message in errors[0]
    assert not Path("mixed").exists()


def test_flags() -> None:
    parser = build_parser("mix")
    args = parser.parse_args(["mix", "a", "b", "-o", "c"])
    assert (args.mode, args.weights, args.force) == ("normalized", None, False)
    assert "normalized" in MODES
    for mode in MODES:
        assert parser.parse_args(["mix", "a", "b", "-o", "c", "--mode", mode]).mode == mode
    assert command.NAME == "mix"
