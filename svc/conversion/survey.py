"""The first way through a song: how long it is, and where it is silent. Nothing of the audio is kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from svc.audio.slicer import Segment, Slicer
from svc.conversion.chunks import FloatArray
from svc.conversion.sources import SongSource
from svc.errors import AudioError


@dataclass(frozen=True)
class Survey:
    """What is known of a song before it is sung.

    Attributes:
        n_samples: T, its length at its own rate.
        segments: voiced and silent parts in order, in samples at its rate; they tile the song.
    """

    n_samples: int
    segments: tuple[Segment, ...]

    @property
    def is_silent(self) -> bool:
        """Nothing in it is to be sung."""
        return all(segment.silent for segment in self.segments)


class Surveyor:
    """Hears a song in blocks of any sizes; its segments are those that `Slicer` finds in the whole.

    In memory are four bytes for every 20 ms of the song: 0.7 MB for an hour.

    Args:
        sr: rate of the song, Hz.
        threshold_db: level below which it is silent, dBFS of RMS; `InferOptions.slice_db`.
    """

    def __init__(self, sr: int, threshold_db: float) -> None:
        self._slicer = Slicer(sr, threshold_db=threshold_db)
        self._levels = self._slicer.levels()

    def feed(self, block: FloatArray) -> None:
        """Take the next samples.

        Args:
            block: mono, float32 (n,), any n.

        Raises:
            AudioError: it holds NaN or infinity.
        """
        if not np.isfinite(block).all():
            raise AudioError("the audio holds NaN or infinite samples; repair or export it again")
        self._levels.feed(block)

    def finish(self) -> Survey:
        """Return what was found; nothing may be fed afterwards."""
        n_samples = self._levels.n_samples
        segments = self._slicer.decide(self._levels.finish(), n_samples)
        return Survey(n_samples, tuple(segments))


def survey_song(source: SongSource, threshold_db: float) -> Survey:
    """Go through a song once.

    Args:
        source: the song.
        threshold_db: as for `Surveyor`.

    Raises:
        AudioError: it holds NaN or infinity.
    """
    surveyor = Surveyor(source.sr, threshold_db)
    for block in source.blocks():
        surveyor.feed(block)
    return surveyor.finish()
