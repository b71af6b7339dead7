"""What a clip gives to a batch of the diffusion model (spec_diffusion 11; 12, B2, B7, B8)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.audio.frames import expand_units
from svc.dataset.features import FeatureCache
from svc.errors import DatasetError
from svc.training.diffusion_clips import (
    Cache,
    DiffusionClip,
    DiffusionDataset,
    collate,
    crop_frames,
)

CPU = torch.device("cpu")
ALICE = [Path(f"clips/alice/{index}.wav") for index in range(3)]


def dataset(run: Any, **options: Any) -> DiffusionDataset:
    return DiffusionDataset(run.config, run.settings, ALICE, **options)


def equal(one: DiffusionClip, two: DiffusionClip) -> bool:
    pairs = zip(vars(one).values(), vars(two).values(), strict=True)
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


@pytest.mark.parametrize(
    ("rate", "hop", "seconds", "frames"),
    [(44100, 512, 2, 172), (8000, 64, 0.4, 50), (8000, 64, 0.408, 51), (48000, 480, 0.07, 7)],
)
def test_a_crop_is_its_seconds_rounded_down(
    make_run: Callable[..., Any], rate: int, hop: int, seconds: float, frames: int
) -> None:
    run = make_run(lengths=(60, 55))
    config = run.edit(data={"sampling_rate": rate, "block_size": hop, "duration": seconds})
    assert crop_frames(config) == frames


def test_both_kinds_of_items_are_consistent(make_run: Callable[..., Any]) -> None:
    """The table of spec_diffusion 11, with clips in memory and read each time (B2: the original
    then gives the plain mel the other pitch, volume and shift).
    """
    run = make_run()
    fresh, kept = dataset(run), dataset(run, cache=Cache(CPU, half=False))
    cache, kinds = FeatureCache(run.settings), Counter[bool]()
    for epoch in range(1, 13):
        for index, path in enumerate(ALICE):
            clip = fresh.crop(index, epoch)
            assert equal(clip, kept.crop(index, epoch))
            features, mels = cache.load(path), cache.load_mels(path)
            assert features.volume is not None
            changed = clip.aug_shift != 0
            kinds[changed] += 1
            source = mels.aug_mel if changed else mels.mel
            starts = [
                s for s in range(len(source) - 49) if torch.equal(source[s : s + 50], clip.mel)
            ]
            assert len(starts) == 1
            part = slice(starts[0], starts[0] + 50)
            units = expand_units(features.units, len(source), "nearest").T
            volume = mels.aug_volume if changed else features.volume
            shift = mels.key_shift if changed else 0.0
            assert clip.aug_shift == shift
            assert torch.equal(clip.units, units[part])
            assert torch.equal(clip.volume, volume[part])
            assert torch.allclose(clip.f0, features.f0[part] * 2 ** (shift / 12), rtol=1e-6)
            assert (clip.speaker, clip.name) == (0, str(path))
    assert 8 <= kinds[True] <= 28  # 18 of 36 expected; a fair coin leaves this once in 3000 seeds


def test_draws_depend_on_seed_epoch_and_clip_alone(make_run: Callable[..., Any]) -> None:
    run = make_run(lengths=(200, 200, 200, 60))
    one, two, other = dataset(run, seed=5), dataset(run, seed=5), dataset(run, seed=6)
    np.random.seed(1)
    first = [one.crop(0, epoch) for epoch in range(1, 7)]
    np.random.seed(2)
    again = [two.crop(0, epoch) for epoch in (6, 5, 4, 3, 2, 1)][::-1]
    assert all(map(equal, first, again))
    assert not any(equal(first[0], clip) for clip in first[1:])
    assert not equal(first[0], other.crop(0, 1))


def test_every_crop_of_a_clip_is_drawn(make_run: Callable[..., Any]) -> None:
    run = make_run(lengths=(53, 50, 50, 60))
    clips = dataset(run, cache=Cache(CPU, half=False))
    units = clips.whole(0, 99).units
    found = {
        next(s for s in range(4) if torch.equal(units[s : s + 50], clips.crop(0, epoch).units))
        for epoch in range(1, 60)
    }
    assert found == {0, 1, 2, 3}
    # A clip that is as long as the crop is used, whole.
    assert torch.equal(clips.crop(1, 1).units, clips.whole(1, 99).units)


def test_memory_is_half_where_asked_for_and_never_double(make_run: Callable[..., Any]) -> None:
    run = make_run()
    exact = dataset(run, cache=Cache(CPU, half=False))
    for half, kind in ((True, torch.float16), (False, torch.float32)):
        clips = dataset(run, cache=Cache(CPU, half=half))
        size = clips.preload()
        # 16 bands twice, 384 units; f0 and two volumes stay float32. B8: the original keeps the
        # augmented mel in float64.
        assert size == (60 + 55 + 70) * ((2 if half else 4) * (2 * 16 + 384) + 12)
        for epoch in range(1, 7):
            clip, other = clips.crop(0, epoch), exact.crop(0, epoch)
            assert clip.mel.dtype == clip.units.dtype == kind
            assert clip.f0.dtype == clip.volume.dtype == torch.float32
            assert torch.allclose(clip.mel.float(), other.mel, atol=0.01)
            assert torch.allclose(clip.units.float(), other.units, atol=0.005)
            assert torch.equal(clip.f0, other.f0)


def test_whole_clips_are_plain_and_limited(make_run: Callable[..., Any]) -> None:
    run = make_run()
    clips, mels = dataset(run), FeatureCache(run.settings).load_mels(ALICE[0])
    clip = clips.whole(0, 1000)
    assert torch.equal(clip.mel, mels.mel)
    assert clip.aug_shift == 0
    assert clips.whole(0, 20).units.shape == (20, 384)


def test_speakers(make_run: Callable[..., Any]) -> None:
    run = make_run()
    bob = [Path("clips/bob/0.wav")]
    assert DiffusionDataset(run.config, run.settings, bob).crop(0, 1).speaker == 1
    config = run.edit(model={"n_spk": 1}, spk={"alice": 0, "bob": 1})
    assert DiffusionDataset(config, run.settings, bob).crop(0, 1).speaker == 0


def test_a_batch(make_run: Callable[..., Any]) -> None:
    clips = dataset(make_run())
    batch = collate([clips.crop(index, 1) for index in range(3)])
    assert not isinstance(batch, Exception)
    assert len(batch) == 3
    assert (batch.mel.shape, batch.units.shape) == ((3, 50, 16), (3, 50, 384))
    assert batch.f0.shape == batch.volume.shape == (3, 50)
    assert (batch.speaker.dtype, batch.aug_shift.dtype) == (torch.int64, torch.float32)
    assert batch.names == tuple(map(str, ALICE))
    error = DatasetError("one of them is bad")
    assert collate([clips.crop(0, 1), error]) is error


def test_what_does_not_fit_is_named(make_run: Callable[..., Any]) -> None:
    run = make_run()
    cache = FeatureCache(run.settings)
    parts = cache.load(ALICE[0])
    good = {"units": parts.units, "f0": torch.stack([parts.f0, parts.uv]), "volume": parts.volume}
    assert good["volume"] is not None
    cases: dict[str, dict[str, torch.Tensor]] = {
        "384 wide|250 wide": {"units": parts.units[:250]},
        "55 frames of f0 and 60 of mel": {
            "f0": torch.stack([parts.f0, parts.uv])[:, :55],
            "volume": good["volume"][:55],
        },
    }
    for text, changes in cases.items():
        cache.save(ALICE[0], **changes)
        with pytest.raises(DatasetError, match=text) as caught:
            dataset(run).crop(0, 1)
        assert "\n" not in str(caught.value)
        assert isinstance(dataset(run)[1, 0], DatasetError)  # not raised across processes
        cache.save(ALICE[0], **good)  # type: ignore[arg-type]
    assert isinstance(dataset(run)[1, 0], DiffusionClip)
    Path(f"{ALICE[0]}.vol.npy").unlink()
    with pytest.raises(DatasetError, match=r"0\.wav\.vol\.npy is missing"):
        dataset(run).crop(0, 1)
