"""rmvpe against the original's numbers (spec_f0 7 and 12), and what it promises beyond them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

import svc.f0.rmvpe
from svc.audio.mel import rmvpe_mel
from svc.audio.pitch import cents, interpolate_unvoiced, resize_nearest
from svc.audio.resample import sinc_resample
from svc.errors import AudioError, ConfigError
from svc.f0.rmvpe import RmvpePredictor, decode_salience
from svc.f0.rmvpe_net import load_rmvpe
from svc.f0.settings import F0Settings
from svc.f0.wave import F0Wave

Wave = npt.NDArray[np.float32]
TINY = "golden_enc_tiny_rmvpe.pt"


@pytest.fixture
def tiny(golden: Path) -> Callable[..., RmvpePredictor]:
    """Return a function that makes a predictor with the stored small net."""

    def make(**settings: float | bool) -> RmvpePredictor:
        return RmvpePredictor(load_rmvpe(golden / TINY), F0Settings(**settings))  # type: ignore[arg-type]

    return make


def noise(seconds: float, sr: int = 44100, seed: int = 0) -> Wave:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(round(seconds * sr))).astype(np.float32)


def test_the_stored_mel(golden: Path) -> None:
    """Energies as parts of the loudest band of the frame, ours in float64; the stored float32
    transform is itself 2.3e-6 away from that.
    """
    arrays = np.load(golden / "golden_enc_rmvpe_parts.npz")
    wave = torch.from_numpy(arrays["wav44k"])[None].double()
    ours = rmvpe_mel()(sinc_resample(wave, 44100, 16000, lowpass_width=128)).exp()
    stored = torch.from_numpy(arrays["mel"]).double().exp()
    assert float(((ours - stored).abs() / stored.amax(1, keepdim=True)).max()) < 3e-6


def test_the_stored_decoding(golden: Path) -> None:
    """240 voiced and 60 unvoiced frames; the stored loop summed in float32, so 2e-6 relative
    (measured 1.1e-6). What follows is exact.
    """
    arrays = np.load(golden / "golden_enc_rmvpe_parts.npz")
    f0, confidence = decode_salience(torch.from_numpy(arrays["salience"]).double(), 0.05)
    np.testing.assert_array_equal(f0 > 0, arrays["decoded"] > 0)
    np.testing.assert_allclose(f0, arrays["decoded"], rtol=2e-6, atol=0)
    np.testing.assert_array_equal(confidence, arrays["salience"].max(-1))
    resized = resize_nearest(arrays["decoded"], 258)
    filled, uv = interpolate_unvoiced(resized, hop_length=512, sr=44100)
    np.testing.assert_array_equal(filled, arrays["post_f0_258"])
    np.testing.assert_array_equal(uv, arrays["post_uv_258"])
    track = F0Settings(compat=True).finish(resized, classic=False)
    np.testing.assert_array_equal(track.f0, arrays["post_f0_258"].astype(np.float32))


def test_from_wave_to_pitch(golden: Path, tiny: Callable[..., RmvpePredictor]) -> None:
    """The whole way in compat mode; 0.01 cents (measured 0.002)."""
    arrays = np.load(golden / "golden_enc_rmvpe_parts.npz")
    expected, sure = decode_salience(torch.from_numpy(arrays["tiny_hidden"][0]).double(), 0.05)
    predictor = tiny(compat=True)
    raw = predictor.raw_f0(arrays["wav44k"])
    assert np.abs(cents(raw.f0.numpy(), expected.numpy())).max() < 0.01
    torch.testing.assert_close(raw.confidence.double(), sure, atol=1e-5, rtol=0)
    track = predictor(F0Wave(arrays["wav44k"], 44100))
    assert len(track) == 88200 // 512
    np.testing.assert_array_equal(track.f0, resize_nearest(raw.f0.numpy(), 172))
    assert track.confidence is not None
    np.testing.assert_array_equal(track.confidence, resize_nearest(raw.confidence.numpy(), 172))


def test_decoding_at_the_ends_and_of_nothing() -> None:
    """Unlike fcpe, bins beyond the ends count as nothing; exactly the threshold is unvoiced."""
    salience = torch.zeros(5, 360)
    salience[0, 0], salience[0, 1] = 0.9, 0.3
    salience[1, 359] = 0.5
    salience[2, 100] = 0.05
    salience[3, 100] = 0.0501
    f0, confidence = decode_salience(salience, 0.05)
    first = 1997.3794084376191
    torch.testing.assert_close(f0[0], torch.tensor(10 * 2 ** ((first + 5) / 1200)))
    torch.testing.assert_close(f0[1], torch.tensor(10 * 2 ** ((first + 359 * 20) / 1200)))
    assert (f0[2:] > 0).tolist() == [False, True, False]
    torch.testing.assert_close(confidence, torch.tensor([0.9, 0.5, 0.05, 0.0501, 0.0]))
    assert abs(float(f0[1]) - 2006) < 1


@pytest.mark.parametrize("samples", [0, 1, 511, 512, 1764, 4409, 4410, 16000])
def test_any_length(tiny: Callable[..., RmvpePredictor], samples: int) -> None:
    track = tiny()(noise(samples / 44100))
    assert track.confidence is not None
    assert track.f0.shape == track.uv.shape == track.confidence.shape == (samples // 512,)
    assert np.isfinite(track.f0).all()
    assert ((track.confidence > 0) & (track.confidence <= 1)).all()


def test_what_is_no_wave_is_refused(tiny: Callable[..., RmvpePredictor]) -> None:
    wav = noise(0.5)
    wav[3] = np.inf
    with pytest.raises(AudioError, match="1 samples of 22050"):
        tiny()(wav)
    with pytest.raises(AudioError, match="1 samples of 100"):
        tiny().track_batch([noise(0.5), wav[:100]])
    with pytest.raises(ValueError, match="mono"):
        tiny()(np.zeros((2, 10_000), np.float32))


def test_range_and_threshold(tiny: Callable[..., RmvpePredictor]) -> None:
    """Only compat mode looks beyond f0_min and f0_max; the confidence is that of the pitch found."""
    wav = noise(2)
    inside = tiny(f0_min=300.0, f0_max=600.0)(wav)
    assert ((inside.f0 >= 300 * 0.999) & (inside.f0 <= 600 * 1.001)).all()
    everywhere = tiny(f0_min=300.0, f0_max=600.0, compat=True)(wav)
    assert np.median(everywhere.f0) > 1500
    assert inside.confidence is not None
    assert everywhere.confidence is not None
    assert (inside.confidence <= everywhere.confidence).all()
    level = float(np.median(everywhere.confidence))
    half = tiny(compat=True, threshold=level)(wav)
    np.testing.assert_array_equal(half.uv, everywhere.confidence > np.float32(level))
    assert 0.4 < half.uv.mean() < 0.6
    nothing = tiny(threshold=0.99)(wav)
    np.testing.assert_array_equal([nothing.f0, nothing.uv], 0)


def sizes_seen(predictor: RmvpePredictor) -> list[tuple[int, int]]:
    """Batch and frames of everything the net is given from now on."""
    seen: list[tuple[int, int]] = []
    predictor._net.register_forward_pre_hook(
        lambda _, args: seen.append((args[0].shape[0], args[0].shape[2]))
    )
    return seen


def test_long_audio_goes_in_pieces(tiny: Callable[..., RmvpePredictor]) -> None:
    """Two minutes: never more than a minute at once, and the same as at once.

    The salience at the seams is that of the whole to 3.6e-7 (the net of the golden file, with random
    weights; the real one has a longer reach); pieces without overlap would differ by 0.07. With the
    full-size net a process grows by 0.50 GB for 1 minute and by 0.52 GB for 4.
    """
    wav = noise(125, sr=16000)
    options = {"sampling_rate": 16000, "hop_length": 160, "f0_min": 31.0, "f0_max": 2010.0}
    predictor, whole = tiny(**options), tiny(**options, compat=True)
    predictor.high_register = False
    seen, seen_whole = sizes_seen(predictor), sizes_seen(whole)
    pieces, expected = predictor.raw_f0(wav), whole.raw_f0(wav)
    assert seen_whole == [(1, 12512)]  # compat mode: as the original
    assert seen == [(1, 5952)] * 3
    assert len(pieces.f0) == 12501
    torch.testing.assert_close(pieces.confidence, expected.confidence, atol=1e-5, rtol=0)
    # The pitch hangs on which of two equal maxima is found in the noise.
    assert ((pieces.f0 / expected.f0 - 1).abs() > 1e-5).float().mean() < 1e-3


@pytest.mark.parametrize("n_frames", [5921, 5952, 5953, 5985, 11713, 60001])
def test_pieces_cover_every_frame_once(n_frames: int) -> None:
    pieces = svc.f0.rmvpe._cut(n_frames, 32, whole=False)
    owned = np.concatenate([np.arange(p[2].start, p[2].stop) for p in pieces])
    np.testing.assert_array_equal(owned, np.arange(n_frames))
    assert (len(pieces) == 1) == (n_frames <= 5952)
    for start, length, own in pieces:
        assert start % 32 == length % 32 == 0
        assert length <= 6000
        assert own.start == 0 or own.start - start >= 96  # a second of context at every seam
        assert own.stop == n_frames or start + length - own.stop >= 96
    padded = -(-n_frames // 32) * 32
    assert pieces[-1][0] + pieces[-1][1] == padded


def test_a_batch_is_what_each_is_alone(tiny: Callable[..., RmvpePredictor]) -> None:
    """Only clips of equal padded length share a batch, so nothing changes but the rounding."""
    predictor = tiny()
    wavs = [noise(s, seed=i) for i, s in enumerate((1.0, 0.03, 2.2, 1.01, 0.0, 1.02, 1.4))]
    alone = [predictor(wav) for wav in wavs]
    seen = sizes_seen(predictor)
    together = predictor.track_batch([F0Wave(w, 44100) if i % 2 else w for i, w in enumerate(wavs)])
    assert sorted(seen) == [(1, 32), (1, 160), (1, 224), (3, 128)]
    for one, other in zip(alone, together):
        np.testing.assert_array_equal(one.uv, other.uv)
        np.testing.assert_allclose(one.f0, other.f0, rtol=1e-5)
        np.testing.assert_allclose(one.confidence, other.confidence, atol=1e-5)  # type: ignore[arg-type]
    assert predictor.track_batch([]) == []


def test_batches_are_bounded(tiny: Callable[..., RmvpePredictor]) -> None:
    predictor = tiny()
    seen = sizes_seen(predictor)
    tracks = predictor.track_batch([noise(15.0, seed=i) for i in range(5)])
    assert seen == [(3, 1504), (2, 1504)]
    assert len({float(track.f0.sum()) for track in tracks}) == 5


def test_half_precision(golden: Path) -> None:
    """bf16 convolutions: the salience moves by 1e-3, the GRU stays in float32."""
    wav = noise(1)
    exact, half = (
        RmvpePredictor(load_rmvpe(golden / TINY), F0Settings(), precision=precision)
        for precision in ("fp32", "bf16")
    )
    assert half._net.gru.weight_hh_l0.dtype == torch.float32
    assert half._net.cnn.weight.dtype == torch.bfloat16
    difference = (exact.raw_f0(wav).confidence - half.raw_f0(wav).confidence).abs().max()
    assert 0 < difference < 0.01
    with pytest.raises(ConfigError, match='precision "int8"'):
        RmvpePredictor(load_rmvpe(golden / TINY), F0Settings(), precision="int8")
