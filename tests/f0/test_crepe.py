"""crepe: the original's numbers (spec_f0 6 and 12), and what the default does better."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import librosa
import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F

from svc.audio.pitch import cents
from svc.errors import AudioError, ConfigError
from svc.f0.crepe import CrepePredictor, bin_range, build_crepe, decode_path
from svc.f0.crepe_compat import (
    decode_dithered,
    median3,
    original_hop,
    original_pitch,
    resample_kaiser,
)
from svc.f0.crepe_frames import ClipFrames, a_weights, level, original_loudness
from svc.f0.crepe_net import bins_to_hz, load_crepe
from svc.f0.settings import F0Settings
from svc.f0.wave import F0Wave

Wave = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]
Voice = Callable[..., Wave]


@lru_cache(maxsize=8)
def tiny(**settings: float | bool) -> CrepePredictor:
    return build_crepe(F0Settings(**settings), size="tiny")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def reference() -> dict[str, npt.NDArray[np.float32]]:
    """Recorded with torchcrepe 0.0.24 and resampy 0.4.3 on golden_f0_predictors' wave."""
    with np.load(Path(__file__).parents[1] / "data" / "crepe_reference.npz") as arrays:
        return dict(arrays)


# ---------------------------------------------------------------- the original's numbers


def test_the_stored_track(golden: Path) -> None:
    """The original class, net full, dither seeded with 0: not a bit differs as float32.

    Decisions are far from any edge: periodicity stays 0.04 from the threshold, loudness 0.01 dB, and
    noise of 1e-4 on the salience moves no frame.
    """
    arrays = np.load(golden / "golden_f0_predictors.npz")
    track = build_crepe(F0Settings(compat=True))(arrays["wav44k"])
    np.testing.assert_array_equal(track.f0, arrays["crepe_f0"].astype(np.float32))
    np.testing.assert_array_equal(track.uv, arrays["crepe_uv"])


def test_the_tiny_net_on_the_stored_wave(
    golden: Path, reference: dict[str, npt.NDArray[np.float32]]
) -> None:
    """Raw pitch of torchcrepe to the bit, periodicity within 2e-6 (measured 3e-7)."""
    wav = np.load(golden / "golden_f0_predictors.npz")["wav44k"]
    at_16k = resample_kaiser(wav, 44100, 16000)
    frames = ClipFrames.of(torch.from_numpy(at_16k), torch.arange(0, len(at_16k) + 1, 185))
    (salience,) = tiny().salience([frames])
    everything = np.ones(len(frames), dtype=bool)
    _, periodicity = original_pitch(
        salience, everything, bin_range(50, 1100), 0.0, np.random.RandomState(0)
    )
    np.testing.assert_allclose(
        periodicity, median3(reference["tiny_periodicity"]), atol=2e-6, rtol=0
    )
    pitch, _ = decode_dithered(salience, bin_range(50, 1100), np.random.RandomState(0))
    np.testing.assert_array_equal(pitch, reference["tiny_pitch"])
    np.testing.assert_allclose(original_loudness(frames), reference["loudness"], atol=1e-3, rtol=0)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_resampy(reference: dict[str, npt.NDArray[np.float32]], rate: int) -> None:
    np.testing.assert_array_equal(
        resample_kaiser(reference["wav"], rate, 16000), reference[f"resampy_{rate}"]
    )


def test_resampling_of_nothing_and_of_the_same_rate() -> None:
    assert len(resample_kaiser(np.zeros(0, np.float32), 44100, 16000)) == 0
    wav = np.ones(5, np.float32)
    np.testing.assert_array_equal(resample_kaiser(wav, 16000, 16000), wav)
    assert len(resample_kaiser(np.zeros(40_000, np.float32), 44100, 16000)) == 14512


def test_the_original_cuts_the_hop() -> None:
    assert original_hop(F0Settings()) == 185
    assert original_hop(F0Settings(sampling_rate=16000, hop_length=160)) == 160
    with pytest.raises(ConfigError, match="a hop of 2 samples"):
        build_crepe(F0Settings(hop_length=2, compat=True), size="tiny")


