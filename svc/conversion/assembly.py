"""Rendered pieces to one song: cross-faded where they overlap, faded where silence begins."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from svc.audio.overlap import crossfade, smooth_ramp
from svc.conversion.chunks import FloatArray, Piece

_SILENCE = 1 << 16  # samples of silence in one part


class Assembler:
    """Joins rendered pieces in order, and lets go of what no later piece changes.

    Args:
        n_samples: length of the finished song.
    """

    def __init__(self, n_samples: int) -> None:
        self._n_samples = n_samples
        self._done = 0  # samples of the song that were let go of
        self._tail = np.zeros(0, dtype=np.float32)  # what follows them and meets the next piece

    def add(self, piece: Piece, wav: FloatArray) -> Iterator[FloatArray]:
        """Join one piece and yield the parts of the song that are finished by it.

        Args:
            piece: where it belongs and how it meets its neighbours; pieces come in order.
            wav: float32 (piece.end - piece.start,).

        Yields:
            float32 (n,), n > 0; silence in front of the piece as exact zeros, in parts of bounded
            length.

        Raises:
            ValueError: the length of `wav` is not that of the piece, or the piece does not begin
                where the last one left off.
        """
        length = piece.end - piece.start
        if wav.shape != (length,):
            raise ValueError(f"the piece has {length} samples, the audio has the shape {wav.shape}")
        faded = wav.astype(np.float32, copy=True)
        n_in, n_out = piece.fade_in, piece.fade_out
        if self._tail.size != (n_in if piece.joins_previous else 0):
            raise ValueError(
                f"the piece does not meet the one before it: {self._tail.size}, {n_in}"
            )
        if n_in and piece.joins_previous:
            faded[:n_in] = crossfade(self._tail, wav[:n_in])
        elif n_in:
            faded[:n_in] *= smooth_ramp(n_in)
        if n_out and not piece.joins_next:
            faded[length - n_out :] *= smooth_ramp(n_out)[::-1]
        yield from self._silence(piece.start)
        kept = length - n_out if piece.joins_next else length
        self._tail = faded[kept:].copy()
        self._done = piece.start + kept
        if kept:
            yield faded[:kept]

    def finish(self) -> Iterator[FloatArray]:
        """Yield the silence after the last piece."""
        yield from self._silence(self._n_samples)

    def _silence(self, end: int) -> Iterator[FloatArray]:
        while self._done < end:
            n = min(_SILENCE, end - self._done)
            self._done += n
            yield np.zeros(n, dtype=np.float32)
