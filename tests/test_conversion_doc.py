"""docs/conversion.md is true: its numbers are those of the program, its Python runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.audio.hush import FADE_SECONDS, SHORTEST_SECONDS
from svc.audio.io import write_audio
from svc.checkpoint import save_checkpoint
from svc.config import load_config, save_config
from svc.conversion.chunks import JOIN_SECONDS, LONG_JOIN_SECONDS
from svc.conversion.converter import KEPT_KERNELS
from svc.conversion.options import InferOptions
from svc.conversion.stretches import SILENCE_DB
from svc.speech.wave_encoder import USUAL_SECONDS
from svc.speech.whisper import USUAL_SECONDS as WHISPER_SECONDS
from svc.synthesizer import Synthesizer

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "conversion.md").read_text(encoding="utf-8")
FLAT = " ".join(TEXT.split())


def test_the_numbers() -> None:
    for said in (
        f"stays below {SILENCE_DB:g} dBFS",
        f"but for fades of {1000 * FADE_SECONDS:g} ms",
        f"{1000 * JOIN_SECONDS:g} ms at a pause, {1000 * LONG_JOIN_SECONDS:g} ms inside of singing",
        f"({WHISPER_SECONDS:g} s for Whisper, {USUAL_SECONDS:g} s for the others",
        f"lets it keep {KEPT_KERNELS} ",
        f"below {InferOptions().slice_db:g} dBFS",
    ):
        assert said in FLAT, said
    assert SHORTEST_SECONDS == 0.1
    assert InferOptions().pad_seconds == 0.5


def small_voice(folder: Path) -> None:
    import dataclasses

    config = load_config(ROOT / "configs" / "template.json")
    model = dataclasses.replace(
        config.model, speech_encoder="whisper-ppg-tiny", ssl_dim=384, n_speakers=1, inter_channels=8,
        hidden_channels=8, filter_channels=8, n_layers=1, upsample_initial_channel=32, gin_channels=4,
        resblock_kernel_sizes=(3,), resblock_dilation_sizes=((1, 3, 5),), n_flow_layer=1,
    )  # fmt: skip
    config = dataclasses.replace(config, model=model, spk={"alice": 0})
    torch.manual_seed(0)
    state = {"model": Synthesizer.from_config(config).state_dict(), "iteration": 1}
    save_checkpoint({**state, "optimizer": None, "learning_rate": 1e-4}, folder / "G_100.pth")
    save_config(config, folder / "config.json")


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sine: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("logs/44k").mkdir(parents=True)
    small_voice(Path("logs/44k"))
    write_audio("song.wav", sine(220, 0.7, sr=48000), 48000)
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)
    found: dict[str, Any] = {}
    exec(code, found)  # noqa: S102 - the page's own example
    assert np.abs(found["whole"]).max() > 0
