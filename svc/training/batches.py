"""Batches: collating clips, the order of an epoch, and the loader (spec_core 6.6, 6.7)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from svc.errors import SvcError
from svc.training.clips import Clip, ClipDataset, Memory

T = TypeVar("T")
Self = TypeVar("Self", bound="Tensors")

MAX_WORKERS = 5
TINY_DATASET = 16  # clips; fewer are not worth the start of worker processes
_POOL = 4  # batches whose clips are sorted by length together


@dataclass(frozen=True)
class Tensors:
    """Base of a batch: a frozen dataclass some of whose fields are tensors."""

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


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Endless stream of batches of (epoch, index), every epoch shuffled anew by (seed, epoch).

    Endless, so that worker processes and what they have fetched live through the ends of epochs. In
    large data sets the clips of `_POOL` batches are sorted by length before they are cut: less
    padding, and the order of batches and the members of a pool stay random.

    Args:
        lengths: frames of each clip.
        batch_size: clips per batch; the last batch of an epoch may hold fewer.
        seed: of the shuffles.
        epoch: epoch the stream starts in, from 1.
        batch: batches of that epoch to leave out: they are done.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int = 1, batch: int = 0
    ) -> None:
        self.lengths, self.batch_size, self.seed = np.asarray(lengths), batch_size, seed
        self.start_epoch, self.start_batch = epoch, batch

    def __len__(self) -> int:
        """Batches in one epoch."""
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

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, done = self.start_epoch, self.start_batch
        while True:
            for batch in self.epoch(epoch)[done:]:
                yield [(epoch, index) for index in batch]
            epoch, done = epoch + 1, 0


class Source(Protocol):
    """A data set, as far as the number of its loader processes goes."""

    @property
    def memory(self) -> Memory:
        """What of it is kept in memory."""

    def __len__(self) -> int:
        """Number of clips."""


def choose_workers(dataset: Source, *, cpus: int | None = None) -> int:
    """Return how many loader processes serve a data set.

    None when it is in memory or tiny, or when there is no spare core.
    """
    count = cpus if cpus is not None else (os.cpu_count() or 1)
    if dataset.memory.clips or len(dataset) < TINY_DATASET or count < 3:
        return 0
    return min(MAX_WORKERS, count - 1)


def _quiet_worker(worker: int) -> None:
    """Leave Ctrl-C to the main process, which saves: a worker that dies of it takes it along."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def stream(
    dataset: ClipDataset, order: EpochBatches, *, workers: int, pin: bool
) -> Iterator[Batch]:
    """Yield batches of a voice for ever; arguments as `stream_of`."""
    yield from stream_of(dataset, order, collate, workers=workers, pin=pin)


def stream_of(
    dataset: Dataset[Any],
    order: EpochBatches,
    put_together: Callable[[Sequence[Any]], T | SvcError],
    *,
    workers: int,
    pin: bool,
) -> Iterator[T]:
    """Yield batches for ever, in the order given.

    Args:
        dataset: the clips; an item is a clip or the error met.
        order: which clips, from which point on.
        put_together: makes a batch of clips, or returns the first error among them.
        workers: loader processes; they live as long as the iterator.
        pin: put batches into pinned memory (for a CUDA device).

    Yields:
        The batches.

    Raises:
        SvcError: a clip cannot be read or does not fit; names the file.
    """
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=order,
        collate_fn=put_together,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_quiet_worker,
        # Without one of its own the loader draws a seed from the global generator, and resuming
        # would not be exact.
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, SvcError):
            raise batch
        yield batch
