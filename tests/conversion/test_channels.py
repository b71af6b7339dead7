"""Stereo songs: where the singer stood, the voice stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from svc.audio.io import list_audio, read_audio, write_audio
from svc.audio.loudness import rms_frames
from svc.audio.resample import resample
from svc.conversion.channels import (
    LevelImage,
    check_channels,
    lost_in_mono,
    mix_down,
    place,
)
from svc.errors import AudioError

SR = 44100
FRAME = round(0.05 * SR) // 2 * 2


def level_difference(channels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return left over right in dB per 50 ms, and which of these frames sound (above -40 dB)."""
    rms = np.stack([rms_frames(row, FRAME, FRAME // 2) for row in channels])
    total = rms.sum(axis=0)
    return 20 * np.log10((rms[0] + 1e-9) / (rms[1] + 1e-9)), total > 0.01 * total.max()


def other_voice(n_samples: int) -> np.ndarray:
    """A steady sound that has nothing of the song's course: what a voice model may do to it."""
    rng = np.random.default_rng(0)
    tone = 0.2 * np.sin(2 * np.pi * 220 * np.arange(n_samples) / SR)
    return (tone + 0.05 * rng.standard_normal(n_samples)).astype(np.float32)


def pan(wav: np.ndarray, place_: np.ndarray | float) -> np.ndarray:
    """Stereo of equal power; 0 = left, 1 = right."""
    angle = 0.5 * np.pi * np.asarray(place_)
    return np.stack((wav * np.cos(angle), wav * np.sin(angle))).astype(np.float32)


@pytest.mark.parametrize("where", [0.05, 0.3, 0.5, 0.8])
def test_a_panned_tone_stays_where_it_is(sine: Callable[..., np.ndarray], where: float) -> None:
    song = pan(sine(330, 1.0), where)
    result = place(other_voice(SR), SR, song, SR, "keep")
    assert result.shape == (2, SR)
    assert result.dtype == np.float32
    wanted = 20 * np.log10(np.cos(0.5 * np.pi * where) / np.sin(0.5 * np.pi * where))
    found, _ = level_difference(result)
    np.testing.assert_allclose(found[1:-1], wanted, atol=0.05)


def test_a_recorded_singer_stays_within_a_decibel(shared: Path) -> None:
    """Standing still, and walking from side to side."""
    paths = list_audio(shared / "audio" / "singing" / "trope_cantor")[:2]
    paths += list_audio(shared / "audio" / "singing" / "gts_it_soprano_1")[:2]
    for path in paths:
        wav, sr = read_audio(path)
        wav = resample(wav[: 8 * sr], sr, SR)
        walk = 0.5 + 0.4 * np.sin(2 * np.pi * 0.2 * np.arange(wav.size) / SR)
        for song in (pan(wav, 0.7), pan(wav, walk)):
            result = place(other_voice(wav.size), SR, song, SR, "keep")
            wanted, sounds = level_difference(song)
            found, _ = level_difference(result)
            assert sounds.sum() > 50
            assert np.abs(found - wanted)[sounds].max() < 1.0, path


@pytest.mark.parametrize("n_channels", [2, 3, 6])
def test_the_mean_of_the_channels_is_the_mono_result(
    rng: np.random.Generator, n_channels: int
) -> None:
    gains = rng.uniform(0, 1, (n_channels, 1))
    song = (gains * rng.uniform(-0.5, 0.5, (n_channels, SR))).astype(np.float32)
    song[:, SR // 3 : SR // 2] = 0
    voice = other_voice(SR)
    result = place(voice, SR, song, SR, "keep")
    np.testing.assert_allclose(result.mean(axis=0), voice, atol=1e-7)


def test_pauses_keep_the_place_of_what_sounds_around_them(sine: Callable[..., np.ndarray]) -> None:
    song = pan(sine(330, 1.0), 0.2)
    song[:, : SR // 2] = 0  # the voice may breathe before the singer begins
    result = place(other_voice(SR), SR, song, SR, "keep")
    found, _ = level_difference(result)
    np.testing.assert_allclose(found[1:-1], 20 * np.log10(1 / np.tan(0.1 * np.pi)), atol=0.05)


def test_a_stretch_gets_what_it_gets_in_the_whole(rng: np.random.Generator) -> None:
    song = rng.uniform(-0.5, 0.5, (2, 22050)).astype(np.float32)
    song[0, 5000:9000] *= 0.1
    image = LevelImage.of(song, 22050)
    voice = other_voice(SR)  # at another rate
    whole = image.apply(voice, SR)
    parts = [image.apply(voice[at : at + 1000], SR, start=at) for at in range(0, SR, 1000)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_mono_and_silence() -> None:
    voice = other_voice(1000)
    np.testing.assert_array_equal(
        place(voice, SR, np.zeros((1, 1000), np.float32), SR, "keep"), voice[None]
    )
    stereo = np.zeros((2, 1000), np.float32)
    np.testing.assert_array_equal(place(voice, SR, stereo, SR, "mono"), voice[None])
    np.testing.assert_array_equal(place(voice, SR, stereo, SR, "keep"), [voice, voice])
    np.testing.assert_array_equal(place(voice, SR, stereo, SR, "mid-side"), [voice, voice])
    empty = np.zeros((2, 0), np.float32)
    for mode in ("keep", "mid-side"):
        assert place(voice[:0], SR, empty, SR, mode).shape == (2, 0)  # type: ignore[arg-type]


def test_mid_side_replaces_the_middle_alone(sine: Callable[..., np.ndarray]) -> None:
    mid, side = sine(330, 1.0), 0.2 * sine(1000, 1.0)
    song = np.stack((mid + side, mid - side))
    voice = 0.5 * other_voice(SR)
    result = place(voice, SR, song, SR, "mid-side")
    np.testing.assert_allclose(result.mean(axis=0), voice, atol=1e-6)
    ratio = np.sqrt(np.mean(voice**2) / np.mean(mid**2))
    np.testing.assert_allclose((result[0] - result[1]) / 2, ratio * side, atol=1e-5)


def test_mid_side_at_another_rate_keeps_the_length(sine: Callable[..., np.ndarray]) -> None:
    song = np.stack((sine(330, 1.0, 48000), 0.5 * sine(330, 1.0, 48000)))
    result = place(other_voice(SR), SR, song, 48000, "mid-side")
    assert result.shape == (2, SR)
    side = (result[0] - result[1]) / 2
    spectrum = np.abs(np.fft.rfft(side))
    assert np.argmax(spectrum) == 330  # Hz: a second of it


def test_mid_side_is_for_stereo() -> None:
    with pytest.raises(AudioError, match="mid-side is for stereo and this has 6 channels"):
        check_channels(6, "mid-side")
    check_channels(6, "keep")
    check_channels(1, "mid-side")


def test_channels_that_cancel_each_other(sine: Callable[..., np.ndarray]) -> None:
    wav = sine(330, 0.2)
    assert lost_in_mono(np.stack((wav, wav))) is None
    assert lost_in_mono(np.stack((wav, 0 * wav))) is None
    assert lost_in_mono(wav[None]) is None
    assert lost_in_mono(np.zeros((2, 0), np.float32)) is None
    lost = lost_in_mono(np.stack((wav, -0.9 * wav)))
    assert lost == pytest.approx(20 * np.log10(0.05 / np.sqrt(0.905)), abs=0.1)


def test_mixing_down_is_what_reading_mono_gives(tmp_path: Path, rng: np.random.Generator) -> None:
    for n_channels in (1, 2, 3, 8):
        wav = rng.uniform(-1, 1, (n_channels, 5000)).astype(np.float32)
        write_audio(tmp_path / "a.wav", wav, SR, subtype="FLOAT")
        kept, _ = read_audio(tmp_path / "a.wav", mono=False)
        np.testing.assert_array_equal(mix_down(kept), read_audio(tmp_path / "a.wav")[0])
