from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.audio.io import read_audio, write_audio
from svc.audio.loudness import frame_volume
from svc.audio.mel import linear_spectrogram
from svc.dataset.augment import draw_gain
from svc.dataset.features import FeaturePaths
from svc.errors import DatasetError
from svc.training.clips import (
    ClipDataset,
    Memory,
    plan_memory,
    scale_spec,
)

EVERYTHING = Memory(clips=True, specs=True)


def spectrogram(wav: torch.Tensor) -> torch.Tensor:
    return linear_spectrogram(wav[None], n_fft=256, hop_length=64, win_length=256)[0]


def test_a_clip_is_its_files(voices: Any) -> None:
    path = voices.files("bob")[0]
    clip = ClipDataset(voices.config, [path], augment=True).clip(0, 1)
    wav, _ = read_audio(path)
    frames = len(wav) // 64
    assert clip.frames == frames == 60
    assert clip.speaker == 1
    assert clip.name == str(path)
    assert clip.units.shape == (384, frames)
    assert torch.equal(clip.wav, torch.from_numpy(wav[: frames * 64]))
    assert torch.equal(clip.spec, spectrogram(clip.wav))
    assert clip.volume is None  # the config has no volume embedding
    stored = torch.load(FeaturePaths.of(path).units, weights_only=True)[0]
    columns = torch.arange(frames) * stored.shape[1] // frames
    assert torch.equal(clip.units, stored[:, columns])


@pytest.mark.parametrize("memory", [EVERYTHING, Memory(clips=False, specs=False)])
def test_only_clips_above_800_frames_are_cropped_to_790(
    make_voices: Callable[..., Any], memory: Memory
) -> None:
    voices = make_voices(lengths=(800, 801, 950), model={"vol_embedding": True})
    dataset = ClipDataset(voices.config, voices.files(), augment=True, memory=memory)
    path = voices.files()[2]
    wav = torch.from_numpy(read_audio(path)[0])
    volume = torch.from_numpy(np.load(FeaturePaths.of(path).volume))
    spec = spectrogram(wav[: 950 * 64])
    assert dataset.clip(0, 1).frames == 800
    assert dataset.clip(1, 1).frames == 790
    starts = set()
    for epoch in range(1, 12):
        clip = dataset.clip(2, epoch)
        assert clip.frames == 790
        assert clip.spec.shape == (129, 790)
        assert clip.wav.shape == (790 * 64,)
        assert clip.volume is not None
        start = int((wav.unfold(0, 790 * 64, 64) == clip.wav).all(1).nonzero()[0, 0])
        assert 0 <= start <= 150
        # Everything is cut at the same place, and the spectrogram is that of the whole clip.
        assert torch.equal(clip.volume, volume[start : start + 790])
        assert torch.allclose(clip.spec, spec[:, start : start + 790], rtol=0, atol=1e-6)
        starts.add(start)
    assert len(starts) > 5


def test_draws_depend_on_seed_epoch_and_clip_only(make_voices: Callable[..., Any]) -> None:
    voices = make_voices(lengths=(950,), model={"vol_embedding": True}, train={"vol_aug": True})
    one = ClipDataset(voices.config, voices.files(), augment=True, seed=3)
    two = ClipDataset(voices.config, voices.files(), augment=True, seed=3, memory=EVERYTHING)
    for epoch in (5, 1, 5):
        assert torch.equal(one.clip(0, epoch).wav, two.clip(0, epoch).wav)
    other = ClipDataset(voices.config, voices.files(), augment=True, seed=4)
    assert any(not torch.equal(one.clip(0, e).wav, other.clip(0, e).wav) for e in range(4))


def test_validation_clips_are_cut_at_the_start_and_keep_their_loudness(
    make_voices: Callable[..., Any],
) -> None:
    voices = make_voices(lengths=(950,), model={"vol_embedding": True}, train={"vol_aug": True})
    dataset = ClipDataset(voices.config, voices.files(), augment=False)
    wav, _ = read_audio(voices.files()[0])
    for epoch in range(1, 6):
        clip = dataset.clip(0, epoch)
        assert torch.equal(clip.wav, torch.from_numpy(wav[: 790 * 64]))


def test_volume_augmentation_scales_wav_volume_and_spectrogram_together(
    make_voices: Callable[..., Any],
) -> None:
    voices = make_voices(model={"vol_embedding": True}, train={"vol_aug": True})
    files = voices.files()
    plain = ClipDataset(voices.config, files, augment=False).clip(0, 1)
    dataset = ClipDataset(voices.config, files, augment=True, memory=EVERYTHING)
    gains = []
    for epoch in range(1, 40):
        clip = dataset.clip(0, epoch)
        gain = float(clip.wav[500] / plain.wav[500])
        gains.append(gain)
        assert clip.volume is not None
        assert plain.volume is not None
        assert torch.allclose(clip.wav, plain.wav * gain, atol=1e-6)
        assert torch.allclose(clip.volume, plain.volume * gain, atol=1e-6)
        assert torch.allclose(clip.spec, spectrogram(clip.wav), rtol=1e-4, atol=1e-5)
        assert clip.wav.abs().max() <= 1.0
    untouched = [gain for gain in gains if abs(gain - 1) < 1e-6]
    assert 8 <= len(untouched) <= 31  # a fair coin
    assert min(gains) < 0.5
    assert max(gains) > 1.3
    # The features in memory are left as they are.
    kept = dataset._recording(0)
    assert torch.equal(torch.from_numpy(kept.samples.values)[: len(plain.wav)], plain.wav)


