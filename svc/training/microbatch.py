"""Batches that go through the nets in parts: gradients are added up, so the step is that of the whole
batch, and less of it is in memory at a time.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from svc.errors import DeviceError

T = TypeVar("T")

logger = logging.getLogger(__name__)

_ENTRY, _MEMORY = "micro_batch", "memory"
_PHRASES = ("out of memory", "ALLOC_FAILED", "can't allocate memory", "not enough memory")
"""What libraries below torch say, which have no error of their own for it."""


def parts_of(clips: int, size: int) -> Iterator[slice]:
    """Divide clips into as few parts of at most `size` as there can be, none much larger than another."""
    count = -(-clips // size)
    for number in range(count):
        yield slice(number * clips // count, (number + 1) * clips // count)


def cut(item: T, where: slice) -> T:
    """Return some clips of a batch: of a dataclass of tensors (B, ...), tuples and dataclasses."""
    if isinstance(item, Tensor | tuple):
        return item[where]  # type: ignore[return-value]
    if is_dataclass(item) and not isinstance(item, type):
        changed = {field.name: cut(getattr(item, field.name), where) for field in fields(item)}
        return replace(item, **changed)
    return item


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of the device is full."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _PHRASES)


class Dice:
    """The states of the global generators, from which dropout draws, as they are now."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._cpu = device, torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        """Draw again what was drawn since."""
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)


@dataclass
class MicroBatches:
    """How many clips go through the nets at a time; learnt from running out of memory.

    Args:
        device: of the nets.
    """

    device: torch.device
    limit: int | None = None
    """Clips at a time; None = all of a batch."""
    fixed: bool = False
    """Whether running out of memory is an error (while the batch size is looked for)."""
    tell: Callable[[str], None] = logger.warning
    """Called with one line when the limit changes."""

    def size(self, clips: int) -> int:
        """Return how many of a batch's clips go at a time."""
        return clips if self.limit is None else min(clips, self.limit)

    def run(self, clips: int, attempt: Callable[[list[slice]], T], undo: Callable[[], None]) -> T:
        """Do something with the parts of a batch, again with smaller parts where memory runs out.

        Args:
            clips: of the batch.
            attempt: is given the parts; whatever it keeps, `undo` forgets.
            undo: brings back the state before an attempt.

        Returns:
            What the attempt returns.

        Raises:
            DeviceError: not even one clip fits.
        """
        while True:
            size = self.size(clips)
            try:
                return attempt(list(parts_of(clips, size)))
            except (RuntimeError, MemoryError) as error:
                if self.fixed or not is_out_of_memory(error):
                    raise
                if size == 1:
                    raise DeviceError(
                        f"{self.device} ran out of memory with one clip at a time; train on shorter "
                        "clips or crops or a smaller net, or in bf16 where the device can, or end "
                        "what else is using the memory; then go on with the same command"
                    ) from error
            # Here the error is gone and with it its frames, which hold the tensors of the attempt.
            undo()
            self.clear()
            self.limit = max(size // 2, 1)
            self.tell(
                f"{self.device} ran out of memory with {size} clips at a time: from now on "
                f"{self.limit}, with their gradients added up; the batch stays {clips}"
            )

    def spare(self, work: Callable[[], T]) -> T:
        """Do something small beside the nets; where memory runs out, once more with empty caches."""
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        self.clear()
        return work()

    def clear(self) -> None:
        """Give back what nothing refers to."""
        gc.collect()  # graphs and errors refer to themselves
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def state_dict(self) -> dict[str, int]:
        """Return what a resumed run begins with."""
        if self.limit is None:
            return {}
        return {_ENTRY: self.limit, _MEMORY: self._memory()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` has returned, unless this device has more memory."""
        if _ENTRY in state and self._memory() <= int(state.get(_MEMORY, 0)):
            self.limit = max(int(state[_ENTRY]), 1)

    def _memory(self) -> int:
        """Bytes the device has; 0 where it is the host's."""
        if self.device.type != "cuda":
            return 0
        return int(torch.cuda.get_device_properties(self.device).total_memory)
