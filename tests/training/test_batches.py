from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from svc.errors import DatasetError
from svc.training.batches import Batch, EpochBatches, choose_workers, collate, stream
from svc.training.clips import Clip, ClipDataset, Memory


def clip(frames: int, *, speaker: int = 0, volume: bool = False) -> Clip:
    values = torch.arange(1, frames + 1, dtype=torch.float32)
    return Clip(
        units=values.repeat(3, 1),
        f0=values * 10,
        uv=torch.ones(frames),
        spec=values.repeat(5, 1) / 2,
        wav=torch.arange(1, frames * 4 + 1, dtype=torch.float32),
        speaker=speaker,
        volume=values / 100 if volume else None,
        name=f"{frames}.wav",
    )


def together(clips: list[Clip | Any]) -> Batch:
    batch = collate(clips)
    assert isinstance(batch, Batch)
    return batch


def test_collate_sorts_by_length_and_pads_with_zeros() -> None:
    batch = together([clip(3, speaker=1), clip(7, speaker=2), clip(5, speaker=3)])
    assert batch.names == ("7.wav", "5.wav", "3.wav")
    assert len(batch) == 3
    assert batch.lengths.tolist() == [7, 5, 3]
    assert batch.speaker.tolist() == [2, 3, 1]
    assert batch.speaker.dtype == batch.lengths.dtype == torch.int64
    shapes = {
        "units": (3, 3, 7), "f0": (3, 7), "uv": (3, 7), "spec": (3, 5, 7), "wav": (3, 1, 28),
    }  # fmt: skip
    for name, shape in shapes.items():
        tensor = getattr(batch, name)
        assert tensor.shape == shape, name
        assert tensor.dtype == torch.float32
        unit = shape[-1] // 7
        for row, frames in enumerate((7, 5, 3)):
            assert (tensor[row, ..., : frames * unit] != 0).all(), name
            assert (tensor[row, ..., frames * unit :] == 0).all(), name
    assert batch.f0[1].tolist() == [10, 20, 30, 40, 50, 0, 0]
    assert batch.volume is None


def test_collate_keeps_volume_only_when_every_clip_has_it() -> None:
    with_volume = together([clip(3, volume=True), clip(4, volume=True)]).volume
    assert with_volume is not None
    assert with_volume[1].tolist() == pytest.approx([0.01, 0.02, 0.03, 0.0])
    assert together([clip(3, volume=True), clip(4)]).volume is None


def test_collate_passes_errors_on() -> None:
    error = DatasetError("bad.wav is bad")
    assert collate([clip(3), error]) is error


@pytest.mark.parametrize(("clips", "size"), [(1, 4), (7, 2), (8, 2), (50, 3), (97, 4)])
def test_every_clip_occurs_once_in_an_epoch(clips: int, size: int) -> None:
    order = EpochBatches([5 * n % 13 + 20 for n in range(clips)], size, seed=1)
    seen = []
    for epoch in (1, 2, 3):
        batches = order.epoch(epoch)
        assert len(batches) == len(order)
        assert sorted(itertools.chain(*batches)) == list(range(clips))
        assert sorted(map(len, batches))[1:] == [size] * (len(batches) - 1)
        seen.append(batches)
    assert order.epoch(2) == seen[1]
    if clips > 5:
        assert seen[0] != seen[1] != seen[2]
        assert EpochBatches([20] * clips, size, seed=2).epoch(1) != seen[0]


def test_batches_of_a_large_data_set_hold_clips_of_like_length() -> None:
    lengths = torch.randint(20, 790, (400,), generator=torch.Generator().manual_seed(0)).tolist()
    order = EpochBatches(lengths, 4, seed=1)

    def padding(batches: list[list[int]]) -> int:
        return sum(
            max(lengths[i] for i in batch) * len(batch) - sum(lengths[i] for i in batch)
            for batch in batches
        )

    plain = list(range(400))
    unsorted = [plain[start : start + 4] for start in range(0, 400, 4)]
    batches = order.epoch(1)
    assert padding(batches) < 0.6 * padding(unsorted)
    # Long and short batches are mixed over the epoch, not sorted.
    means = [sum(lengths[i] for i in batch) for batch in batches]
    assert means != sorted(means)
    assert means != sorted(means, reverse=True)
    assert {frozenset(b) for b in batches} != {frozenset(b) for b in order.epoch(2)}


