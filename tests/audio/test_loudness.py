from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from svc.audio.io import list_audio, read_audio
from svc.audio.loudness import (
    frame_volume,
    frame_volume_array,
    limit,
    lufs_normalize,
    match_envelope,
    match_envelope_array,
    peak_normalize,
    rms_frames,
    trim_silence,
)

Reference = dict[str, np.ndarray]
Noise = Callable[..., torch.Tensor]
Sine = Callable[..., np.ndarray]
SR = 44100


def decibel(linear: float) -> float:
    return 20 * float(np.log10(linear))


# ---------------------------------------------------------------- volume


def test_volume_is_the_original(reference: Reference, hash_noise: Noise) -> None:
    volume = frame_volume(hash_noise(2, 88200, 0.3)[None], 512)
    np.testing.assert_allclose(volume[0].numpy(), reference["vol"], atol=1e-6, rtol=0)


def test_volume_is_the_rms_around_each_frame(rng: np.random.Generator) -> None:
    wav = rng.standard_normal((2, 5000))
    volume = frame_volume(torch.from_numpy(wav), 512)
    assert volume.shape == (2, 9)
    for k in range(1, 9):
        window = wav[1, 512 * k - 256 : 512 * k + 256]
        assert float(volume[1, k]) == pytest.approx(np.sqrt(np.mean(window**2)))


