"""Inputs that exported graphs are compared on: made by formulas, like what the nets hear in a song."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_PHRASE = 0.9  # seconds; a pause of 0.1 s follows each
_LOWEST = 110.0  # Hz


def example_pitch(n_frames: int, frame_seconds: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A melody with vibrato and pauses.

    Args:
        n_frames: N.
        frame_seconds: time between frames.
        seed: shifts the melody.

    Returns:
        f0 (1, N) Hz, 0 in the pauses, and uv (1, N), 1 = voiced.
    """
    time = torch.arange(n_frames, dtype=torch.float64) * frame_seconds + 0.37 * seed
    notes = torch.tensor([0.0, 7.0, 12.0, 5.0, 16.0])[(time % 5).long()]
    semitones = notes + 0.4 * torch.sin(2 * math.pi * 5.5 * time)
    voiced = (time % 1) < _PHRASE
    f0 = torch.where(voiced, _LOWEST * torch.exp2(semitones / 12), 0.0)
    return f0.float()[None], voiced.float()[None]


def example_wave(n_samples: int, sampling_rate: int = 16000, seed: int = 0) -> Tensor:
    """That melody sung by a buzz, over a little noise: (1, n_samples) in [-1, 1]."""
    f0, voiced = (x.double() for x in example_pitch(n_samples, 1 / sampling_rate, seed))
    turns = torch.cumsum(f0 / sampling_rate, dim=1)
    buzz = sum(torch.sin(2 * math.pi * k * turns) / k for k in range(1, 16))
    return (0.2 * voiced * buzz + 0.01 * example_noise((1, n_samples), seed)).float()


def example_noise(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """N(0, 1) of a private generator."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
