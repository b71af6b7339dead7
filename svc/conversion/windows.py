"""What a model is given of a song at a time."""

from __future__ import annotations

from dataclasses import dataclass

from svc.audio.pitch import F0Track
from svc.conversion.chunks import FloatArray, Piece


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


@dataclass(frozen=True)
class Passage:
    """A window with its place in the result.

    Attributes:
        window: what the model is given.
        begin: first sample of the window in the song, at the model's rate; may be negative.
        piece: the part of what is rendered that is used.
        gain: float32 (n,), 0 where the song is silent, for all that is rendered; None = 1.
    """

    window: Window
    begin: int
    piece: Piece
    gain: FloatArray | None = None

    def part(self, rendered: FloatArray) -> FloatArray:
        """Cut the piece out of its rendered window."""
        return rendered[self.piece.start - self.begin : self.piece.end - self.begin]
