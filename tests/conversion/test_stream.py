from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from svc.audio.pitch import F0Track
from svc.conversion import Converter, InferOptions
from svc.conversion.mix_segments import MixSegment
from svc.conversion.sources import ArraySource
from svc.conversion.speaker_mix import SpeakerMix
from svc.conversion.survey import survey_song
from svc.errors import AudioError, ConfigError, CurveError

SR = 44100
Make = Callable[..., Converter]


class Blocks:
    """A song in blocks of random sizes below `largest`, which are overwritten afterwards."""

    def __init__(self, wav: np.ndarray, sr: int, largest: int) -> None:
        self.wav, self.sr, self.largest = wav, sr, largest
        self.times = 0

    def blocks(self) -> Iterator[np.ndarray]:
        self.times += 1
        rng = np.random.default_rng(self.times)
        start = 0
        while start < len(self.wav):
            block = self.wav[start : start + int(rng.integers(1, self.largest + 1))].copy()
            start += len(block)
            yield block
            block[:] = np.nan


def streamed(converter: Converter, source: Any, *args: Any, **more: Any) -> np.ndarray:
    parts = list(converter.stream(source, *args, **more))
    assert all(part.dtype == np.float32 and part.ndim == 1 and part.size > 0 for part in parts)
    return np.concatenate([np.zeros(0, np.float32), *parts])