def test_the_stream_goes_on_where_it_is_told() -> None:
    lengths = list(range(20, 29))
    whole = list(itertools.islice(EpochBatches(lengths, 2, seed=5), 13))
    assert [batch[0][0] for batch in whole] == [1] * 5 + [2] * 5 + [3] * 3
    for done in (0, 1, 4, 5, 6, 12):
        epoch, batch = 1 + done // 5, done % 5
        rest = EpochBatches(lengths, 2, seed=5, epoch=epoch, batch=batch)
        assert list(itertools.islice(rest, 13 - done)) == whole[done:]
    # A save right at the end of an epoch counts all of its batches as done.
    assert next(iter(EpochBatches(lengths, 2, seed=5, epoch=1, batch=5))) == whole[5]


def test_worker_processes_change_nothing(make_voices: Callable[..., Any]) -> None:
    voices = make_voices(
        lengths=(810, 60, 45), model={"vol_embedding": True}, train={"vol_aug": True}
    )
    dataset = ClipDataset(voices.config, voices.files(), augment=True, seed=2)
    order = EpochBatches([810, 60, 45], 2, seed=2)
    before = torch.get_rng_state()
    runs = []
    for workers in (0, 2):
        batches = stream(dataset, order, workers=workers, pin=False)
        runs.append(list(itertools.islice(batches, 5)))
        del batches
    assert torch.equal(torch.get_rng_state(), before)
    for one, two in zip(*runs, strict=True):
        assert one.names == two.names
        assert torch.equal(one.wav, two.wav)
        assert torch.equal(one.spec, two.spec)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unusable_clip_is_one_line_from_any_process(voices: Any, workers: int) -> None:
    bad = voices.files()[2]
    bad.with_name(bad.name + ".soft.pt").write_bytes(b"no tensor")
    dataset = ClipDataset(voices.config, voices.files(), augment=True)
    order = EpochBatches([60] * 5, 5, seed=1)
    with pytest.raises(DatasetError, match=r"2\.wav\.soft\.pt") as caught:
        next(stream(dataset, order, workers=workers, pin=False))
    assert "\n" not in str(caught.value)


def test_workers(voices: Any) -> None:
    files = voices.files() * 10
    on_disk = ClipDataset(voices.config, files, augment=True)
    in_memory = ClipDataset(voices.config, files, augment=True, memory=Memory(True, False))
    tiny = ClipDataset(voices.config, files[:4], augment=True)
    assert choose_workers(on_disk, cpus=16) == 5
    assert choose_workers(on_disk, cpus=4) == 3
    assert choose_workers(on_disk, cpus=2) == 0
    assert choose_workers(in_memory, cpus=16) == 0
    assert choose_workers(tiny, cpus=16) == 0


def test_moving_a_batch_moves_all_of_it() -> None:
    batch = together([clip(3, volume=True), clip(4, volume=True)])
    moved = batch.to(torch.device("meta"))
    assert moved.names == batch.names
    assert moved.volume is not None
    assert {moved.units.device.type, moved.lengths.device.type, moved.volume.device.type} == {
        "meta"
    }


# ---- several processes ---------------------------------------------------------------------------


def counted(batch: list[tuple[int, int, int]]) -> list[int]:
    """The clips of a batch that count."""
    return [index for _, index, number in batch if number >= 0]


