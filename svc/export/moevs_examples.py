"""Inputs that the graphs of profile `moevs` are recorded with and compared on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

RECORDED_FRAMES = 200  # as the original
CHECKED_FRAMES = (61, 233)

_LOWEST_BIN, _HIGHEST_BIN = 30, 200  # 120 to 760 Hz
_GAP = 4  # unvoiced frames in the middle


def units_of(n_frames: int, width: int) -> tuple[Tensor, Tensor]:
    """Units at 50 per second under frames at 86: (1, S, width), and mel2ph (1, N) from 1 to S."""
    n_units = max(1, n_frames * 50 // 86)
    mel2ph = torch.arange(n_frames) * n_units // n_frames + 1
    return 0.5 * noise((1, n_units, width), 1), mel2ph[None]


def pitch(n_frames: int) -> tuple[Tensor, Tensor]:
    """A rising tone with a gap: f0 (1, N) Hz, and uv (1, N), 1 = voiced.

    Every tone lies in the middle of a pitch bin (spec_core 2.7): at the edge of one, the last bit
    of a logarithm decides between two rows of the pitch embedding, and two right programs differ.
    """
    bins = torch.linspace(_LOWEST_BIN, _HIGHEST_BIN, n_frames, dtype=torch.float64).round()
    f0 = 700 * (torch.exp((bins + 19.016921918482712) / 0.25743592860424264 / 1127) - 1)
    middle = n_frames // 2
    f0[middle : middle + _GAP] = 0
    return f0.float()[None], (f0 > 0).float()[None]


def volume(n_frames: int) -> Tensor:
    """Loudness that comes and goes: (1, N) linear RMS."""
    return (0.1 - 0.1 * torch.cos(torch.arange(n_frames) * 2 * math.pi / 50))[None]


def mix(n_frames: int, n_speakers: int) -> Tensor:
    """Weights (N, S) that move from speaker to speaker; each row adds up to 1."""
    return torch.softmax(2 * noise((n_frames, n_speakers), 2), dim=1)


def noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """N(0, 1) of a private generator."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
