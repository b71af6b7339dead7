from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch

from svc.audio.mel import (
    LogMel,
    MelConfig,
    MelScale,
    fcpe_mel,
    linear_spectrogram,
    mel_filterbank,
    rmvpe_mel,
    stft_magnitude,
    synthesizer_mel,
    vocoder_mel,
    whisper_mel,
)
from svc.audio.resample import sinc_resample

Reference = dict[str, np.ndarray]
Noise = Callable[..., torch.Tensor]
Same = Callable[..., None]

PRESETS = [synthesizer_mel, vocoder_mel, rmvpe_mel, fcpe_mel, whisper_mel]


@pytest.fixture
def same(assert_same_energies: Same) -> Same:
    return assert_same_energies


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array)


# ---------------------------------------------------------------- parity


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mel_0", {}),
        ("mel_p3", {"key_shift": 3.37}),
        ("mel_m4", {"key_shift": -4.2}),
        ("mel_speed", {"speed": 1.5}),
    ],
)
def test_vocoder_mel(
    reference: Reference, same: Same, name: str, options: dict[str, float]
) -> None:
    mel = vocoder_mel()(tensor(reference["vocoder_y"]).double(), **options)
    same(mel, tensor(reference[f"vocoder_{name}"]))


def test_vocoder_mel_of_a_short_clip(reference: Reference, same: Same) -> None:
    mel = vocoder_mel()(tensor(reference["vocoder_y"][:, :700]).double())
    same(mel, tensor(reference["vocoder_mel_short"]))


def test_synthesizer_mel_and_spectrogram(
    reference: Reference, hash_noise: Noise, same: Same
) -> None:
    real = hash_noise(9101, 20480, 0.3).reshape(2, 10240)
    fake = hash_noise(9102, 20480, 0.3).reshape(2, 10240)
    spec = linear_spectrogram(real, n_fft=2048, hop_length=512, win_length=2048)
    assert spec.shape == (2, 1025, 20)
    expected = tensor(reference["synth_spec_every_8th_bin"])
    torch.testing.assert_close(spec[:, ::8], expected, atol=1e-5, rtol=0)
    log_mel = synthesizer_mel()
    same(log_mel(real.double()), tensor(reference["synth_mel"]))
    assert torch.equal(log_mel.from_spec(spec), log_mel(real))
    loss = 45 * (log_mel(real) - log_mel(fake)).abs().mean()
    assert float(loss) == pytest.approx(float(reference["synth_mel_l1_x45"]), abs=1e-5)


def test_rmvpe_mel(reference: Reference, same: Same) -> None:
    wav = tensor(reference["wav44k"])[None].double()
    wav = sinc_resample(wav, 44100, 16000, lowpass_width=128)
    mel = rmvpe_mel()(wav)
    assert mel.shape == (1, 128, 201)
    same(mel[..., ::4], tensor(reference["rmvpe_mel_every_4th"]))


def test_fcpe_mel(reference: Reference, same: Same) -> None:
    wav = tensor(reference["wav44k"])[None].double()
    wav = sinc_resample(wav, 44100, 16000, lowpass_width=128)
    mel = fcpe_mel()(wav).transpose(1, 2)
    assert mel.shape == (1, 201, 128)
    same(mel[:, ::4], tensor(reference["fcpe_mel_every_4th"]), bands=2)
    assert torch.equal(mel[:, -1], mel[:, -2])


def test_whisper_mel(reference: Reference, same: Same) -> None:
    wav = tensor(reference["wav16k"]).double()
    window = torch.nn.functional.pad(wav, (0, 480000 - len(wav)))[None]
    mel = whisper_mel()(window)
    assert mel.shape == (1, 80, 3000)
    expected = tensor(reference["whisper_mel_every_4th"])
    same(mel[:, :, :400:4], expected[None], base=1e4)  # x = (log10 + 4) / 4
    assert float(mel.max() - mel.min()) == pytest.approx(2.0)  # 8 decades / 4


