"""Rendered pieces to one song: cross-faded where they overlap, faded where silence begins."""

from __future__ import annotations

import numpy as np

from svc.audio.overlap import crossfade, smooth_ramp
from svc.conversion.chunks import FloatArray, Piece


class Assembler:
    """Collects rendered pieces in order.

    Args:
        n_samples: length of the finished song.

    Attributes:
        song: float32 (n_samples,); exact zeros where no piece was written.
    """

    def __init__(self, n_samples: int) -> None:
        self.song = np.zeros(n_samples, dtype=np.float32)

    def add(self, piece: Piece, wav: FloatArray) -> None:
        """Write one piece; pieces come in order of their start.

        Args:
            piece: where it belongs and how it meets its neighbours.
            wav: float32 (piece.end - piece.start,).

        Raises:
            ValueError: the length of `wav` is not that of the piece.
        """
        length = piece.end - piece.start
        if wav.shape != (length,):
            raise ValueError(f"the piece has {length} samples, the audio has the shape {wav.shape}")
        faded = wav.astype(np.float32, copy=True)
        n_in, n_out = piece.fade_in, piece.fade_out
        if n_in:
            if piece.joins_previous:
                faded[:n_in] = crossfade(self.song[piece.start : piece.start + n_in], wav[:n_in])
            else:
                faded[:n_in] *= smooth_ramp(n_in)
        if n_out and not piece.joins_next:
            faded[length - n_out :] *= smooth_ramp(n_out)[::-1]
        self.song[piece.start : piece.end] = faded
