"""Results written while they are sung: the same bytes as from the whole, in the memory of a block."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svc.audio.io import AudioWriter, read_audio, write_audio
from svc.audio.resample import resample
from svc.conversion import Converter, InferOptions, convert_files, file_source, plan_jobs
from svc.conversion.channels import ChannelMode
from svc.conversion.file_source import FileSource, SongFacts
from svc.conversion.jobs import exit_code
from svc.conversion.result_stream import write_result
from svc.conversion.results import ResultOptions, shape_result
from svc.errors import AudioError

SR = 44100
Sine = Callable[..., np.ndarray]


@pytest.fixture
def song(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three seconds of stereo that walks from side to side."""
    monkeypatch.setattr(file_source, "BLOCK_SECONDS", 0.4)
    monkeypatch.chdir(tmp_path)
    n = 3 * 22050 + 17
    walk = 0.5 * np.pi * (0.5 + 0.45 * np.sin(2 * np.pi * 0.4 * np.arange(n) / 22050))
    voice = 0.4 * np.sin(2 * np.pi * 220 * np.arange(n) / 22050)
    wav = np.stack((voice * np.cos(walk), voice * np.sin(walk)))
    wav += rng.uniform(-0.02, 0.02, wav.shape)
    write_audio("song.wav", wav.astype(np.float32), 22050, bit_depth="24")
    return Path("song.wav")


def cut(wav: np.ndarray, sizes: list[int]) -> Iterator[np.ndarray]:
    start = 0
    for size in itertools.cycle(sizes):
        if start >= wav.size:
            return
        yield wav[start : start + size]
        start += size


@pytest.mark.parametrize("rate", [44100, 22050, 48000])
@pytest.mark.parametrize("mode", ["mono", "keep", "mid-side"])
@pytest.mark.parametrize("loud", [1.0, 4.0])
def test_parts_become_what_the_whole_becomes(
    song: Path, mode: ChannelMode, rate: int, loud: float, caplog: pytest.LogCaptureFixture
) -> None:
    channels, sr = read_audio(song, mono=False)
    wav = np.float32(loud) * resample(channels.mean(axis=0)[::-1], sr, SR)
    expected = shape_result(wav, SR, rate, channels, sr, mode)
    turned_down = caplog.messages.copy()
    caplog.clear()
    facts = SongFacts.of(FileSource.of(song), -40.0, mode)
    results = ResultOptions(bit_depth="32f", channels=mode)
    for sizes in ([wav.size], [7000, 1, 40_000]):
        parts = cut(wav, sizes)
        path = Path("result.wav")
        made = write_result(path, parts, SR, rate, facts, results, n_converted=wav.size)
        found, found_sr = read_audio(path, mono=False)
        assert (made.n_channels, made.n_samples) == found.shape == expected.shape
        assert made.sr == found_sr == rate
        # No bit differs here; in general the factor of the side may, in its last one.
        np.testing.assert_array_equal(found, expected)
    assert caplog.messages == 2 * turned_down
    if mode != "mid-side":
        assert bool(turned_down) == (mode == "keep" and loud == 4.0)
    assert {path.name for path in Path().iterdir()} == {"song.wav", "result.wav"}


def test_a_result_of_another_length_is_not_cut(song: Path) -> None:
    """The original's arithmetic does not keep the length."""
    facts = SongFacts.of(FileSource.of(song), -40.0, "mid-side")
    for n in (1000, 200_000):
        wav = np.full(n, 0.25, np.float32)
        results = ResultOptions(bit_depth="32f", channels="mid-side")
        made = write_result(Path("r.wav"), [wav], SR, SR, facts, results, n_converted=n)
        assert (made.n_channels, made.n_samples) == (2, n)
    found, _ = read_audio("r.wav", mono=False)
    np.testing.assert_allclose(found.mean(axis=0), wav, atol=1e-7)


@pytest.mark.parametrize("mode", ["mono", "keep", "mid-side"])
@pytest.mark.parametrize("error", [AudioError("no"), KeyboardInterrupt()])
def test_what_ends_it_leaves_the_old_result(
    song: Path, mode: ChannelMode, error: BaseException
) -> None:
    Path("r.flac").write_bytes(b"old")
    facts = SongFacts.of(FileSource.of(song), -40.0, mode)

    def parts() -> Iterator[np.ndarray]:
        yield np.zeros(100_000, np.float32)
        raise error

    with pytest.raises(type(error)):
        write_result(
            Path("r.flac"),
            parts(),
            SR,
            SR,
            facts,
            ResultOptions(channels=mode),
            n_converted=200_000,
        )
    assert Path("r.flac").read_bytes() == b"old"
    assert {path.name for path in Path().iterdir()} == {"song.wav", "r.flac"}


def test_a_song_that_changes_while_it_is_sung_is_an_error(song: Path, echo: Any) -> None:
    def grow(window: np.ndarray, call: int) -> np.ndarray:
        if call == 1:
            wav, sr = read_audio(song, mono=False)
            write_audio(song, np.tile(wav, 2), sr, bit_depth="24")
        return window

    jobs, _ = plan_jobs(["song.wav"], ["alice"], InferOptions(), f0_name="pm")
    for mode in ("mono", "mid-side"):
        options = ResultOptions(channels=mode)  # type: ignore[arg-type]
        (outcome,) = convert_files(Converter(echo(grow)), jobs, results=options)
        assert "song.wav has changed while it was being read" in outcome.error
        assert exit_code([outcome]) == 2
        assert not list(Path("results").iterdir())


@pytest.mark.parametrize("mode", ["mono", "keep", "mid-side"])
def test_memory_does_not_grow_with_the_song(
    tmp_path: Path, echo: Any, sine: Sine, monkeypatch: pytest.MonkeyPatch, mode: ChannelMode
) -> None:
    """A minute more is 4 MB of stereo; what is kept of it are two tenths of one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(file_source, "BLOCK_SECONDS", 1.0)
    tone = sine(220, 1.0, 8000)
    half = np.tile(np.concatenate((tone, tone, 0 * tone)), 10)
    peaks = []
    for minutes in (0.5, 0.5, 1.5):  # the first one also loads what is loaded once
        with AudioWriter("song.wav", 8000, 2) as writer:
            for _ in range(round(2 * minutes)):
                writer.write(np.stack((half, 0.5 * half)))
        jobs, _ = plan_jobs(["song.wav"], ["alice"], InferOptions(), f0_name="pm", suffix="wav")
        voice = echo(sampling_rate=8000)
        voice.usual_seconds = 5.0
        converter = Converter(voice)
        tracemalloc.start()
        (outcome,) = convert_files(converter, jobs, results=ResultOptions(channels=mode))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert not outcome.error
        assert outcome.audio_seconds == pytest.approx(60 * minutes)
    assert peaks[2] - peaks[1] < 1e6, peaks