@pytest.mark.parametrize(
    ("clips", "size", "world"), [(8, 2, 2), (7, 2, 2), (5, 2, 2), (97, 4, 3), (3, 2, 8)]
)
def test_ranks_share_each_epoch(clips: int, size: int, world: int) -> None:
    lengths = [5 * n % 13 + 20 for n in range(clips)]
    ranks = [EpochBatches(lengths, size, seed=1, rank=rank, world=world) for rank in range(world)]
    steps = -(-len(ranks[0]) // world)
    streams = [itertools.islice(order, 2 * steps) for order in ranks]
    orders: list[list[int]] = [[], []]
    for step, parts in enumerate(zip(*streams, strict=True)):
        assert {epoch for part in parts for epoch, _, _ in part} == {1 + step // steps}
        # The whole batch in its order, whoever has what.
        numbers = [number for part in parts for _, _, number in part if number >= 0]
        assert numbers == list(range(len(numbers)))
        sizes = [len(counted(part)) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= size
        assert all(len(part) == max(1, count) for part, count in zip(parts, sizes, strict=True))
        orders[step // steps] += [index for part in parts for index in counted(part)]
    for epoch, order in enumerate(orders, start=1):
        assert sorted(order) == list(range(clips))
        assert order == list(itertools.chain(*ranks[0].epoch(epoch)))
    assert clips < 4 or orders[0] != orders[1]


def test_another_number_of_ranks_goes_on_with_the_clips_that_are_left() -> None:
    lengths, seen, done = [20] * 61, list[int](), 0
    for world, steps in ((2, 3), (1, 4), (3, 2), (2, 100)):
        batches = len(EpochBatches(lengths, 3, seed=4))
        steps = min(steps, -(-(batches - done) // world))
        for rank in range(world):
            order = EpochBatches(lengths, 3, seed=4, batch=done, rank=rank, world=world)
            for batch in itertools.islice(order, steps):
                seen += counted(batch)
        done = min(done + world * steps, batches)
    assert done == batches
    assert sorted(seen) == list(range(61))


def test_a_batch_knows_the_numbers_of_its_clips(voices: Any) -> None:
    dataset = ClipDataset(voices.config, voices.files(), augment=False)
    lengths = [60, 45, 70, 52, 48]
    order = EpochBatches(lengths, 2, seed=3, rank=1, world=2)
    epoch = [dataset.paths[index] for index in itertools.chain(*order.epoch(1))]
    batches = list(itertools.islice(stream(dataset, order, workers=0, pin=False), 2))
    assert [str(epoch[number]) for number in batches[0].numbers] == list(batches[0].names)
    assert sorted(batches[0].numbers) == [2, 3]
    assert list(batches[0].lengths) == sorted(batches[0].lengths, reverse=True)
    assert not batches[0].filler
    # One clip is left and rank 0 has it.
    assert batches[1].filler
    assert len(batches[1]) == 1
    assert together([clip(3), clip(4)]).numbers == (0, 1)


def test_a_batch_is_padded_to_the_longest_of_all() -> None:
    clips = [clip(3, volume=True), clip(5, volume=True)]
    narrow = dataclasses.replace(together(clips), width=7)
    wide = together([*clips, clip(7, volume=True)])
    moved = narrow.to(torch.device("cpu"))
    assert narrow.n_frames == moved.n_frames == 7
    assert narrow.extent == (2, 8, 7)
    for name in ("units", "f0", "uv", "spec", "wav", "volume"):
        assert torch.equal(getattr(moved, name), getattr(wide, name)[1:]), name
    assert torch.equal(moved.lengths, narrow.lengths)
    same = together(clips)
    assert same.to(torch.device("cpu")).f0.shape == same.f0.shape == (2, 5)


def test_ranks_share_the_cores() -> None:
    class Many:
        memory = Memory(clips=False, specs=False)

        def __len__(self) -> int:
            return 100

    assert [choose_workers(Many(), cpus=16, processes=n) for n in (1, 2, 4, 8)] == [5, 5, 3, 0]
