"""What the synthesizer returns while training, and the random numbers it uses to convert."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from svc.vocoder.source import SourceNoise


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
class InferenceNoise:
    """All random numbers of an inference, so that they can be seeded, or given (export)."""

    prior: Tensor
    """(B, C, T) N(0, 1), not yet scaled."""
    source: SourceNoise
