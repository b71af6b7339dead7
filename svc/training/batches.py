"""Batches: collating clips, the order of an epoch, and the loader (spec_core 6.6, 6.7).

Where several processes train together, each takes batches of its own from one common order; together they are the whole
batch of a step.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from svc.errors import SvcError
from svc.threads import cpu_count
from svc.training.clips import Clip, ClipDataset, Memory
from svc.training.loaders import closed
from svc.training.ranks import PeerError, Ranks, Shares, shares_of

Self = TypeVar("Self", bound="Tensors")
T = TypeVar("T", bound="Tensors")

MAX_WORKERS = 5
TINY_DATASET = 16  # clips; fewer are not worth the start of worker processes
_POOL = 4  # batches whose clips are sorted by length together


@dataclass(frozen=True)
class Tensors:
    """Base of a batch: a frozen dataclass some of whose fields are tensors."""

    numbers: tuple[int, ...] = field(default=(), kw_only=True)
    """Number of each clip in the whole batch of all processes: what is drawn for a clip depends on it."""
    filler: bool = field(default=False, kw_only=True)
    """The clips do not count: there were none left, and all processes take part in a step."""
    shares: Shares = field(default=Shares(), kw_only=True)
    """Weights of this batch in the whole one."""
    width: int = field(default=0, kw_only=True)
    """Frames that clips are padded to on the way to the device, where other processes have longer ones: the processes
    wait for each other, so it costs nothing, and clips are at the end of a batch what they would be in the whole one.
    """

    def __post_init__(self) -> None:
        if not self.numbers:
            object.__setattr__(self, "numbers", tuple(range(len(self))))

    def __len__(self) -> int:
        """Number of clips."""
        raise NotImplementedError

    @property
    def extent(self) -> tuple[int, int, int]:
        """Clips, their frames without padding, and frames of a clip with it."""
        return len(self), len(self), 1

    def _each(self: Self, method: str, *args: Any, **kwargs: Any) -> Self:
        changed = {
            item.name: getattr(value, method)(*args, **kwargs)
            for item in fields(self)
            if isinstance(value := getattr(self, item.name), Tensor)
        }
        return replace(self, **changed)

    def to(self: Self, device: torch.device) -> Self:
        """Return the batch on a device; the copy does not wait when the memory is pinned."""
        return self._each("to", device, non_blocking=True)

    def pin_memory(self: Self) -> Self:
        """Return the batch in pinned memory (called by the loader)."""
        return self._each("pin_memory")


@dataclass(frozen=True)
class Batch(Tensors):
    """B clips, longest first, zero-padded to T frames of `hop` samples."""

    units: Tensor  # (B, D, T)
    f0: Tensor  # (B, T) Hz
    uv: Tensor  # (B, T) 1 = voiced
    spec: Tensor  # (B, F, T)
    wav: Tensor  # (B, 1, T * hop)
    speaker: Tensor  # (B,) int64
    lengths: Tensor  # (B,) int64, frames
    volume: Tensor | None  # (B, T)
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def extent(self) -> tuple[int, int, int]:
        """Clips, their frames without padding, and frames of a clip with it."""
        return len(self), int(self.lengths.sum()), self.n_frames

    @property
    def n_frames(self) -> int:
        """T on the device."""
        return max(self.width, self.f0.shape[-1])

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device, padded to `width`."""
        moved, more = super().to(device), self.width - self.f0.shape[-1]
        if more <= 0:
            return moved
        samples = more * (self.wav.shape[-1] // self.f0.shape[-1])
        return replace(
            moved,
            units=F.pad(moved.units, (0, more)),
            f0=F.pad(moved.f0, (0, more)),
            uv=F.pad(moved.uv, (0, more)),
            spec=F.pad(moved.spec, (0, more)),
            wav=F.pad(moved.wav, (0, samples)),
            volume=None if moved.volume is None else F.pad(moved.volume, (0, more)),
        )


def collate(clips: Sequence[Clip | SvcError]) -> Batch | SvcError:
    """Put clips together, longest first, padded with zeros at the end (spec_core 6.6).

    Args:
        clips: the clips, or errors met while reading them.

    Returns:
        The batch, or the first error: raised where it can be reported as one line.
    """
    good: list[Clip] = []
    for clip in clips:
        if not isinstance(clip, Clip):
            return clip
        good.append(clip)
    good.sort(key=lambda clip: -clip.frames)
    volumes = [clip.volume for clip in good if clip.volume is not None]
    return Batch(
        units=_pad([clip.units for clip in good]),
        f0=_pad([clip.f0 for clip in good]),
        uv=_pad([clip.uv for clip in good]),
        spec=_pad([clip.spec for clip in good]),
        wav=_pad([clip.wav[None] for clip in good]),
        speaker=torch.tensor([clip.speaker for clip in good]),
        lengths=torch.tensor([clip.frames for clip in good]),
        volume=_pad(volumes) if len(volumes) == len(good) else None,
        names=tuple(clip.name for clip in good),
    )


def _pad(rows: list[Tensor]) -> Tensor:
    """Stack tensors (..., N_i), the first of them longest, into (B, ..., N)."""
    out = rows[0].new_zeros(len(rows), *rows[0].shape)
    for target, row in zip(out, rows, strict=True):
        target[..., : row.shape[-1]] = row
    return out


class EpochBatches(Sampler[list[tuple[int, int, int]]]):
    """Endless stream of batches of (epoch, index, number), every epoch shuffled anew by (seed, epoch).

    Endless, so that worker processes and what they have fetched live through the ends of epochs. In
    large data sets the clips of `_POOL` batches are sorted by length before they are cut: less
    padding, and the order of batches and the members of a pool stay random.

    With several processes a step takes the next `world` batches of the epoch, and their clips are divided evenly:

        batches of the epoch   | 0 1 2 | 3 4 5 | 6 7 8 | 9   |      three clips each, the last has two
        world 2, rank 0        | 0 1 2         | 6 7 8       |  9, alone: one clip for each process
        world 2, rank 1        |         3 4 5 |         9 . |

    The order does not depend on `world`, so a run goes on with another one where it was, and every clip of the epoch is
    trained once. Where fewer clips than processes are left, the others take one that does not count (number -1).

    Args:
        lengths: frames of each clip.
        batch_size: clips per batch of a process; the last batch of an epoch may hold fewer.
        seed: of the shuffles.
        epoch: epoch the stream starts in, from 1.
        batch: batches of that epoch to leave out: they are done, by whatever process.
        rank: number of this process.
        world: number of processes.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        *,
        seed: int,
        epoch: int = 1,
        batch: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.lengths, self.batch_size, self.seed = np.asarray(lengths), batch_size, seed
        self.start_epoch, self.start_batch = epoch, batch
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        """Batches in one epoch, of all processes together."""
        return -(-len(self.lengths) // self.batch_size)

    def epoch(self, epoch: int) -> list[list[int]]:
        """Return the batches of an epoch as lists of clip numbers; every clip occurs once."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.lengths))
        pool = _POOL * self.batch_size
        if len(order) <= 2 * pool:
            return [batch.tolist() for batch in self._cut(order)]
        batches: list[Any] = []
        for start in range(0, len(order), pool):
            part = order[start : start + pool]
            batches += self._cut(part[np.argsort(-self.lengths[part], kind="stable")])
        return [batches[number].tolist() for number in rng.permutation(len(batches))]

    def _cut(self, order: Any) -> list[Any]:
        return [
            order[start : start + self.batch_size]
            for start in range(0, len(order), self.batch_size)
        ]

    def share(self, batches: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
        """Return this process' part of the batches of a step, as (index, number in the whole batch)."""
        clips = [(index, number) for number, index in enumerate(itertools.chain(*batches))]
        size, more = divmod(len(clips), self.world)
        start = self.rank * size + min(self.rank, more)
        own = clips[start : start + size + (self.rank < more)]
        return own or [(clips[0][0], -1)]

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        epoch, done = self.start_epoch, self.start_batch
        while True:
            batches = self.epoch(epoch)
            for first in range(done, len(batches), self.world):
                part = self.share(batches[first : first + self.world])
                yield [(epoch, index, number) for index, number in part]
            epoch, done = epoch + 1, 0


class Source(Protocol):
    """A data set, as far as the number of its loader processes goes."""

    @property
    def memory(self) -> Memory:
        """What of it is kept in memory."""

    def __len__(self) -> int:
        """Number of clips."""


def choose_workers(dataset: Source, *, cpus: int | None = None, processes: int = 1) -> int:
    """Return how many loader processes serve a data set.

    None when it is in memory or tiny, or when there is no spare core.

    Args:
        dataset: what they read.
        cpus: of this machine; None counts them.
        processes: that train on this machine, each with loaders of its own.
    """
    count = (cpus if cpus is not None else cpu_count()) // processes
    if dataset.memory.clips or len(dataset) < TINY_DATASET or count < 3:
        return 0
    return min(MAX_WORKERS, count - 1)


def _quiet_worker(worker: int) -> None:
    """Leave signals to the main process, which saves: a worker that dies of one takes it along.

    Ctrl-C, torchrun and job systems send theirs to the whole group of processes. Workers see by themselves when the
    main process is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Numbered(Dataset[tuple[int, Any]]):
    """Clips with their numbers in the whole batch."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[int, Any]:
        epoch, index, number = key
        return number, self._dataset[epoch, index]


@dataclass(frozen=True)
class _Together(Generic[T]):
    """Collates clips that come with their numbers."""

    put_together: Callable[[Sequence[Any]], T | SvcError]

    def __call__(self, items: Sequence[tuple[int, Any]]) -> T | SvcError:
        # As `collate` does, which then finds nothing to change: numbers and clips stay side by side.
        rows = sorted(items, key=lambda item: -getattr(item[1], "frames", 0))
        batch = self.put_together([clip for _, clip in rows])
        if isinstance(batch, SvcError):
            return batch
        numbers = tuple(number for number, _ in rows)
        filler = min(numbers) < 0
        return replace(batch, numbers=(0,) if filler else numbers, filler=filler)


def stream(
    dataset: ClipDataset,
    order: EpochBatches,
    *,
    workers: int,
    pin: bool,
    ranks: Ranks | None = None,
) -> Iterator[Batch]:
    """Yield batches of a voice for ever; arguments as `stream_of`."""
    yield from stream_of(dataset, order, collate, workers=workers, pin=pin, ranks=ranks)


def stream_of(
    dataset: Dataset[Any],
    order: EpochBatches,
    put_together: Callable[[Sequence[Any]], T | SvcError],
    *,
    workers: int,
    pin: bool,
    ranks: Ranks | None = None,
) -> Iterator[T]:
    """Yield batches for ever, in the order given.

    Args:
        dataset: the clips; an item is a clip or the error met.
        order: which clips, from which point on.
        put_together: makes a batch of clips, or returns the first error among them.
        workers: loader processes; they live as long as the iterator.
        pin: put batches into pinned memory (for a CUDA device).
        ranks: the processes that train together; all of them take a batch at the same time.

    Yields:
        The batches, with their weights in the whole batch.

    Raises:
        SvcError: a clip cannot be read or does not fit; names the file.
        PeerError: that happened to another process.
    """
    loader: DataLoader[Any] = DataLoader(
        _Numbered(dataset),
        batch_sampler=order,
        collate_fn=_Together(put_together),
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_quiet_worker,
        # Without one of its own the loader draws a seed from the global generator, and resuming
        # would not be exact.
        generator=torch.Generator(),
    )
    with closed(loader) as batches:
        yield from _shared(batches, ranks)


def _shared(batches: Iterator[Any], ranks: Ranks | None) -> Iterator[Any]:
    """Raise the errors among the batches, and give each its weights in the whole batch."""
    for batch in batches:
        failed = isinstance(batch, SvcError)
        if ranks is None or ranks.world == 1:
            if failed:
                raise batch
            yield batch
            continue
        # An error of one is told by that one; the others leave at the same step, with whole nets.
        table = ranks.table([failed, *((0, 0, 0) if failed or batch.filler else batch.extent)])
        if failed:
            raise batch
        if any(row[0] for row in table):
            raise PeerError("")
        shares = shares_of([row[1:3] for row in table], ranks.rank)
        yield replace(batch, shares=shares, width=int(max(row[3] for row in table)))
