"""What several tests of this folder share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch


class FakeEncoder:
    """50 frames a second, 384 wide, each like its wave's length; notes its calls."""

    name, dim, device = "whisper-ppg-tiny", 384, torch.device("cpu")

    def __init__(self) -> None:
        self.calls = 0
        self.batches: list[int] = []

    def encode(self, wav16k: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.units(wav16k)

    def encode_batch(self, wavs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        self.batches.append(len(wavs))
        return [self.units(wav) for wav in wavs]

    def units(self, wav16k: torch.Tensor) -> torch.Tensor:
        return torch.full((1, self.dim, max(1, len(wav16k) // 320)), float(len(wav16k)))


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> FakeEncoder:
    fake = FakeEncoder()
    monkeypatch.setattr("svc.dataset.extraction.build_speech_encoder", lambda *_, **__: fake)
    return fake


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder: every default path is relative to it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
