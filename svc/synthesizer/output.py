"""What the synthesizer returns while training, and the random numbers it uses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from svc.audio.frames import random_starts
from svc.vocoder.source import HarmonicSource, SourceNoise, draw_normal

PITCH_SCALE = (0.8, 1.2)
"""Range of the random scale of the normalised pitch while training (spec_core 2.8)."""


@dataclass(frozen=True)
class SynthesizerOutput:
    """What a training forward returns; S = segment_frames · hop_length samples."""

    wav: Tensor
    """(B, 1, S) generated audio of the drawn windows."""
    starts: Tensor
    """(B,) int64 first frame of each window."""
    mask: Tensor
    """(B, 1, T), 1 inside the clip."""
    z: Tensor
    """(B, C, T) posterior sample."""
    z_p: Tensor
    """(B, C, T) the same, through the flow."""
    m_p: Tensor
    """(B, C, T) prior mean."""
    logs_p: Tensor
    """(B, C, T) prior log standard deviation."""
    m_q: Tensor
    """(B, C, T) posterior mean."""
    logs_q: Tensor
    """(B, C, T) posterior log standard deviation."""
    pred_lf0: Tensor | None
    """(B, 1, T) predicted log-like pitch; None without automatic F0, as the next two."""
    norm_lf0: Tensor | None
    """(B, 1, T) normalised pitch the prediction started from."""
    lf0: Tensor | None
    """(B, 1, T) true log-like pitch."""


@dataclass(frozen=True)
class TrainingNoise:
    """All random numbers of a training forward but dropout's."""

    pitch_scale: Tensor
    """(B, 1) U(`PITCH_SCALE`)."""
    posterior: Tensor
    """(B, C, T) N(0, 1)."""
    starts: Tensor
    """(B,) int64 first frame of each window, uniform over those that fit."""
    source: SourceNoise
    """Of the windows."""

    @classmethod
    def draw(
        cls,
        source: HarmonicSource,
        lengths: Tensor,
        n_frames: int,
        *,
        channels: int,
        segment_frames: int,
        pitch: bool,
        compat: bool,
        generator: torch.Generator | None,
    ) -> TrainingNoise:
        """Draw for a whole batch, in the original's order (spec_core 2.8).

        Args:
            source: of the decoder.
            lengths: (B,) frames of each clip.
            n_frames: T.
            channels: C.
            segment_frames: frames of a window.
            pitch: whether the net predicts pitch; else there is no scale to draw.
            compat: draw what the original draws after all this and drops, too.
            generator: of the CPU; None = the global ones (scale, windows and phases from the
                CPU's, noise from the device's).
        """
        batch, device = len(lengths), lengths.device
        scale = torch.ones(batch, 1)
        if pitch:
            scale = torch.empty(batch, 1).uniform_(*PITCH_SCALE, generator=generator)
        shape = (batch, channels, n_frames)
        # The original samples the prior first and drops it: drawn too, to keep the order of draws.
        draw_normal(shape, generator=generator, device=device)
        posterior = draw_normal(shape, generator=generator, device=device)
        starts = random_starts(lengths, segment_frames, generator=generator)
        noise = source.draw(batch, segment_frames, generator=generator, device=device)
        if compat:  # later steps depend on it
            draw_normal((*noise.noise.shape[:2], 1), generator=generator, device=device)
        return cls(scale.to(device), posterior, starts, noise)


@dataclass(frozen=True)
class InferenceNoise:
    """All random numbers of an inference, so that they can be seeded, or given (export)."""

    prior: Tensor
    """(B, C, T) N(0, 1), not yet scaled."""
    source: SourceNoise
