from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from svc.audio.io import list_audio, read_audio
from svc.audio.slicer import Segment, Slicer
from svc.conversion.sources import ArraySource
from svc.conversion.survey import Survey, Surveyor, survey_song
from svc.errors import AudioError


def cut(wav: np.ndarray, sizes: Iterator[int]) -> Iterator[np.ndarray]:
    start = 0
    while start < len(wav):
        size = next(sizes)
        yield wav[start : start + size]
        start += size


def sizes(rng: np.random.Generator, largest: int) -> Iterator[int]:
    while True:
        yield int(rng.integers(1, largest))


@pytest.mark.parametrize("sr", [8000, 44100, 48000, 192000])
def test_segments_are_those_of_the_whole(rng: np.random.Generator, sr: int) -> None:
    for n in (0, 1, sr // 100, sr // 50, sr, 13 * sr):
        gate = np.repeat(rng.random(n // (sr // 4) + 1) > 0.5, sr // 4)[:n]
        wav = (0.3 * rng.standard_normal(n) * gate).astype(np.float32)
        expected = tuple(Slicer(sr, threshold_db=-35).slice(wav))
        for largest in (2000, 5 * sr):
            surveyor = Surveyor(sr, -35)
            for block in cut(wav, sizes(rng, largest)):
                surveyor.feed(block)
            assert surveyor.finish() == Survey(n, expected)


def test_single_samples() -> None:
    wav = np.full(3000, 0.5, np.float32)
    wav[400:2500] = 0
    surveyor = Surveyor(8000, -40)
    for block in cut(wav, itertools.repeat(1)):
        surveyor.feed(block)
    assert surveyor.finish().segments == tuple(Slicer(8000).slice(wav))


def test_real_recordings(shared: Path, rng: np.random.Generator) -> None:
    for path in list_audio(shared / "audio" / "singing" / "trope_cantor")[:3]:
        wav, sr = read_audio(path)
        surveyor = Surveyor(sr, -40)
        for block in cut(wav, sizes(rng, 30000)):
            surveyor.feed(block)
        assert surveyor.finish() == survey_song(ArraySource(wav, sr), -40)


def test_what_is_silent() -> None:
    assert survey_song(ArraySource(np.zeros(0, np.float32), 8000), -40) == Survey(0, ())
    assert Survey(0, ()).is_silent
    assert Survey(9, (Segment(0, 9, True),)).is_silent
    assert not Survey(9, (Segment(0, 5, True), Segment(5, 9, False))).is_silent


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_bad_samples_are_refused(bad: float) -> None:
    surveyor = Surveyor(8000, -40)
    surveyor.feed(np.zeros(100, np.float32))
    with pytest.raises(AudioError, match="NaN or infinite"):
        surveyor.feed(np.array([0, bad], np.float32))
