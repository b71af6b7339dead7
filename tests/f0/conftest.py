"""Waves with a known pitch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

Wave = npt.NDArray[np.float32]


@pytest.fixture(scope="session")
def voice() -> Callable[..., Wave]:
    """Return a function: pitch in Hz per sample (T,) -> a voice-like tone with harmonics falling by
    6 dB per octave.
    """

    def make(pitch: npt.NDArray[np.float64], sr: int = 44100) -> Wave:
        phase = 2 * np.pi * np.cumsum(pitch) / sr
        top = np.max(pitch)
        partials = [np.sin(k * phase) / k for k in range(1, 20) if k * top < sr / 2]
        wav: Wave = (0.2 * np.sum(partials, axis=0)).astype(np.float32)
        return wav

    return make
