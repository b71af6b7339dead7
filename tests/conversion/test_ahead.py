from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from svc.audio.pitch import F0Track
from svc.conversion import Converter, InferOptions
from svc.conversion.ahead import runs_beside, with_tracks
from svc.conversion.chunks import Piece
from svc.conversion.sources import ArraySource
from svc.conversion.windows import Passage, Window
from svc.errors import AudioError
from svc.f0 import build_f0_predictor

SR = 44100


class Predictor:
    """The first sample as the pitch; notes where and when it is asked."""

    def __init__(self, name: str = "dio", *, bad: float = -1.0, seconds: float = 0.0) -> None:
        self.name, self.settings = name, None
        self.bad, self.seconds = bad, seconds
        self.asked: list[float] = []
        self.threads: set[str] = set()

    def __call__(self, wav: np.ndarray) -> F0Track:
        self.asked.append(float(wav[0]))
        self.threads.add(threading.current_thread().name)
        time.sleep(self.seconds)
        if wav[0] == self.bad:
            raise AudioError("a bad window")
        return F0Track(np.full(len(wav) // 512, wav[0]), np.ones(len(wav) // 512, "f4"))


def stretches(n: int, taken: list[int] | None = None, size: int = 1024) -> Iterator[Passage]:
    for index in range(n):
        if taken is not None:
            taken.append(index)
        yield Passage(Window(np.full(size, index, np.float32)), 0, Piece(0, size))


def threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("svc-f0")]


def test_every_window_gets_its_own_track_in_order() -> None:
    predictor = Predictor()
    given = F0Track(np.ones(2), np.ones(2))
    items = list(stretches(6))
    items[3] = Passage(Window(items[3].window.wav, given), 0, items[3].piece)
    made = list(with_tracks(iter(items), predictor, lambda: 0))
    assert [one.window.wav[0] for one in made] == list(range(6))
    assert made[3].window.track is given
    for index in (0, 1, 2, 4, 5):
        track = made[index].window.track
        assert track is not None
        assert track.f0.tolist() == [index, index]
    assert predictor.asked == [0, 1, 2, 4, 5]
    assert len(predictor.threads) == 1
    assert threading.current_thread().name not in predictor.threads
    assert not threads()


@pytest.mark.parametrize(("limit", "ahead"), [(0, 1), (1024, 1), (3000, 3)])
def test_it_is_one_window_ahead_or_as_far_as_is_asked(limit: int, ahead: int) -> None:
    taken: list[int] = []
    for index, _ in enumerate(with_tracks(stretches(9, taken), Predictor(), lambda: limit)):
        assert len(taken) == min(index + 1 + ahead, 9)


def test_the_next_window_is_listened_to_meanwhile() -> None:
    predictor = Predictor()
    made = with_tracks(stretches(3), predictor, lambda: 0)
    next(made)
    for _ in range(500):
        if len(predictor.asked) == 2:
            break
        time.sleep(0.01)
    assert predictor.asked == [0, 1]
    made.close()
    assert not threads()


def test_an_error_comes_at_its_window() -> None:
    made = with_tracks(stretches(9), Predictor(bad=2), lambda: 4096)
    assert [float(next(made).window.wav[0]) for _ in range(2)] == [0, 1]
    with pytest.raises(AudioError, match="a bad window"):
        next(made)
    assert not threads()


def test_closing_early_ends_the_thread() -> None:
    predictor = Predictor(seconds=0.02)
    made = with_tracks(stretches(50), predictor, lambda: 10**6)
    next(made)
    made.close()
    assert not threads()
    assert len(predictor.asked) < 50


def test_who_works_beside_the_nets() -> None:
    for name in ("dio", "harvest", "ensemble:dio+harvest"):
        assert runs_beside(build_f0_predictor(name), "cpu")
        assert runs_beside(build_f0_predictor(name), "cuda:0")
    for name in ("pm", "ensemble:pm+dio"):  # they keep the interpreter
        assert not runs_beside(build_f0_predictor(name), "cpu")
        assert runs_beside(build_f0_predictor(name), "cuda:0")
    for name in ("crepe", "rmvpe", "fcpe", "ensemble:crepe-tiny+dio", "stub"):
        assert not runs_beside(Predictor(name), "cuda:0")  # type: ignore[arg-type]
    assert not runs_beside(None, "cpu")


# ------------------------------------------------------------------------------ in a song


def test_a_song_is_heard_ahead_and_sung_alike(echo: Any, song: Any) -> None:
    wav = song([(3.0, 0.5)])
    options = InferOptions(clip_seconds=0.5)
    voices = [echo(), echo()]
    for voice, name in zip(voices, ("dio", "rmvpe"), strict=True):
        voice.f0_predictor = Predictor(name)
    beside, inline = (Converter(voice).convert(wav, SR, 0, options) for voice in voices)
    assert np.array_equal(beside, inline)
    assert len(voices[0].tracks) == 6
    assert all(track is not None for track in voices[0].tracks)
    assert voices[1].tracks == [None] * 6  # the voice asks
    assert voices[1].f0_predictor.asked == []


@pytest.mark.parametrize("how", ["closed", "predictor", "model"])
def test_no_thread_is_left_behind(echo: Any, how: str) -> None:
    def change(window: np.ndarray, call: int) -> np.ndarray:
        if how == "model" and call == 3:
            raise RuntimeError("a fault")
        return window

    voice = echo(change)
    wav = np.linspace(0.1, 1, 3 * SR, dtype=np.float32)
    wav[2 * SR - 2000 : 2 * SR + 2000] = 0.77  # the fifth window begins so
    voice.f0_predictor = Predictor(bad=float(np.float32(0.77)) if how == "predictor" else -1.0)
    options = InferOptions(clip_seconds=0.5, pad_seconds=0)
    stream = Converter(voice).stream(ArraySource(wav, SR), 0, options)
    next(stream)
    assert len(threads()) == 1
    error: BaseException | None = None
    if how == "closed":
        stream.close()
    else:
        try:
            list(stream)
        except (RuntimeError, AudioError) as fault:
            error = fault  # and with it the traceback and all its frames
        assert error is not None
    assert not threads()
    assert len(voice.windows) == {"closed": 1, "predictor": 4, "model": 3}[how]