@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize(
    ("sr", "n_fft", "n_mels", "fmin", "fmax"),
    [
        (44100, 2048, 80, 0, 22050),
        (44100, 2048, 128, 40, 16000),
        (16000, 1024, 128, 30, 8000),
        (16000, 400, 80, 0, 8000),
        (16000, 400, 128, 0, None),
        (22050, 1024, 80, 0, 900),
    ],
)
def test_filterbank_equals_librosa(
    sr: int, n_fft: int, n_mels: int, fmin: float, fmax: float | None, scale: MelScale
) -> None:
    librosa = pytest.importorskip("librosa")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # empty filters of the narrow case
        expected = librosa.filters.mel(
            sr=sr, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax, htk=scale == "htk"
        )
    bank = mel_filterbank(sr, n_fft, n_mels, fmin, fmax, scale)
    np.testing.assert_allclose(bank.numpy(), expected, atol=1e-8, rtol=1e-6)
    assert bank.dtype == torch.float32


def test_log_mel_equals_librosa(rng: np.random.Generator) -> None:
    librosa = pytest.importorskip("librosa")
    wav = (0.1 * rng.standard_normal(16000)).astype(np.float32)
    ours = rmvpe_mel()(torch.from_numpy(wav)[None])[0]
    theirs = librosa.feature.melspectrogram(
        y=wav, sr=16000, n_fft=1024, hop_length=160, n_mels=128, fmin=30, fmax=8000, htk=True,
        power=1.0, pad_mode="reflect",
    )  # fmt: skip
    np.testing.assert_allclose(ours.numpy(), np.log(np.maximum(theirs, 1e-5)), atol=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_single_precision_is_within_its_rounding(preset: Callable[[], LogMel]) -> None:
    """Of the loudest band of a frame; a float32 transform knows the quiet ones no better."""
    wav = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0)) * 0.1
    wav = wav * torch.linspace(0, 1, 16000)
    base = 1e4 if preset is whisper_mel else np.e
    single, double = base ** preset()(wav).double(), base ** preset()(wav.double())
    assert float(((single - double).abs() / double.amax(1, keepdim=True)).max()) <= 3e-6


# ---------------------------------------------------------------- properties


@pytest.mark.parametrize("n", [512, 769, 1000, 10240, 10751])
def test_spectrogram_frames_are_samples_over_hop(n: int) -> None:
    wav = torch.randn(2, n, generator=torch.Generator().manual_seed(0))
    for n_fft, hop in [(2048, 512), (1024, 256), (400, 161), (1025, 256)]:
        spec = linear_spectrogram(wav, n_fft=n_fft, hop_length=hop, win_length=n_fft)
        assert spec.shape == (2, n_fft // 2 + 1, n // hop)
        assert torch.isfinite(spec).all()


def test_a_sine_shows_in_its_bin() -> None:
    time = torch.arange(44100) / 44100
    spec = linear_spectrogram(
        torch.sin(2 * torch.pi * 1000 * time)[None], n_fft=2048, hop_length=512, win_length=2048
    )
    assert (spec[0, :, 5:-5].argmax(0) == round(1000 * 2048 / 44100)).all()
    # A sine of amplitude 1 gives half the sum of the window at most.
    assert 0.85 * 512 < float(spec.max()) <= 512 * 1.001


def test_key_shift_moves_content_up() -> None:
    """Content appears shifted by the key shift: mel(440 Hz, +12) peaks where mel(880 Hz) does."""
    time = torch.arange(44100) / 44100
    low, high = (torch.sin(2 * torch.pi * f * time)[None] for f in (440.0, 880.0))
    mel = vocoder_mel()
    shifted = mel(low, key_shift=12.0)[0, :, 10:-10].argmax(0)
    assert (shifted == mel(high)[0, :, 10:-10].argmax(0)).all()
    assert mel(low, key_shift=5.0).shape == mel(low).shape


def test_speed_gives_fewer_frames() -> None:
    wav = torch.randn(1, 51200, generator=torch.Generator().manual_seed(0))
    assert vocoder_mel()(wav, speed=2.0).shape[-1] == 50
    assert vocoder_mel()(wav, speed=0.5).shape[-1] == 200
    assert vocoder_mel()(wav, speed=8.0).shape[-1] >= 12  # a hop longer than the window


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("n", [0, 1, 159, 160, 500, 511, 512, 600, 1100])
def test_every_length_gives_finite_frames(preset: Callable[[], LogMel], n: int) -> None:
    mel = preset()
    hop = mel.config.hop_length
    expected = {
        synthesizer_mel: n // hop,
        vocoder_mel: max(1, n // hop),
        rmvpe_mel: n // hop + 1,
        fcpe_mel: max(1, n // hop) + 1,
        whisper_mel: n // hop,
    }[preset]
    out = mel(torch.full((1, n), 0.1))
    assert out.shape == (1, mel.config.n_mels, expected)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_items_of_a_batch_do_not_touch(preset: Callable[[], LogMel]) -> None:
    wav = torch.randn(3, 8000, generator=torch.Generator().manual_seed(0))
    wav[1] *= 1e-4
    together = preset()(wav)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], preset()(wav[i : i + 1]), atol=1e-5, rtol=0)


def test_silence_is_the_floor() -> None:
    assert torch.allclose(rmvpe_mel()(torch.zeros(1, 16000)), torch.tensor(1e-5).log())


def test_half_precision_and_autocast_are_computed_in_float32() -> None:
    wav = 0.1 * torch.randn(1, 8192, generator=torch.Generator().manual_seed(0))
    mel = synthesizer_mel()
    exact = mel(wav)
    half = mel(wav.bfloat16())
    assert half.dtype == torch.float32
    assert float((half - exact).abs().mean()) < 0.02
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mel(wav), exact)


