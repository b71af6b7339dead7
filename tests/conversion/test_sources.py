from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from svc.audio.resample import resample
from svc.conversion.sources import ArraySource, SongReader
from svc.errors import AudioError


class Blocks:
    """A song in blocks of one size."""

    def __init__(self, wav: np.ndarray, sr: int, size: int) -> None:
        self.wav, self.sr, self.size = wav, sr, size
        self.read = 0

    def blocks(self) -> Iterator[np.ndarray]:
        self.read = 0
        for start in range(0, len(self.wav), self.size):
            self.read = start + self.size
            yield self.wav[start : start + self.size]


@pytest.mark.parametrize("size", [1, 777, 1 << 20])
@pytest.mark.parametrize("sr", [8000, 44100, 48000])
def test_any_part_is_that_of_the_whole(rng: np.random.Generator, sr: int, size: int) -> None:
    wav = rng.standard_normal(9000).astype(np.float32)
    whole = resample(wav, sr, 44100)
    padded = np.pad(whole, 500)
    reader = SongReader(Blocks(wav, sr, size), len(wav), 44100)
    assert reader.n_samples == len(whole)
    begin = -500
    while begin < len(whole):
        reader.forget(begin - 100)
        end = min(begin + int(rng.integers(1, 3000)), len(whole) + 500)
        np.testing.assert_array_equal(reader.take(begin, end), padded[begin + 500 : end + 500])
        back = begin - 90
        if back >= -500:
            part = reader.take(back, begin + 5)
            np.testing.assert_array_equal(part, padded[back + 500 : begin + 505])
        begin += int(rng.integers(1, 3000))


def test_no_more_is_read_than_is_needed_and_silence_is_not_kept() -> None:
    source = Blocks(np.ones(44100 * 100, np.float32), 44100, 1000)
    reader = SongReader(source, len(source.wav), 44100)
    reader.take(0, 44100)
    assert source.read < 44100 + (1 << 16)
    reader.forget(90 * 44100)
    assert reader.take(95 * 44100, 96 * 44100).all()
    assert sum(part.size for part in reader._parts) < 7 * 44100
    with pytest.raises(ValueError, match="forgotten"):
        reader.take(50 * 44100, 51 * 44100)


def test_outside_the_song_is_silence() -> None:
    reader = SongReader(ArraySource(np.ones(10, np.float32), 44100), 10, 44100)
    assert reader.take(-3, 2).tolist() == [0, 0, 0, 1, 1]
    assert reader.take(8, 12).tolist() == [1, 1, 0, 0]
    assert not reader.take(-9, -4).any()
    assert not reader.take(12, 15).any()


def test_a_song_that_becomes_shorter_is_an_error() -> None:
    reader = SongReader(ArraySource(np.ones(900, np.float32), 44100), 1000, 44100)
    with pytest.raises(AudioError, match="has changed"):
        reader.take(0, 1000)