def phrases(rng: np.random.Generator, sr: int, seconds: float) -> np.ndarray:
    """Noise and pauses of all lengths."""
    n = round(seconds * sr)
    gate = np.repeat(rng.choice([0, 0.001, 0.1, 0.5], n // (sr // 3) + 1), sr // 3)[:n]
    return (gate * rng.standard_normal(n)).astype(np.float32)


def loudly(window: np.ndarray, call: int) -> np.ndarray:
    """What a net does: every window is another one."""
    return np.random.default_rng(len(window)).uniform(0.5, 1.5) * window


WAYS = [
    InferOptions(max_chunk_seconds=2),
    InferOptions(max_chunk_seconds=0, pad_seconds=0),
    InferOptions(clip_seconds=0.7),
    InferOptions(clip_seconds=0.7, crossfade_seconds=0.3),
]


@pytest.mark.parametrize("sr", [8000, 44100, 48000, 192000])
@pytest.mark.parametrize("options", WAYS)
def test_block_sizes_do_not_matter(
    echo: Any, rng: np.random.Generator, options: InferOptions, sr: int
) -> None:
    wav = phrases(rng, sr, 14.0)
    converter = Converter(echo(loudly))
    expected = converter.convert(wav, sr, 0, options)
    assert expected.shape == (converter.output_length(len(wav), sr),)
    assert expected.any()
    for largest in (3000, 10 * sr):
        made = streamed(converter, Blocks(wav, sr, largest), 0, options)
        np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("n", [0, 1, 300, 511, 512, 3000])
@pytest.mark.parametrize("level", [0.0, 0.5])
def test_single_samples_and_short_songs(echo: Any, n: int, level: float) -> None:
    wav = np.full(n, level, np.float32)
    for sr in (8000, 44100):
        converter = Converter(echo(loudly))
        expected = converter.convert(wav, sr, 0)
        made = streamed(converter, Blocks(wav, sr, 1), 0)
        np.testing.assert_array_equal(made, expected)
        assert made.shape == (-(-n * SR // sr),)
        assert not made.any() if level == 0 or n == 0 else n == 1 or made.any()


def test_with_a_net(make_converter: Make, song: Any) -> None:
    wav = song([(1.2, 0.5), (0.4, 0.0), (1.0, 0.3)], 48000)
    converter = make_converter()
    options = InferOptions(clip_seconds=0.8, crossfade_seconds=0.1)
    expected = converter.convert(wav, 48000, "alice", options)
    assert np.abs(expected).max() > 1e-3
    made = streamed(converter, Blocks(wav, 48000, 999), "alice", options)
    np.testing.assert_array_equal(made, expected)


def test_windows_that_are_rendered_together(echo: Any, song: Any) -> None:
    wav = song([(6.0, 0.5), (0.4, 0.001), (7.3, 0.5)])
    options = InferOptions(clip_seconds=1.0)
    expected = Converter(echo(loudly)).convert(wav, SR, 0, options)
    groups: list[list[int]] = []

    class Together(echo):  # type: ignore[misc]
        batch_frames = 600

        def render_many(self, windows: Any, *rest: Any) -> Any:
            groups.append([window.wav.size // 512 for window in windows])
            return super().render_many(windows, *rest)

    seen: list[tuple[int, int]] = []
    made = Converter(Together(loudly)).convert(
        wav, SR, 0, options, progress=lambda done, total, what: seen.append((done, total))
    )
    np.testing.assert_array_equal(made, expected)
    assert max(len(group) for group in groups) > 1
    assert all(sum(group) <= 600 and group == sorted(group, reverse=True) for group in groups)
    n_pieces = sum(map(len, groups))
    assert seen == [(done, n_pieces) for done in range(n_pieces + 1)]


def test_the_song_is_read_twice_or_once(echo: Any, song: Any) -> None:
    wav = song([(1.0, 0.5)])
    converter = Converter(echo())
    source = Blocks(wav, SR, 5000)
    expected = streamed(converter, source, 0)
    assert source.times == 2
    survey = survey_song(ArraySource(wav, SR), InferOptions().slice_db)
    np.testing.assert_array_equal(streamed(converter, source, 0, survey=survey), expected)
    assert source.times == 3


def test_what_is_wrong_is_told_before_the_first_part(echo: Any, song: Any) -> None:
    converter = Converter(echo())
    source = ArraySource(song([(1.0, 0.5)]), SR)
    with pytest.raises(ConfigError, match="carol"):
        converter.stream(source, "carol")
    with pytest.raises(CurveError, match=r"the song 1\.00 s"):
        converter.stream(source, 0, f0=F0Track(np.ones(20), np.ones(20)))
    with pytest.raises(AudioError, match="NaN"):
        converter.stream(ArraySource(np.full(9, np.nan, np.float32), SR), 0)
    half = [MixSegment(0, 0.5, 1, 1)]
    for names in (["alice", "bob"], ["alice"]):
        mix = SpeakerMix.of(dict.fromkeys(names, half), echo.speakers, unit="seconds")
        with pytest.raises(ConfigError, match=r"0\.50 s before the song"):
            converter.stream(source, mix)
    with pytest.raises(ValueError, match="sr"):
        converter.stream(ArraySource(np.ones(9, np.float32), 0), 0)
    survey = survey_song(source, -40)
    shorter = ArraySource(source.wav[:-9000], SR)
    with pytest.raises(AudioError, match="has changed"):
        streamed(converter, shorter, 0, survey=survey)


def test_compat_is_one_part(echo: Any, song: Any) -> None:
    wav = song([(6, 0.5), (6, 0), (1.01, 0.5)], 16000)
    converter = Converter(echo(compat=True))
    (part,) = converter.stream(Blocks(wav, 16000, 3000), 0)
    np.testing.assert_array_equal(part, converter.convert(wav, 16000, 0))
    assert list(converter.stream(ArraySource(wav[:0], 16000), 0)) == []


# ------------------------------------------------------------------------------ memory


class Endless:
    """Minutes of tone with pauses, which are never in memory."""

    sr = 16000

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes

    def blocks(self) -> Iterator[np.ndarray]:
        second = 0.3 * np.sin(2 * np.pi * 200 * np.arange(self.sr) / self.sr)
        for index in range(round(60 * self.minutes)):
            # Phrases of 25 s, pauses of 4 s, and one of three minutes in the middle.
            paused = index % 29 >= 25 or 0.3 < index / (60 * self.minutes) < 0.45
            yield (second * (not paused)).astype(np.float32)


@pytest.mark.parametrize("options", [InferOptions(), InferOptions(slice_db=-200, clip_seconds=10)])
def test_memory_does_not_grow_with_the_song(echo: Any, options: InferOptions) -> None:
    def peak(minutes: float) -> float:
        voice = echo(sampling_rate=16000)
        voice.usual_seconds = 15.0
        voice.windows = type("Forgetful", (list,), {"append": lambda self, item: None})()
        voice.tracks = voice.windows
        tracemalloc.start()
        n = sum(part.size for part in Converter(voice).stream(Endless(minutes), 0, options))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert n == minutes * 60 * 16000
        return used

    peak(0.5)  # tables that are made once
    short, long = peak(2), peak(20)
    whole = 20 * 60 * 16000 * 4
    assert long < short + 0.02 * whole
    assert long < 0.2 * whole