def test_gradient_is_finite_in_silence() -> None:
    wav = torch.zeros(1, 4096, requires_grad=True)
    synthesizer_mel()(wav).sum().backward()
    assert wav.grad is not None
    assert torch.isfinite(wav.grad).all()


def test_caches_made_in_inference_mode_serve_training() -> None:
    mel = synthesizer_mel(44100, 2000, 500, 2000, 70)  # settings that no other test has cached
    loud = torch.randn(1, 4096, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.inference_mode():
        mel(loud)
    mel(loud).sum().backward()
    assert loud.grad is not None
    assert float(loud.grad.abs().max()) > 0


def test_caches_are_keyed_by_everything() -> None:
    wav = torch.randn(1, 8192, generator=torch.Generator().manual_seed(0))
    low = synthesizer_mel(44100, 2048, 512, 2048, 80, 0.0, 22050.0)(wav)
    other = synthesizer_mel(22050, 2048, 512, 2048, 80, 0.0, 11025.0)(wav)
    narrow = synthesizer_mel(44100, 2048, 512, 1024, 80, 0.0, 22050.0)(wav)
    assert not torch.allclose(low, other)
    assert not torch.allclose(low, narrow)
    spec = linear_spectrogram(wav, n_fft=2048, hop_length=512, win_length=1024)
    assert torch.equal(narrow, synthesizer_mel(win_length=1024).from_spec(spec))
    bank = mel_filterbank(16000, 400, 80, 0, 8000)
    bank.zero_()
    assert float(mel_filterbank(16000, 400, 80, 0, 8000).sum()) > 0


def test_center_padding_equals_torch() -> None:
    wav = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0))
    ours = stft_magnitude(wav, 512, 128, 400, center=True)
    theirs = torch.stft(
        wav, 512, 128, 400, torch.hann_window(400), center=True, pad_mode="reflect",
        return_complex=True,
    ).abs()  # fmt: skip
    assert torch.equal(ours, theirs)


def test_impossible_settings() -> None:
    with pytest.raises(ValueError, match="fmin"):
        MelConfig(16000, 1024, 160, 1024, 80, 9000.0, 8000.0)
    with pytest.raises(ValueError, match="impossible"):
        MelConfig(16000, 1024, 160, 2048, 80, 0.0, 8000.0)
    with pytest.raises(ValueError, match="win_length"):
        stft_magnitude(torch.ones(1, 5000), 512, 128, 1024)
    with pytest.raises(ValueError, match="mel scale"):
        mel_filterbank(16000, 400, 80, 0, 8000, "bark")  # type: ignore[arg-type]
