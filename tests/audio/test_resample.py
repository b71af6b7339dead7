from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from svc.audio.resample import resample, resampled_length, sinc_resample, sinc_resample_array

Sine = Callable[..., np.ndarray]
RATES = [8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000, 192000]


def sine_error(wav: np.ndarray, frequency: float, sr: int) -> float:
    """Largest distance from the ideal sine, the ends excepted."""
    ideal = np.sin(2 * np.pi * frequency * np.arange(len(wav)) / sr)
    edge = round(0.05 * sr)
    return float(np.abs(wav - ideal)[edge:-edge].max())


@pytest.mark.parametrize("new_sr", RATES)
@pytest.mark.parametrize("orig_sr", RATES)
def test_pitch_and_length(orig_sr: int, new_sr: int) -> None:
    n = orig_sr // 4 + 7
    wav = np.sin(2 * np.pi * 440 * np.arange(n) / orig_sr).astype(np.float32)
    ours = sinc_resample(torch.from_numpy(wav), orig_sr, new_sr).numpy()
    soxr = resample(wav, orig_sr, new_sr)
    for out in (ours, soxr):
        assert len(out) == math.ceil(n * new_sr / orig_sr) == resampled_length(n, orig_sr, new_sr)
        assert out.dtype == np.float32
    # Six zero crossings ripple by 3e-3 in the pass band; soxr is good to 16 bits.
    assert sine_error(ours, 440, new_sr) < 5e-3
    assert sine_error(soxr, 440, new_sr) < 2e-4


@pytest.mark.parametrize(("orig_sr", "new_sr"), [(44100, 16000), (8000, 11025), (3, 2)])
@pytest.mark.parametrize("width", [6, 128])
def test_against_the_definition(
    rng: np.random.Generator, orig_sr: int, new_sr: int, width: int
) -> None:
    """y(t) = sum over k of x[k] h(t - k / orig) with h a Hann-windowed sinc, evaluated directly."""
    wav = rng.standard_normal(600)
    out = sinc_resample(torch.from_numpy(wav), orig_sr, new_sr, lowpass_width=width).numpy()
    cutoff = min(orig_sr, new_sr) * 0.99
    time = np.arange(len(out))[:, None] / new_sr - np.arange(600)[None] / orig_sr
    crossings = time * cutoff
    window = np.cos(np.clip(crossings / width, -1, 1) * np.pi / 2) ** 2
    kernel = np.sinc(crossings) * window * (np.abs(crossings) < width) * cutoff / orig_sr
    # The phases of the kernel are float32, like those of the implementation it follows.
    np.testing.assert_allclose(out, kernel @ wav, atol=5e-5)


def test_aliases_are_gone() -> None:
    wav = torch.sin(2 * torch.pi * 12000 * torch.arange(44100, dtype=torch.float64) / 44100)
    assert sinc_resample(wav, 44100, 16000)[500:-500].abs().max() < 3e-3
    assert sinc_resample(wav, 44100, 16000, lowpass_width=128)[500:-500].abs().max() < 1e-6
    assert np.abs(resample(wav.numpy(), 44100, 16000))[500:-500].max() < 1e-4


def test_soxr_equals_librosa(rng: np.random.Generator) -> None:
    librosa = pytest.importorskip("librosa")
    wav = rng.standard_normal(30000).astype(np.float32)
    for orig_sr, new_sr in [(44100, 16000), (48000, 44100), (8000, 44100)]:
        expected = librosa.resample(wav, orig_sr=orig_sr, target_sr=new_sr)
        np.testing.assert_array_equal(resample(wav, orig_sr, new_sr), expected)


def test_prime_rates_need_little_memory(sine: Sine) -> None:
    """Kernels of large ratios are cut into blocks; 44101 to 16001 Hz would need 2.8 GB in one."""
    wav = torch.from_numpy(sine(440, 0.5, 8009, 1.0))
    out = sinc_resample(wav, 8009, 6007)
    assert len(out) == resampled_length(len(wav), 8009, 6007)
    assert sine_error(out.numpy(), 440, 6007) < 5e-3


