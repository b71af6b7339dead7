from __future__ import annotations

import numpy as np
import pytest

from svc.audio.hush import FADE_SECONDS, silence_gain

SR = 10_000


def with_silence(*spans: tuple[int, int], level: float = 0.0) -> np.ndarray:
    wav = np.full(10_000, 0.3, np.float32)
    for begin, end in spans:
        wav[begin:end] = level
    return wav


def test_long_silence_and_no_other() -> None:
    fade = round(FADE_SECONDS * SR)
    gain = silence_gain(with_silence((2000, 4000), (6000, 6900)), SR, -80)
    assert gain is not None
    assert gain.dtype == np.float32
    assert (gain[:2000] == 1).all()
    assert (gain[4000:] == 1).all()  # 90 ms are too short
    assert not gain[2000 + fade : 4000 - fade].any()
    assert (np.diff(gain[2000 : 2000 + fade]) < 0).all()
    assert np.array_equal(gain[2000 : 2000 + fade], gain[4000 - fade : 4000][::-1])
    assert np.abs(np.diff(gain)).max() < 2 / fade


def test_silence_at_the_ends_goes_on() -> None:
    gain = silence_gain(with_silence((0, 1500), (9000, 10_000)), SR, -80)
    assert gain is not None
    assert not gain[:1200].any()
    assert not gain[9300:].any()
    empty = silence_gain(np.zeros(3000, np.float32), SR, -80)
    assert empty is not None
    assert not empty.any()


@pytest.mark.parametrize("wav", [with_silence(), with_silence((10, 900)), np.zeros(0, np.float32)])
def test_nothing_to_do(wav: np.ndarray) -> None:
    assert silence_gain(wav, SR, -80) is None


def test_the_threshold(rng: np.random.Generator) -> None:
    quiet = with_silence((2000, 5000), level=2e-4)  # -74 dBFS
    assert silence_gain(quiet, SR, -80) is None
    assert silence_gain(quiet, SR, -70) is not None
    dither = with_silence((2000, 5000))
    dither[2000:5000] = (rng.random(3000) + rng.random(3000) - 1) / 32768
    assert silence_gain(dither, SR, -80) is not None
