"""Trying an encoder out on one second of a voice-like sound."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from svc.errors import CheckpointError
from svc.speech.base import SpeechEncoder
from svc.speech.chunks import SAMPLING_RATE


@dataclass(frozen=True)
class Trial:
    """What came of it."""

    width: int  # C of the units
    frames: int  # S of one second
    seconds: float  # that the encoder took, once warm


def voiced_tone(seconds: float = 1.0, f0: float = 150.0) -> Tensor:
    """Return (T,) samples at 16 kHz, peak 0.5: a glottal-like sound with a vowel's two strongest
    resonances, its pitch gliding up by a fifth.
    """
    moment = torch.arange(round(seconds * SAMPLING_RATE), dtype=torch.float64) / SAMPLING_RATE
    rate = math.log(1.5) / max(seconds, 1e-9)  # of the glide, per second
    turns = f0 / rate * torch.expm1(rate * moment)  # periods so far
    wav = torch.zeros_like(moment)
    for harmonic in range(1, int(SAMPLING_RATE / 2 / (1.5 * f0))):
        hertz = harmonic * f0
        vowel = sum(1 / (1 + ((hertz - peak) / 150) ** 2) for peak in (700, 1200))
        wav += (0.05 + vowel) / harmonic * torch.sin(2 * math.pi * harmonic * turns)
    return (0.5 * wav / wav.abs().max().clamp(min=1e-9)).float()


def try_encoder(encoder: SpeechEncoder) -> Trial:
    """Encode one second twice and time the second pass.

    Args:
        encoder: a loaded encoder.

    Returns:
        Width, frames and time.

    Raises:
        CheckpointError: the units are not (1, dim, 49 or 50), hold values that are not numbers, or
            are the same in every frame: the weights are damaged.
    """
    wav = voiced_tone()
    encoder.encode(wav)  # the first pass sets things up
    begin = time.perf_counter()
    units = encoder.encode(wav).cpu()  # waits for the device
    seconds = time.perf_counter() - begin
    frames = units.shape[-1]
    if units.shape != (1, encoder.dim, frames) or frames not in (49, 50):
        raise CheckpointError(
            f"{encoder.name} gives {list(units.shape)} for one second, expected"
            f" [1, {encoder.dim}, 49 or 50]"
        )
    if not torch.isfinite(units).all():
        raise CheckpointError(
            f"{encoder.name} gives values that are not numbers (NaN or infinite): its weights are"
            " damaged, or the precision is too low for them; try fp32, or copy the file again"
        )
    if float(units.std(dim=-1).max()) < 1e-6:
        raise CheckpointError(
            f"{encoder.name} gives the same units whatever it hears: its weights are damaged or"
            " empty; copy the file again"
        )
    return Trial(width=encoder.dim, frames=frames, seconds=seconds)
