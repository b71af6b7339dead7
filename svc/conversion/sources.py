"""Where the samples of a song come from: read in blocks, as often as it is gone through."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from svc.audio.resample import resampled_length
from svc.audio.resample_stream import ResampleStream
from svc.conversion.chunks import FloatArray
from svc.errors import AudioError

_STEP = 1 << 16  # samples of a block that are resampled at once


class SongSource(Protocol):
    """A song that can be read more than once."""

    @property
    def sr(self) -> int:
        """Its rate, Hz."""

    def blocks(self) -> Iterator[FloatArray]:
        """Yield its samples from the beginning, float32 (n,) each, n > 0, as they come.

        A block is done with when the next one is asked for, so its memory may be used again.
        """


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


class SongReader:
    """A song at the model's rate, of which only a part is in memory: it moves towards the end.

    Args:
        source: the song.
        n_samples: T, its length at its own rate.
        sr: rate of the model, Hz.

    Attributes:
        n_samples: its length at the model's rate.
    """

    def __init__(self, source: SongSource, n_samples: int, sr: int) -> None:
        self.n_samples = resampled_length(n_samples, source.sr, sr)
        self._steps = _steps(source)
        self._stream = ResampleStream(source.sr, sr)
        self._parts: deque[FloatArray] = deque()  # without gaps
        self._begin = self._end = 0  # of all parts, in the song
        self._needed = 0  # what lies before it is not wanted any more

    def take(self, begin: int, end: int) -> FloatArray:
        """Return samples of the song, reading on as far as is needed.

        Args:
            begin: first sample; may be negative.
            end: one past the last; may pass the end of the song.

        Returns:
            float32 (end - begin,), a copy; zeros where that is outside the song.

        Raises:
            AudioError: the song is not as long as it was.
            ValueError: a part that was forgotten.
        """
        low, high = max(begin, 0), min(end, self.n_samples)
        if low < min(self._needed, high):
            raise ValueError(
                f"sample {low} is asked for, those before {self._needed} are forgotten"
            )
        while self._end < high:
            self._read()
        taken = np.zeros(end - begin, dtype=np.float32)
        start = self._begin
        for part in self._parts:
            first, last = max(low, start), min(high, start + part.size)
            if first < last:
                taken[first - begin : last - begin] = part[first - start : last - start]
            start += part.size
        return taken

    def forget(self, before: int) -> None:
        """Give up what lies before a sample, also what is read later."""
        self._needed = max(self._needed, before)
        while self._parts and self._begin + self._parts[0].size <= self._needed:
            self._begin += self._parts.popleft().size

    def _read(self) -> None:
        step = next(self._steps, None)
        if step is not None:
            part = self._stream.feed(step)
        else:
            part = self._stream.finish()
            if self._end + part.size != self.n_samples:
                raise AudioError("the song has changed while it was read; try again")
        if part.size:
            self._parts.append(part)
            self._end += part.size
            self.forget(self._needed)


def _steps(source: SongSource) -> Iterator[FloatArray]:
    """Yield the samples of a source in blocks that are not large."""
    for block in source.blocks():
        for start in range(0, block.size, _STEP):
            yield block[start : start + _STEP]
