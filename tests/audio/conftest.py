"""Reference arrays and sounds of the audio tests.

`tests/data/audio/golden.npz` holds parts of the reference arrays (outputs of so-vits-svc 4.1 run
on a CPU: spec_core 12, spec_encoders 13, spec_f0 12, spec_vocoder 8), so that parity is proved in
every checkout; large arrays are thinned as their names say.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def reference() -> dict[str, np.ndarray]:
    path = Path(__file__).parents[1] / "data" / "audio" / "golden.npz"
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="session")
def hash_noise() -> Callable[..., torch.Tensor]:
    """Inputs of the reference arrays: ``hash_noise(stream, n, scale)``, rule in spec_core 12."""

    def make(stream: int, n: int, scale: float) -> torch.Tensor:
        index = np.arange(n, dtype=np.float64)
        s = np.sin(12.9898 * index + 78.233 * stream + 1) * 43758.5453
        return torch.from_numpy((scale * (2 * (s - np.floor(s)) - 1)).astype(np.float32))

    return make


@pytest.fixture
def phrases() -> Callable[..., np.ndarray]:
    """Return ``phrases(seconds, gaps, sr)``: a 220 Hz tone that is silent inside each gap (s)."""

    def make(
        seconds: float, gaps: list[tuple[float, float]], sr: int = 44100, level: float = 0.5
    ) -> np.ndarray:
        time = np.arange(round(seconds * sr)) / sr
        wav = level * np.sin(2 * np.pi * 220 * time)
        for begin, end in gaps:
            wav[(time > begin) & (time < end)] = 0.0
        return wav.astype(np.float32)

    return make
