"""What a model is given of a song at a time."""

from __future__ import annotations

from dataclasses import dataclass

from svc.audio.pitch import F0Track
from svc.conversion.chunks import FloatArray


@dataclass(frozen=True)
class Window:
    """A stretch of a song, its context included.

    Attributes:
        wav: float32 (n,) at the model's rate.
        track: its melody, n // hop_length frames; None = what the predictor hears.
        weights: (n // hop_length, S) of the speakers; None = one speaker sings.
    """

    wav: FloatArray
    track: F0Track | None = None
    weights: FloatArray | None = None
