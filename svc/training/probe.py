"""``--batch_size auto``: how many clips a step takes best on this machine, found by trying."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import nn
from torch.utils.data import Dataset

from svc.errors import DeviceError, SvcError
from svc.training.memory import Gauge, gauge_of
from svc.training.microbatch import Dice, MicroBatches, is_out_of_memory
from svc.training.numerics import FiniteGuard
from svc.training.ranks import Ranks

AUTO = "auto"
"""The value of the flag."""
_FULL = 0.85  # share of the memory that may be used
_GROWTH = 1.05  # by which a double batch has to be faster, in clips per second
_TIMED = 2  # steps after the first, which also sets things up

B = TypeVar("B")
B_contra = TypeVar("B_contra", contravariant=True)
Config = TypeVar("Config", bound=Any)


class Probed(Protocol[B_contra]):
    """What is trained."""

    device: torch.device
    scaler: torch.amp.GradScaler
    guard: FiniteGuard
    micro: MicroBatches
    ranks: Ranks

    @property
    def modules(self) -> Sequence[nn.Module]:
        """Its nets."""

    @property
    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        """Their optimizers."""

    def step(self, batch: B_contra, step: int, *, detailed: bool) -> object:
        """Train on one batch."""


@dataclass(frozen=True)
class Trial:
    """What a batch size was found to be."""

    size: int
    """Clips."""
    rate: float
    """Clips per second."""
    full: float | None
    """Share of the memory in use at most; None = not known."""

    def __str__(self) -> str:
        """For the log."""
        memory = "" if self.full is None else f" ({self.full:.0%} of the memory)"
        return f"{self.size}: {self.rate:.3g} clips/s{memory}"


def with_batch_size(config: Config, size: int) -> Config:
    """Return a config, of whatever is trained, with a batch size."""
    train = dataclasses.replace(config.train, batch_size=size)
    return dataclasses.replace(config, train=train)


def settle_batch_size(
    config: Config, asked: int | str | None, extra: Mapping[str, Any] | None
) -> tuple[Config, bool]:
    """Take the batch size of the run that goes on, where ``auto`` is asked for.

    Args:
        config: of whatever is trained.
        asked: the flag.
        extra: the ``svc`` entry of the checkpoint that the run goes on from; None = there is none.

    Returns:
        The config, and whether the size has yet to be found out.
    """
    if asked != AUTO:
        return config, False
    size = ((extra or {}).get("order") or {}).get("batch_size")
    if isinstance(size, int) and size > 0:
        return with_batch_size(config, size), False
    return config, True


def longest_clips(
    dataset: Dataset[Any],
    put_together: Callable[[Sequence[Any]], B | SvcError],
    frames: Sequence[int],
) -> Callable[[int], B]:
    """Return what makes a batch of the n longest clips.

    Args:
        dataset: its items (epoch, index) are clips or errors.
        put_together: makes a batch of clips, or returns the first error among them.
        frames: of each clip.
    """
    order = sorted(range(len(frames)), key=lambda index: -frames[index])

    def batch_of(count: int) -> B:
        batch = put_together([dataset[1, index] for index in order[:count]])
        if isinstance(batch, SvcError):
            raise batch
        return batch

    return batch_of


def find_batch_size(
    learner: Probed[B],
    ranks: Ranks,
    batch_of: Callable[[int], B],
    most: int,
    *,
    step: int = 1,
    gauge: Gauge | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[int, str]:
    """Try 1, 2, 4, ... clips until memory or speed says enough.

    It ends where memory runs out or would be used by more than 85 %, and where twice the clips are
    not 5 % faster per clip. The steps are real ones, and everything they change comes back as it
    was, bit for bit.

    Args:
        learner: what is trained.
        ranks: the processes of the run, which agree on the smallest finding.
        batch_of: makes a batch of n clips, the longest there are.
        most: clips that there are.
        step: number of the step to take: one in which everything learns.
        gauge: of the memory; None = that of the device.
        clock: seconds.

    Returns:
        The best size, and a line for the log.

    Raises:
        DeviceError: not even one clip fits.
        SvcError: a clip cannot be read.
    """
    trials: list[Trial] = []
    with untouched(learner):
        gauge = gauge or gauge_of(learner.device)
        size, why = 1, f"there are {most} clips"
        while size <= most:
            if _expected(trials, size) > _FULL:
                why = f"{size} would use more than {_FULL:.0%} of the memory"
                break
            seconds = _seconds(learner, batch_of(size), step, clock)
            if seconds is None:
                why = f"{size} do not fit into memory"
                break
            trials.append(Trial(size, size / seconds, gauge.full()))
            if (trials[-1].full or 0.0) > _FULL and size > 1:
                why = f"{trials.pop()}, too much"
                break
            if len(trials) > 1 and trials[-1].rate < _GROWTH * trials[-2].rate:
                why = f"{size} are hardly faster than {size // 2}"
                break
            size *= 2
    if not trials:
        raise DeviceError(
            f"{learner.device} ran out of memory with one clip; train on shorter clips or crops or a "
            "smaller net, or in bf16 where the device can"
        )
    best = max(trials, key=lambda trial: trial.rate).size
    agreed = min(int(text) for text in ranks.gather(str(best)))
    return agreed, f"--batch_size auto: {agreed}; {', '.join(map(str, trials))}; {why}"


def _expected(trials: Sequence[Trial], size: int) -> float:
    """Share of the memory that a size is going to use, by a line through the last two trials."""
    known = [(trial.size, trial.full) for trial in trials if trial.full is not None]
    if len(known) < 2:
        return 0.0
    (before, one), (last, two) = known[-2:]
    return two + (two - one) / (last - before) * (size - last)


def _seconds(learner: Probed[B], batch: B, step: int, clock: Callable[[], float]) -> float | None:
    """Seconds of a step, the best of some; None when it does not fit."""
    best = float("inf")
    try:
        for number in range(1 + _TIMED):
            began = clock()
            learner.step(batch, step, detailed=False)
            if learner.device.type == "cuda":
                torch.cuda.synchronize(learner.device)
            if number:
                best = min(best, clock() - began)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    return best


@contextlib.contextmanager
def untouched(learner: Probed[Any]) -> Iterator[None]:
    """Bring back nets, optimizers, loss scaler and random numbers afterwards, bit for bit; in
    between, a learner learns alone, and memory that runs out is an error.
    """
    states = [
        {name: tensor.detach().to("cpu", copy=True) for name, tensor in module.state_dict().items()}
        for module in learner.modules
    ]
    moments = [_on_cpu(optimizer.state_dict()) for optimizer in learner.optimizers]
    scaler, dice = copy.deepcopy(learner.scaler.state_dict()), Dice(learner.device)
    ranks, learner.ranks, learner.micro.fixed = learner.ranks, Ranks.single(), True
    try:
        yield
    finally:
        learner.ranks, learner.micro.fixed = ranks, False
        learner.guard.drain()
        for module, optimizer, state, moment in zip(
            learner.modules, learner.optimizers, states, moments, strict=True
        ):
            optimizer.zero_grad(set_to_none=True)
            module.load_state_dict(state)
            optimizer.load_state_dict(moment)
        if scaler:
            learner.scaler.load_state_dict(scaler)
        dice.restore()
        learner.micro.clear()


def _on_cpu(state: Any) -> Any:
    """Copy an optimizer's state to the CPU: it stays beside the one that is tried with."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _on_cpu(value) for key, value in state.items()}
    return copy.deepcopy(state)
