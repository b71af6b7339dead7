from __future__ import annotations

import math

import numpy as np
import pytest

from svc.audio import limiter
from svc.audio.limiter import AHEAD_SECONDS, limit_true_peak, true_peak

SR = 44100
CEILING = 10 ** (-1 / 20)


def bursts(rng: np.random.Generator, seconds: float = 1.0, channels: int = 2) -> np.ndarray:
    """Soft noise up to 10 kHz with loud places, one of them near each end."""
    n = round(seconds * SR)
    envelope = np.full(n, 0.05)
    for at in (0.02, 0.3, 0.31, 0.7, 0.98):
        envelope += 0.8 * np.exp(-(((np.arange(n) / n - at) / 0.01) ** 2))
    spectrum = np.fft.rfft(rng.standard_normal((channels, n)))
    spectrum[:, round(10_000 * seconds) :] = 0
    return (envelope * np.fft.irfft(spectrum, n)).astype(np.float32)


def test_a_peak_between_the_samples_is_found() -> None:
    # At a quarter of the rate and 45 degrees the samples of a sine are 0.707 of its peak.
    at = np.arange(SR // 4)
    tone = np.sin(math.pi / 2 * at + math.pi / 4).astype(np.float32)[None]
    assert np.abs(tone).max() == pytest.approx(math.sqrt(0.5), abs=1e-6)
    middle = tone * np.hanning(at.size).astype(np.float32)
    assert true_peak(middle, SR) == pytest.approx(1.0, abs=2e-3)


def test_the_ceiling_is_kept(rng: np.random.Generator) -> None:
    wav = bursts(rng)
    limited = limit_true_peak(wav, SR)
    assert true_peak(limited.wav, SR) <= CEILING
    # Against an interpolation that the limiter does not use: the whole spectrum, 16 times. Four times
    # read a tone of 10 kHz up to 0.14 dB too low (BS.1770-4 annex 2, attachment 1).
    n = limited.wav.shape[1]
    finer = np.fft.irfft(np.fft.rfft(limited.wav.astype(np.float64)), 16 * n) * 16
    assert np.abs(finer).max() <= CEILING * 10 ** (0.15 / 20)
    assert 3 < limited.reduction_db < 20
    assert 0.05 < limited.seconds < 0.8


def test_nothing_above_the_ceiling_is_nothing_done(rng: np.random.Generator) -> None:
    wav = bursts(rng) * np.float32(0.05)
    limited = limit_true_peak(wav, SR)
    assert limited.wav is wav
    assert limited.reduction_db == 0


def test_far_from_a_peak_every_sample_stays(rng: np.random.Generator) -> None:
    wav = (0.05 * rng.standard_normal((1, 6 * SR))).astype(np.float32)
    at = 2 * SR
    wav[0, at : at + 20] = 3.0
    limited = limit_true_peak(wav, SR).wav
    before = at - 2 * round(AHEAD_SECONDS * SR)
    assert np.array_equal(limited[:, :before], wav[:, :before])
    assert np.array_equal(limited[:, at + 2 * SR :], wav[:, at + 2 * SR :])
    # The release: a time constant after the peak 1 / e of the dip is left.
    gain = limited[0, at + 20 + round(0.055 * SR)] / wav[0, at + 20 + round(0.055 * SR)]
    assert 1 - gain == pytest.approx((1 - CEILING / 3) / math.e, rel=0.25)


def test_no_delay() -> None:
    wav = np.zeros((1, SR // 2), dtype=np.float32)
    wav[0, 5000] = 2.0
    limited = limit_true_peak(wav, SR).wav
    assert np.flatnonzero(limited).tolist() == [5000]
    assert limited[0, 5000] <= CEILING


def test_silence_stays_silence() -> None:
    wav = np.zeros((2, SR), dtype=np.float32)
    wav[:, 100:200] = 2.0
    limited = limit_true_peak(wav, SR).wav
    assert not limited[:, 200:].any()
    assert not limited[:, :100].any()


def test_channels_share_the_gain(rng: np.random.Generator) -> None:
    wav = bursts(rng)
    wav[1] = 0.25 * wav[0]
    limited = limit_true_peak(wav, SR).wav
    np.testing.assert_allclose(limited[1], 0.25 * limited[0], rtol=0, atol=1e-7)


def test_blocks_leave_no_trace(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    wav = bursts(rng)
    whole = limit_true_peak(wav, SR)
    monkeypatch.setattr(limiter, "_BLOCK", 3001)
    parts = limit_true_peak(wav, SR)
    np.testing.assert_allclose(parts.wav, whole.wav, rtol=0, atol=1e-5)
    assert parts.reduction_db == pytest.approx(whole.reduction_db, abs=1e-3)


@pytest.mark.parametrize("n", [0, 1, 10, 300])
def test_short_ones(n: int) -> None:
    limited = limit_true_peak(np.full((2, n), 1.5, dtype=np.float32), SR)
    assert limited.wav.shape == (2, n)
    assert true_peak(limited.wav, SR) <= CEILING
