"""Where the samples of a song come from: read in blocks, as often as it is gone through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from svc.conversion.chunks import FloatArray


class SongSource(Protocol):
    """A song that can be read more than once."""

    @property
    def sr(self) -> int:
        """Its rate, Hz."""

    def blocks(self) -> Iterator[FloatArray]:
        """Yield its samples from the beginning, float32 (n,) each, n > 0, as they come."""


@dataclass(frozen=True)
class ArraySource:
    """A song in memory.

    Attributes:
        wav: float32 (T,).
        sr: its rate, Hz.
    """

    wav: FloatArray
    sr: int

    def blocks(self) -> Iterator[FloatArray]:
        """See `SongSource.blocks`."""
        if self.wav.size:
            yield self.wav
