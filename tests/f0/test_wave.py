"""The wave that predictors share: one resampling for all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import svc.f0.wave
from svc.audio.resample import sinc_resample
from svc.errors import AudioError
from svc.f0.settings import F0Settings
from svc.f0.wave import F0Wave

Wave = npt.NDArray[np.float32]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rates that have been resampled to, in order."""
    rates: list[int] = []

    def counted(wav: torch.Tensor, orig_sr: int, new_sr: int, **options: Any) -> torch.Tensor:
        rates.append(new_sr)
        return sinc_resample(wav, orig_sr, new_sr, **options)

    monkeypatch.setattr(svc.f0.wave, "sinc_resample", counted)
    return rates


def test_at_16k_is_the_resampling_in_front_of_the_nets(sine: Callable[..., Wave]) -> None:
    wav = sine(440, 0.5)
    ours = F0Wave(wav, 44100).at_16k()
    assert ours.dtype == torch.float32
    assert ours.shape == (1, 8000)
    expected = sinc_resample(torch.from_numpy(wav)[None], 44100, 16000, lowpass_width=128)
    assert torch.equal(ours, expected)
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 16000)
    np.testing.assert_allclose(ours[0, 400:-400].numpy(), tone[400:-400], atol=1e-3)


def test_it_is_computed_once(sine: Callable[..., Wave], calls: list[int]) -> None:
    wave = F0Wave(sine(440, 0.2), 44100)
    first = wave.at_16k("cpu")
    assert wave.at_16k(torch.device("cpu")) is first
    assert wave.at_rate(16000) is first
    assert wave.at_rate(32000) is wave.at_rate(32000)
    assert calls == [16000, 32000]


def test_threads_share_one_result(sine: Callable[..., Wave], calls: list[int]) -> None:
    wave = F0Wave(sine(440, 2.0), 44100)
    barrier = threading.Barrier(4)
    found: list[torch.Tensor] = []

    def ask() -> None:
        barrier.wait()
        found.append(wave.at_16k())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(tensor is found[0] for tensor in found)
    assert calls == [16000]


def test_the_same_rate_is_a_copy_of_the_samples(sine: Callable[..., Wave]) -> None:
    wav = sine(300, 0.1, sr=16000)
    wav.flags.writeable = False
    tensor = F0Wave(wav, 16000).at_16k()
    np.testing.assert_array_equal(tensor[0].numpy(), wav)
    assert not np.shares_memory(tensor.numpy(), wav)


def test_what_was_made_in_inference_mode_can_be_used_outside(sine: Callable[..., Wave]) -> None:
    wave = F0Wave(sine(300, 0.1), 44100)
    with torch.inference_mode():
        tensor = wave.at_16k()
    weight = torch.ones(1, requires_grad=True)
    (tensor * weight).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None


def test_of(sine: Callable[..., Wave]) -> None:
    wav = sine(300, 0.1)
    wave = F0Wave.of(wav, 44100)
    assert wave.samples is wav
    assert F0Wave.of(wave, 44100) is wave
    with pytest.raises(ValueError, match="44100 Hz was given to a predictor for 48000 Hz"):
        F0Wave.of(wave, 48000)
    with pytest.raises(ValueError, match="mono"):
        F0Wave.of(np.zeros((2, 100), np.float32), 44100)
    with pytest.raises(ValueError, match="above 0"):
        F0Wave(wav, 0)
    doubles = F0Wave(wav.astype(np.float64)[::2], 22050)  # not contiguous
    assert doubles.samples.dtype == np.float32
    assert doubles.samples.flags.c_contiguous
    assert len(doubles) == len(wav) // 2


def test_prepared(sine: Callable[..., Wave]) -> None:
    """Only a short wave is replaced; a long one keeps what was resampled."""
    settings = F0Settings()
    long = F0Wave(sine(300, 0.2), 44100)
    resampled = long.at_16k()
    assert long.prepared(settings) is long
    assert long.prepared(settings).at_16k() is resampled
    short = F0Wave(sine(300, 0.05), 44100).prepared(settings)
    assert len(short) == 4410
    np.testing.assert_array_equal(short.samples[2205:], 0)
    broken = sine(300, 0.2)
    broken[7] = np.nan
    with pytest.raises(AudioError, match="1 samples"):
        F0Wave(broken, 44100).prepared(settings)