def test_three_point_filters() -> None:
    """At its ends the median takes the smaller of two; the mean fills beside voiced frames."""
    np.testing.assert_array_equal(median3(np.array([5, 1, 4, 9, 2], np.float32)), [1, 4, 4, 4, 2])
    np.testing.assert_array_equal(median3(np.array([3, 7], np.float32)), [3, 3])
    np.testing.assert_array_equal(median3(np.array([3], np.float32)), [3])
    assert len(median3(np.zeros(0, np.float32))) == 0
    salience = torch.full((7, 360), 0.01)
    salience[2:5, 200] = 0.9
    pitch, periodicity = original_pitch(
        salience, np.ones(7, bool), (39, 308), 0.05, np.random.RandomState(0)
    )
    np.testing.assert_array_equal(periodicity > 0.05, [0, 0, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(pitch > 0, [0, 1, 1, 1, 1, 1, 0])


def test_the_original_cuts_paths_every_1024_frames() -> None:
    """A leap of an octave is free at the seam; elsewhere six frames do not pay for the way."""
    salience = torch.zeros(1030, 360)
    salience[:1024, 100] = salience[1024:, 160] = 1.0
    for clip, interval in ((salience, 1200), (salience[20:], 0)):
        pitch, _ = original_pitch(
            clip, np.ones(len(clip), bool), (39, 308), 0.0, np.random.RandomState(0)
        )
        assert abs(1200 * np.log2(pitch[-3] / pitch[-10]) - interval) < 60


def test_the_dither_is_seeded(voice: Voice) -> None:
    wav = voice(np.full(30_000, 220.0))
    net = load_crepe("tiny")
    settings = F0Settings(compat=True)
    tracks = [CrepePredictor(net, settings, seed=seed)(wav).f0 for seed in (0, 0, 1)]
    np.testing.assert_array_equal(tracks[0], tracks[1])
    assert np.abs(cents(tracks[0], tracks[2])).max() > 5
    assert np.abs(cents(tracks[0], np.float64(220.0))).max() < 40


# ---------------------------------------------------------------- the default


def test_a_weights() -> None:
    expected = librosa.A_weighting(np.arange(1, 513) * 16000 / 1024)
    np.testing.assert_allclose(a_weights()[1:], expected, atol=1e-9, rtol=0)
    assert a_weights()[0] == -80


def test_level(rng: np.random.Generator) -> None:
    """A sine of 1 kHz and amplitude 0.1 is at -23 dBFS; noise at the limit is so by both measures."""
    time = np.arange(16000) / 16000
    sine = torch.from_numpy(0.1 * np.sin(2 * np.pi * 1000 * time)).float()
    centres = torch.arange(1000, 15000, 500)
    np.testing.assert_allclose(level(ClipFrames.of(sine, centres)), -23.01, atol=0.02)
    noise = torch.from_numpy(10 ** (-66 / 20) * rng.standard_normal(32000)).float()
    frames = ClipFrames.of(noise, torch.arange(1000, 31000, 100))
    assert abs(level(frames).mean() + 66) < 1
    assert abs(original_loudness(frames).mean() + 60) < 4
    silent = ClipFrames.of(torch.zeros(2000), torch.tensor([0, 1000, 2000]))
    assert (level(silent) <= -190).all()


def test_windows_sit_on_the_frames_of_the_track(monkeypatch: pytest.MonkeyPatch) -> None:
    """Window i is centred on sample i * 512 of 44100 Hz to half a sample of 16 kHz, also late."""
    seen: list[ClipFrames] = []
    predictor = build_crepe(F0Settings(), size="tiny")

    def look(clips: list[ClipFrames]) -> list[torch.Tensor]:
        seen.extend(clips)
        return [torch.zeros(len(clip), 360) for clip in clips]

    monkeypatch.setattr(predictor, "salience", look)
    predictor(np.zeros(44100 * 60 + 5, np.float32))
    exact = np.arange(44100 * 60 // 512) * 512 * 16000 / 44100
    assert len(seen[0]) == len(exact)
    assert np.abs(seen[0].starts.numpy() - exact).max() <= 0.5
    impulse = ClipFrames.of(
        F.one_hot(torch.tensor(700), 1000).float(), torch.tensor([700, 0, 1000])
    )
    windows = next(impulse.batches(8))
    np.testing.assert_array_equal(windows.argmax(1), [512, 0, 212])
    assert windows[1].sum() == 0


@pytest.mark.parametrize("hz", [70.0, 220.0, 880.0])
def test_vibrato_is_followed(voice: Voice, hz: float) -> None:
    """50 cents at 6 Hz: mean error below 15 cents (measured 4-9). The net sees 64 ms at once, which
    takes a quarter off the depth; the original's dither and filter add to the error.
    """
    time = np.arange(44100) / 44100
    pitch = hz * 2 ** (50 * np.sin(2 * np.pi * 6 * time) / 1200)
    track = tiny()(voice(pitch))
    truth = pitch[np.arange(len(track)) * 512]
    inner = slice(6, -6)
    assert track.uv[inner].all()
    assert np.abs(cents(track.f0, truth))[inner].mean() < 15
    depth = np.std(cents(track.f0, np.float64(hz))[inner]) / np.std(cents(truth, np.float64(hz)))
    assert 0.7 < depth < 1.05
    original = tiny(compat=True)(voice(pitch))
    assert np.abs(cents(track.f0, truth))[inner].mean() < 0.8 * np.nanmean(
        np.abs(cents(original.f0, truth))[inner]
    )


def test_leaps_are_sung_at_once(voice: Voice) -> None:
    """Notes of 0.25 s with leaps up to a twelfth: the original slurs over a third of them."""
    notes = np.array([57, 64, 57, 69, 60, 67, 55, 62, 57, 69, 76, 64])
    pitch = np.repeat(440.0 * 2.0 ** ((notes - 69) / 12), 44100 // 4)
    wav = voice(pitch)
    right = {}
    for compat in (False, True):
        track = tiny(compat=compat)(wav)
        truth = pitch[np.arange(len(track)) * 512]
        right[compat] = np.mean(np.abs(cents(track.f0, truth)) < 50)
    assert right[False] > 0.93
    assert right[True] < 0.85


def test_voiced_regions_do_not_grow() -> None:
    """The original voices the frames beside a voiced one; the default keeps to the net's word."""
    predictor = build_crepe(F0Settings(), size="tiny")
    salience = torch.full((20, 360), 0.01)
    salience[8:12, 150] = 0.9
    predictor.salience = lambda clips: [salience]  # type: ignore[method-assign]
    wav = np.full(20 * 512, 0.1, np.float32) * np.sin(np.arange(20 * 512) * 0.06).astype(np.float32)
    track = predictor(wav)
    np.testing.assert_array_equal(np.flatnonzero(track.uv), [8, 9, 10, 11])
    assert track.confidence is not None
    np.testing.assert_allclose(track.confidence[8:12], 0.9)
    np.testing.assert_allclose(track.f0, bins_to_hz(np.array(150.0)), rtol=0.03)


def test_one_voiced_frame_is_enough() -> None:
    settings = F0Settings(sampling_rate=16000, hop_length=1600)
    predictor = CrepePredictor(load_crepe("tiny"), settings)
    wav = np.zeros(8000, np.float32)
    wav[1900:4500] = np.sin(2 * np.pi * 300 * np.arange(2600) / 16000)
    track = predictor(wav)
    assert len(track) == 5
    voiced = predictor(np.ascontiguousarray(wav[:1600]))  # silence only
    np.testing.assert_array_equal(voiced.f0, 0)
    single = predictor(np.ascontiguousarray(wav[2000:3600]))
    assert len(single) == 1
    assert single.uv[0] == 1
    assert abs(1200 * np.log2(single.f0[0] / 300)) < 30


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("samples", [0, 1, 511, 512, 1000, 1764, 4409, 5000])
def test_any_length(voice: Voice, samples: int, compat: bool) -> None:
    wav = voice(np.full(samples, 220.0)) if samples else np.zeros(0, np.float32)
    track = tiny(compat=compat)(wav)
    assert track.f0.shape == track.uv.shape == (samples // 512,)
    assert np.isfinite(track.f0).all()
    if samples >= 1764:
        assert abs(1200 * np.log2(np.median(track.f0[track.uv > 0]) / 220)) < 40


@pytest.mark.parametrize("compat", [False, True])
def test_silence_and_noise(rng: np.random.Generator, compat: bool) -> None:
    predictor = tiny(compat=compat)
    for wav in (np.zeros(44100), 1e-5 * rng.standard_normal(44100)):
        track = predictor(wav.astype(np.float32))
        np.testing.assert_array_equal(track.f0, 0)
        np.testing.assert_array_equal(track.uv, 0)
        assert track.confidence is not None
        np.testing.assert_array_equal(track.confidence, 0)


def test_a_pure_tone_is_not_silent() -> None:
    """The original's mean over frequency takes a clean tone in a quiet clip for silence."""
    tone = (0.01 * np.sin(2 * np.pi * 440 * np.arange(30_000) / 44100)).astype(np.float32)
    track = tiny()(tone)
    assert track.uv.all()
    assert abs(1200 * np.log2(np.median(track.f0) / 440)) < 15


def test_the_range_is_honoured(voice: Voice) -> None:
    vibrato = 1 + 0.005 * np.sin(2 * np.pi * 5 * np.arange(44100) / 44100)
    for hz, narrow in ((900.0, {"f0_max": 600.0}), (75.0, {"f0_min": 100.0})):
        wav = voice(hz * vibrato)
        found = tiny()(wav)
        assert abs(1200 * np.log2(np.median(found.f0[found.uv > 0]) / hz)) < 20
        limits = {"f0_min": 50.0, "f0_max": 1100.0, **narrow}
        track = tiny(**limits)(wav)
        assert ((track.f0 >= limits["f0_min"]) & (track.f0 <= limits["f0_max"])
                | (track.f0 == 0)).all()  # fmt: skip
    high = tiny(f0_max=1900.0)(voice(1500.0 * vibrato))
    assert abs(1200 * np.log2(np.median(high.f0[high.uv > 0]) / 1500)) < 20


def test_ranges() -> None:
    assert bin_range(50, 1100) == (39, 308)
    assert bin_range(1, 5000) == (0, 360)
    assert bin_range(440.0, 440.1) == (227, 228)
    for low, high in ((2100, 3000), (10, 30)):
        with pytest.raises(ConfigError, match="none of them between"):
            build_crepe(F0Settings(f0_min=low, f0_max=high), size="tiny")
    narrow = tiny(f0_min=440.0, f0_max=440.1)
    track = narrow((0.1 * np.sin(2 * np.pi * 440 * np.arange(9000) / 44100)).astype(np.float32))
    assert ((track.f0 >= 440.0) & (track.f0 <= np.float32(440.1))).all()


def test_the_threshold(voice: Voice, rng: np.random.Generator) -> None:
    wav = voice(np.linspace(200, 400, 60_000))
    wav += (np.linspace(0, 1, len(wav)) * rng.standard_normal(len(wav))).astype(np.float32)
    voiced = [tiny(threshold=threshold)(wav).uv.sum() for threshold in (0.0, 0.05, 0.5, 0.99)]
    assert voiced[0] == len(wav) // 512
    assert voiced == sorted(voiced, reverse=True)
    assert voiced[0] > voiced[2] > voiced[3]


def test_clips_together(voice: Voice) -> None:
    """Order, lengths and values are those of the clips one by one."""
    wavs = [voice(np.full(n, hz)) for n, hz in ((20_000, 200.0), (400, 1.0), (9_000, 500.0))]
    wavs.insert(1, np.zeros(0, np.float32))
    for compat in (False, True):
        predictor = tiny(compat=compat)
        tracks = predictor.track_batch(wavs)
        assert [len(track) for track in tracks] == [39, 0, 0, 17]
        for track, wav in zip(tracks, wavs):
            alone = predictor(wav)
            np.testing.assert_array_equal(track.uv, alone.uv)
            np.testing.assert_allclose(track.f0, alone.f0, rtol=1e-5)
            if len(track):
                assert track.confidence is not None
                assert alone.confidence is not None
                np.testing.assert_allclose(track.confidence, alone.confidence, atol=1e-5)
        assert predictor.track_batch([]) == []


def test_the_16_khz_wave_is_shared(voice: Voice, monkeypatch: pytest.MonkeyPatch) -> None:
    wave = F0Wave(voice(np.full(30_000, 220.0)), 44100)
    wave.at_16k()
    monkeypatch.setattr("svc.f0.wave.sinc_resample", None)
    assert tiny()(wave).uv.mean() > 0.9


def test_what_is_no_wave_is_refused() -> None:
    for compat in (False, True):
        wav = np.zeros(10_000, np.float32)
        wav[7] = np.nan
        with pytest.raises(AudioError, match="1 samples of 10000"):
            tiny(compat=compat)(wav)
        with pytest.raises(ValueError, match="mono"):
            tiny(compat=compat)(np.zeros((2, 9000), np.float32))


@pytest.mark.parametrize(("sr", "hop"), [(16000, 160), (24000, 256), (48000, 480)])
def test_other_rates_and_hops(voice: Voice, sr: int, hop: int) -> None:
    wav = voice(np.full(sr, 330.0), sr)
    for compat in (False, True):
        track = tiny(sampling_rate=sr, hop_length=hop, compat=compat)(wav)
        assert len(track) == sr // hop
        assert abs(1200 * np.log2(np.median(track.f0[track.uv > 0]) / 330)) < 10


def test_decoding_around_a_path() -> None:
    """Nine bins, fewer at the ends; bins without any salience give the path itself."""
    salience = torch.zeros(4, 40)
    salience[0, 20], salience[0, 24], salience[0, 25] = 0.6, 0.2, 0.9
    salience[1, 0], salience[1, 3] = 0.5, 0.5
    salience[2, 39] = 0.7
    bins, sure = decode_path(salience, np.array([20, 0, 38, 7]))
    np.testing.assert_allclose(bins, [21, 1.5, 39, 7])
    np.testing.assert_allclose(sure, [0.6, 0.5, 0, 0], atol=1e-7)
    np.testing.assert_allclose(bins_to_hz(np.array([0, 359])), [31.7, 2005.497], rtol=1e-6)


def test_the_package_is_not_imported() -> None:
    code = (
        "import sys, numpy as np\n"
        "from svc.f0 import build_f0_predictor\n"
        "for compat in (False, True):\n"
        "    build_f0_predictor('crepe-tiny', compat=compat)(np.zeros(5000, np.float32))\n"
        "assert not {'torchcrepe', 'torchaudio', 'resampy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