def test_gains_stay_within_a_tenth_and_full_scale(rng: np.random.Generator) -> None:
    for peak, top in ((0.01, 10.0), (0.5, 2.0), (1.0, 1.0)):
        drawn = np.array([draw_gain(rng, peak) for _ in range(2000)])
        assert drawn.min() >= 0.1
        assert drawn.max() <= top
        assert drawn.max() > 0.9 * top
        # Uniform in decibels: half of the draws lie below the middle of the logarithms.
        assert np.median(np.log10(drawn)) == pytest.approx((np.log10(top) - 1) / 2, abs=0.06)


def test_scaled_spectrogram_is_that_of_the_scaled_wave(rng: np.random.Generator) -> None:
    wav = torch.from_numpy(rng.standard_normal(6400).astype(np.float32)) * 0.1
    wav[2000:4000] = 0
    for gain in (0.1, 0.5, 3.0, 10.0):
        expected = spectrogram(wav * gain)
        assert torch.allclose(scale_spec(spectrogram(wav), gain), expected, rtol=2e-4, atol=2e-6)


def test_memory_plan(voices: Any) -> None:
    config = voices.config
    frames = [100] * 10
    bytes_of_clips = 1000 * (4 * (64 + 3) + 4 * 384 * 50 * 64 / 8000)
    bytes_of_specs = 1000 * 4 * 129
    assert plan_memory(config, frames, limit=int(bytes_of_clips + bytes_of_specs) + 1) == EVERYTHING
    assert plan_memory(config, frames, limit=int(bytes_of_clips) + 1) == Memory(True, False)
    assert plan_memory(config, frames, limit=int(bytes_of_clips) - 1) == Memory(False, False)
    asked = voices.edit(train={"all_in_mem": True})
    assert plan_memory(asked, frames, limit=0) == EVERYTHING


def test_clips_in_memory_are_read_once(voices: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = ClipDataset(voices.config, voices.files(), augment=True, memory=EVERYTHING)
    seen: list[tuple[int, int, str]] = []
    dataset.preload(lambda *report: seen.append(report))
    assert seen[-1] == (5, 5, "4.wav")

    def fail(path: Path) -> None:
        raise AssertionError(path)

    monkeypatch.setattr(dataset, "_read", fail)
    assert dataset.clip(3, 9).frames == 52


def resave(path: Path, **parts: torch.Tensor) -> None:
    if "units" in parts:
        torch.save(parts["units"], FeaturePaths.of(path).units)
    if "f0" in parts:
        np.save(FeaturePaths.of(path).f0, parts["f0"].numpy())
        FeaturePaths.of(path).volume.unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: resave(p, units=torch.zeros(1, 9, 20)), "9 wide and the config says 384"),
        (lambda p: resave(p, f0=torch.ones(2, 66)), "60 frames of audio and 66 of f0"),
        (lambda p: resave(p, f0=torch.ones(2, 50)), "60 frames of audio and 50 of f0"),
        (lambda p: resave(p, f0=torch.full((2, 60), torch.nan)), "not "),
        (lambda p: resave(p, units=torch.full((1, 384, 9), torch.inf)), "units of"),
    ],
)
def test_features_that_do_not_fit_are_named(
    voices: Any, change: Callable[[Path], None], message: str
) -> None:
    path = voices.files()[0]
    change(path)
    with pytest.raises(DatasetError, match=message) as caught:
        ClipDataset(voices.config, [path], augment=True).clip(0, 1)
    assert "0.wav" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_changed_recording_is_named(voices: Any) -> None:
    path = voices.files()[0]
    write_audio(path, np.zeros(60 * 64, dtype=np.float32), 16000)
    with pytest.raises(DatasetError, match=r"0\.wav"):
        ClipDataset(voices.config, [path], augment=True).clip(0, 1)


def test_missing_volume_is_named(make_voices: Callable[..., Any]) -> None:
    voices = make_voices(model={"vol_embedding": True})
    path = voices.files()[0]
    FeaturePaths.of(path).volume.unlink()
    with pytest.raises(DatasetError, match=r"vol\.npy"):
        ClipDataset(voices.config, [path], augment=True).clip(0, 1)


def test_a_clip_shorter_than_the_window_is_named(make_voices: Callable[..., Any]) -> None:
    voices = make_voices(lengths=(20, 19))
    dataset = ClipDataset(voices.config, voices.files(), augment=True)
    assert dataset.clip(0, 1).frames == 20
    with pytest.raises(DatasetError, match=r"1\.wav is 0\.15 s long and training needs 0\.16 s"):
        dataset.clip(1, 1)


def test_volume_feature_matches_the_wave(make_voices: Callable[..., Any]) -> None:
    voices = make_voices(model={"vol_embedding": True})
    clip = ClipDataset(voices.config, voices.files(), augment=False).clip(0, 1)
    assert clip.volume is not None
    expected = frame_volume(clip.wav[None], 64)[0]
    assert torch.allclose(clip.volume[1:-1], expected[1:-1], atol=1e-4)
