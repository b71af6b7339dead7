from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from svc.audio.pitch import F0Track
from svc.f0 import build_f0_predictor
from svc.f0.remember import RememberingPredictor
from svc.f0.settings import F0Settings
from svc.f0.wave import F0Wave


class Counting:
    """Notes what it is given; the pitch is the first sample."""

    name = "counting"
    settings = F0Settings()

    def __init__(self) -> None:
        self.heard: list[int] = []

    def __call__(self, wav: Any) -> F0Track:
        samples = F0Wave.of(wav, 44100).samples
        self.heard.append(len(samples))
        n = len(samples) // 512
        return F0Track(np.full(n, 1000 * samples[0], "f4"), np.ones(n, "f4"))

    def track_batch(self, wavs: Any) -> list[F0Track]:
        return [self(wav) for wav in wavs]


def wave(value: float, seconds: float = 1.0) -> np.ndarray:
    return np.full(round(44100 * seconds), value, dtype=np.float32)


def test_nothing_is_heard_twice() -> None:
    inner = Counting()
    predictor = RememberingPredictor(inner)
    first, second = predictor(wave(0.2)), predictor(wave(0.3))
    again = predictor(F0Wave(wave(0.2), 44100))
    assert again is first
    assert (first.f0[0], second.f0[0]) == pytest.approx((200, 300))
    assert len(inner.heard) == 2
    tracks = predictor.track_batch([wave(0.3), wave(0.4), wave(0.2), wave(0.4)])
    assert [track.f0[0] for track in tracks] == pytest.approx([300, 400, 200, 400])
    assert len(inner.heard) == 3
    assert (predictor.name, predictor.settings) == ("counting", inner.settings)


def test_one_changed_sample_is_another_wave() -> None:
    inner = Counting()
    predictor = RememberingPredictor(inner)
    changed = wave(0.2)
    changed[-1] += 1e-6
    predictor.track_batch([wave(0.2), changed, wave(0.2, 1.1), wave(0.2)[::-1]])
    assert len(inner.heard) == 3


def test_memory_is_bounded_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svc.f0.remember._LONGEST_FRAMES", 3 * 86)
    inner = Counting()
    predictor = RememberingPredictor(inner)
    for value in (0.1, 0.2, 0.3, 0.1, 0.4):  # 0.2 is the one not asked for longest
        predictor(wave(value))
    assert len(inner.heard) == 4
    predictor(wave(0.1))
    assert len(inner.heard) == 4
    predictor(wave(0.2))
    assert len(inner.heard) == 5
    long = predictor(wave(0.5, 10.0))  # more than there is room for
    assert len(long) == 861
    predictor(wave(0.1))
    assert len(inner.heard) == 7


def test_a_real_predictor_is_the_same_with_memory(sine: Any) -> None:
    plain = build_f0_predictor("pm")
    predictor = RememberingPredictor(plain)
    wav = sine(220, 0.5)
    for _ in range(2):
        np.testing.assert_array_equal(predictor(wav).f0, plain(wav).f0)
    assert len(predictor(np.zeros(10, np.float32))) == 0