@pytest.mark.parametrize("n", [0, 1, 511, 512, 1023])
def test_volume_of_short_clips(n: int) -> None:
    volume = frame_volume(torch.full((1, n), 0.5), 512)
    assert volume.shape == (1, n // 512)
    assert torch.allclose(volume, torch.tensor(0.5))


def test_volume_of_half_precision_does_not_underflow() -> None:
    volume = frame_volume(torch.full((1, 2048), 1e-4).half(), 512)
    torch.testing.assert_close(volume, torch.full((1, 4), 1e-4), atol=1e-7, rtol=0)


# ---------------------------------------------------------------- envelope


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_envelope_is_the_original(reference: Reference, hash_noise: Noise, ratio: float) -> None:
    source, output = hash_noise(2, 88200, 0.3), hash_noise(3, 87900, 0.1)
    output[:20000] = 0
    matched = match_envelope(source, SR, output, SR, ratio)[::50]
    np.testing.assert_allclose(matched.numpy(), reference[f"rms_{ratio}"], atol=1e-6, rtol=0)


def test_envelope_ratio_one_changes_nothing(hash_noise: Noise) -> None:
    output = hash_noise(3, 5000, 0.1)
    assert torch.equal(match_envelope(hash_noise(2, 5000, 0.3), SR, output, SR, 1.0), output)


def test_envelope_does_not_change_its_inputs(hash_noise: Noise) -> None:
    source, output = hash_noise(2, 50000, 0.3), hash_noise(3, 50000, 0.1)
    before = output.clone()
    match_envelope(source, SR, output, SR, 0.0)
    assert torch.equal(output, before)


def test_envelope_across_rates(sine: Sine) -> None:
    """A source at another rate gives the same envelope."""
    swell = np.linspace(0.05, 1, 4 * SR)
    source = sine(300, 4.0) * swell
    output = torch.from_numpy(sine(500, 4.0, amplitude=0.2))
    same = match_envelope(torch.from_numpy(source), SR, output, SR, 0.0)
    other = match_envelope(torch.from_numpy(source[::2].copy()), SR // 2, output, SR, 0.0)
    torch.testing.assert_close(other, same, atol=1e-3, rtol=0)
    late, early = same[3 * SR :].square().mean().sqrt(), same[:SR].square().mean().sqrt()
    assert float(late / early) > 3


def test_envelope_against_librosa(rng: np.random.Generator) -> None:
    librosa = pytest.importorskip("librosa")
    wav = rng.standard_normal(100000).astype(np.float32)
    out = torch.ones(1000)
    matched = match_envelope(torch.from_numpy(wav), SR, out, SR, 0.0)
    rms = librosa.feature.rms(y=wav, frame_length=44100, hop_length=22050)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(rms)[None], size=1000, mode="linear"
    )[0, 0]
    # The envelope of a constant 1 is that of its single frame, half of which is padding.
    present = np.sqrt(1000 / 44100)
    torch.testing.assert_close(matched * present, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("n_source", "n_output"), [(0, 0), (0, 10), (10, 0), (1, 1), (5, 100000)])
def test_envelope_of_tiny_clips(n_source: int, n_output: int) -> None:
    out = match_envelope(torch.ones(n_source), SR, torch.ones(n_output), SR, 0.3)
    assert out.shape == (n_output,)
    assert torch.isfinite(out).all()


def test_silent_source_silences(hash_noise: Noise) -> None:
    out = match_envelope(torch.zeros(50000), SR, hash_noise(3, 50000, 0.1), SR, 0.0)
    assert float(out.abs().max()) == 0.0


# ---------------------------------------------------------------- rms and trim


@pytest.mark.parametrize(
    ("n", "frame", "hop"), [(100000, 3528, 882), (30000, 2048, 512), (100, 2048, 512), (0, 64, 16)]
)
def test_rms_equals_librosa(rng: np.random.Generator, n: int, frame: int, hop: int) -> None:
    wav = rng.standard_normal(n).astype(np.float32)
    rms = rms_frames(wav, frame, hop)
    assert rms.shape == (1 + n // hop,)
    if n:
        librosa = pytest.importorskip("librosa")
        expected = librosa.feature.rms(y=wav, frame_length=frame, hop_length=hop)[0]
        np.testing.assert_allclose(rms, expected, atol=1e-7)


def test_trim_equals_librosa(sine: Sine) -> None:
    librosa = pytest.importorskip("librosa")
    wav = np.concatenate((np.zeros(20000), sine(220, 1.0), 0.001 * sine(220, 0.7)))
    wav = wav.astype(np.float32)
    for top_db in (20.0, 40.0, 80.0):
        expected, _ = librosa.effects.trim(wav, top_db=top_db)
        np.testing.assert_array_equal(trim_silence(wav, top_db=top_db), expected)


@pytest.mark.parametrize("n", [0, 1, 100, 5000])
def test_trim_leaves_digital_silence(n: int) -> None:
    assert trim_silence(np.zeros(n, np.float32)).shape == (n,)


# ---------------------------------------------------------------- normalising


@pytest.mark.parametrize("peak", [1.0, 0.98, 0.1, 1 / 3])
def test_peak_normalize(rng: np.random.Generator, peak: float) -> None:
    for scale in (1e-6, 0.3, 40.0):
        out = peak_normalize((scale * rng.standard_normal((2, 1000))).astype(np.float32), peak)
        assert out.dtype == np.float32
        assert float(np.abs(out).max()) <= peak
        assert float(np.abs(out).max()) == pytest.approx(peak, rel=1e-6)


def test_peak_normalize_leaves_silence_and_input() -> None:
    wav = np.zeros(10, np.float32)
    out = peak_normalize(wav)
    np.testing.assert_array_equal(out, wav)
    assert out is not wav
    assert peak_normalize(np.zeros(0, np.float32)).shape == (0,)


def loudness(wav: np.ndarray, sr: int = SR) -> float:
    import pyloudnorm

    return float(pyloudnorm.Meter(sr).integrated_loudness(wav.astype(np.float64).T))


@pytest.mark.parametrize("sr", [8000, 16000, 44100, 96000])
@pytest.mark.parametrize("amplitude", [0.001, 0.05, 0.9])
def test_lufs_reaches_the_target(sine: Sine, sr: int, amplitude: float) -> None:
    out = lufs_normalize(sine(1000, 2.0, sr, amplitude), sr, target_lufs=-23.0)
    assert loudness(out, sr) == pytest.approx(-23.0, abs=0.05)


@pytest.mark.parametrize("ceiling_db", [-0.1, -1.0, -6.0])
def test_lufs_never_exceeds_its_ceiling(rng: np.random.Generator, ceiling_db: float) -> None:
    clicks = 0.02 * rng.standard_normal(2 * SR)
    clicks[rng.integers(0, 2 * SR, 40)] = 1.0
    bursts = 0.5 * rng.standard_normal(2 * SR) * (np.arange(2 * SR) % 9000 < 300)
    for wav in (clicks, bursts, np.stack((clicks, bursts)), np.sign(bursts)):
        out = lufs_normalize(wav.astype(np.float32), SR, -10.0, ceiling_db)
        assert out.shape == wav.shape
        assert float(np.abs(out).max()) <= 10 ** (ceiling_db / 20)
        assert np.isfinite(out).all()


@pytest.mark.parametrize("n", [0, 1, 2, 100, 17639, 17640, 17641])
def test_lufs_of_short_clips(n: int) -> None:
    wav = (0.01 * np.sin(np.arange(n))).astype(np.float32)
    out = lufs_normalize(wav, SR)
    assert out.shape == wav.shape
    assert np.isfinite(out).all()
    assert np.abs(out).max(initial=0) <= 10 ** (-1 / 20)


def test_lufs_of_a_short_clip_has_the_loudness_of_the_long_one(sine: Sine) -> None:
    tone = sine(1000, 3.0, SR, 0.3)
    short, long = lufs_normalize(tone[:8820], SR), lufs_normalize(tone, SR)
    assert decibel(np.abs(short).max() / np.abs(long).max()) == pytest.approx(0.0, abs=0.3)


def test_lufs_does_not_raise_silence() -> None:
    hiss = np.full(SR, 1e-6, np.float32)
    np.testing.assert_array_equal(lufs_normalize(hiss, SR), hiss)
    np.testing.assert_array_equal(lufs_normalize(0 * hiss, SR), 0 * hiss)


def test_limiter_leaves_quiet_audio(rng: np.random.Generator) -> None:
    wav = rng.uniform(-0.8, 0.8, 5000).astype(np.float32)
    np.testing.assert_array_equal(limit(wav, SR, -1.0), wav)


def test_limiter_turns_down_smoothly(sine: Sine) -> None:
    """The gain falls and recovers without a step, and is 1 away from the peak."""
    wav = sine(100, 1.0, SR, 0.5)
    wav[SR // 2 : SR // 2 + 200] *= 4
    out = limit(wav, SR, -1.0)
    audible = np.abs(wav) > 0.05
    gain = out[audible] / wav[audible]
    assert float(gain.max()) <= 1.0 + 1e-6
    assert float(np.abs(np.diff(gain)).max()) < 0.02
    away = np.abs(np.arange(SR) - SR // 2) > 0.05 * SR
    np.testing.assert_array_equal(out[away], wav[away])


def test_limiter_does_not_clip(sine: Sine) -> None:
    """The shape of a loud wave survives: no run of samples lies flat at the ceiling."""
    wav = 3 * sine(180, 1.0, SR, 0.5) * np.linspace(0, 1, SR)
    out = limit(wav, SR, -1.0)
    flat = np.abs(out) >= 10 ** (-1 / 20) - 1e-6
    assert flat.sum() < 20
    loud = np.abs(out[-60 * 245 :]).reshape(60, 245).max(axis=1)  # periods of the wave
    assert loud.min() > 0.85


def test_limiter_keeps_the_stereo_image(rng: np.random.Generator) -> None:
    wav = rng.standard_normal((2, 20000))
    out = limit(wav, SR, -3.0)
    loud = np.abs(wav).min(axis=0) > 0.1
    ratio = (out[0] / wav[0])[loud] / (out[1] / wav[1])[loud]
    np.testing.assert_allclose(ratio, 1.0, atol=1e-5)
    assert float(np.abs(out).max()) <= 10 ** (-3 / 20)


def test_real_recordings(shared: Path) -> None:
    for folder in ("speech/vctk_p225", "singing/gts_en_tenor_1"):
        wav, sr = read_audio(list_audio(shared / "audio" / folder)[0])
        out = lufs_normalize(wav, sr, -16.0)
        assert float(np.abs(out).max()) <= 10 ** (-1 / 20)
        assert loudness(out, sr) == pytest.approx(-16.0, abs=1.0)
        trimmed = trim_silence(wav)
        assert 0.2 * len(wav) < len(trimmed) <= len(wav)


@pytest.mark.parametrize("n_samples", [100, 512, 5000, 70_001])
def test_arrays_have_the_volume_of_tensors(rng: np.random.Generator, n_samples: int) -> None:
    wav = rng.standard_normal(n_samples).astype(np.float32)
    theirs = frame_volume(torch.from_numpy(wav)[None], 512)[0].numpy()
    np.testing.assert_allclose(frame_volume_array(wav, 512), theirs, rtol=1e-5)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_arrays_get_the_envelope_of_tensors(rng: np.random.Generator, ratio: float) -> None:
    source = (rng.standard_normal(90_000) * np.linspace(0, 1, 90_000)).astype(np.float32)
    output = (0.1 * rng.standard_normal(132_300)).astype(np.float32)
    ours = match_envelope_array(source, 30_000, output, 44_100, ratio)
    theirs = match_envelope(
        torch.from_numpy(source), 30_000, torch.from_numpy(output), 44_100, ratio
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