def test_axes_dtypes_and_layout(rng: np.random.Generator) -> None:
    wav = torch.from_numpy(rng.standard_normal((2, 3, 1000)).astype(np.float32))
    out = sinc_resample(wav, 3, 2)
    assert out.shape == (2, 3, 667)
    for row in ((0, 1), (1, 2)):
        torch.testing.assert_close(out[row], sinc_resample(wav[row], 3, 2))
    strided = wav.transpose(0, 1)[:, ::2]
    torch.testing.assert_close(sinc_resample(strided, 3, 2), out.transpose(0, 1)[:, ::2])
    half = sinc_resample(wav.half(), 3, 2)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), out, atol=5e-3, rtol=0)
    assert sinc_resample(wav.double(), 3, 2).dtype == torch.float64

    array = wav.numpy()
    done = resample(array, 44100, 16000)
    assert done.shape == (2, 3, 363)
    np.testing.assert_array_equal(done[1, 2], resample(array[1, 2], 44100, 16000))
    np.testing.assert_array_equal(
        done[:, :, :], resample(array[..., ::-1][..., ::-1], 44100, 16000)
    )


@pytest.mark.parametrize("n", [0, 1, 2, 10])
def test_tiny_clips(n: int) -> None:
    assert sinc_resample(torch.ones(2, n), 44100, 16000).shape == (2, math.ceil(n * 160 / 441))
    assert resample(np.ones((2, n), np.float32), 44100, 16000).shape == (
        2,
        math.ceil(n * 160 / 441),
    )
    assert resample(np.ones(n, np.float32), 16000, 44100).shape == (math.ceil(n * 441 / 160),)


def test_equal_rates_change_nothing(rng: np.random.Generator) -> None:
    wav = rng.standard_normal(100).astype(np.float32)
    np.testing.assert_array_equal(resample(wav, 44100, 44100), wav)
    assert torch.equal(sinc_resample(torch.from_numpy(wav), 44100, 44100), torch.from_numpy(wav))


def test_every_rate_pair_has_its_own_kernel(sine: Sine) -> None:
    """A cache keyed by less than everything gave wrong pitch after another file (spec_core I2)."""
    first = torch.from_numpy(sine(440, 0.3, 48000, 1.0))
    second = torch.from_numpy(sine(440, 0.3, 44100, 1.0))
    assert sine_error(sinc_resample(first, 48000, 16000).numpy(), 440, 16000) < 5e-3
    assert sine_error(sinc_resample(second, 44100, 16000).numpy(), 440, 16000) < 5e-3
    wide = sinc_resample(second, 44100, 16000, lowpass_width=64)
    assert not torch.equal(wide, sinc_resample(second, 44100, 16000))
    low = sinc_resample(second, 44100, 16000, rolloff=0.5)
    assert not torch.equal(low, sinc_resample(second, 44100, 16000))


def test_kernel_made_in_inference_mode_serves_training() -> None:
    with torch.inference_mode():
        sinc_resample(torch.ones(100), 17, 13)
    wav = torch.ones(100, requires_grad=True)
    sinc_resample(wav, 17, 13).sum().backward()
    assert wav.grad is not None
    assert wav.grad.abs().max() > 0


@pytest.mark.parametrize(("orig_sr", "new_sr"), [(0, 16000), (44100, -1), (44100.5, 16000)])
def test_impossible_rates(orig_sr: int, new_sr: int) -> None:
    with pytest.raises(ValueError, match="sampling rates"):
        sinc_resample(torch.ones(10), orig_sr, new_sr)
    with pytest.raises(ValueError, match="sampling rates"):
        resample(np.ones(10), orig_sr, new_sr)


@pytest.mark.parametrize(("orig", "new"), [(44100, 16000), (16000, 44100), (48000, 16000), (7, 5)])
@pytest.mark.parametrize("width", [6, 128])
def test_arrays_are_resampled_like_tensors(
    rng: np.random.Generator, orig: int, new: int, width: int
) -> None:
    for n_samples in (1, 5, 400, 30_001):
        wav = rng.standard_normal(n_samples).astype(np.float32)
        ours = sinc_resample_array(wav, orig, new, lowpass_width=width)
        theirs = sinc_resample(torch.from_numpy(wav), orig, new, lowpass_width=width).numpy()
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, atol=5e-6)


def test_an_array_longer_than_a_block_of_windows(rng: np.random.Generator) -> None:
    wav = rng.standard_normal(300 * 4097).astype(np.float32)
    ours = sinc_resample_array(wav, 300, 1)
    np.testing.assert_allclose(ours, sinc_resample(torch.from_numpy(wav), 300, 1), atol=5e-6)
