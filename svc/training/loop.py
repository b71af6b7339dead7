"""The training loop, readable from top to bottom, whatever is trained: cadence, limits, signals,
progress.

What a step, an evaluation or a save *is* belongs to the task.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Generic, Protocol, TypeVar

from svc.progress import Progress

T_contra = TypeVar("T_contra", contravariant=True)
T = TypeVar("T")


@dataclass
class Position:
    """How far a run is. All three count what is done, so a save needs no other bookkeeping."""

    step: int = 0
    """Optimiser steps done over the whole run."""
    epoch: int = 1
    """The running epoch, from 1."""
    batch: int = 0
    """Batches of that epoch done."""


@dataclass(frozen=True)
class Schedule:
    """When to log, evaluate and stop."""

    log_interval: int  # steps
    eval_interval: int  # steps
    epochs: int  # last epoch, inclusive
    max_steps: int | None = None  # over the whole run
    max_seconds: float | None = None  # of this call

    def total_steps(self, position: Position, batches: int) -> int:
        """Steps the whole run will have when it ends by itself."""
        by_epochs = position.step + max(
            0, (self.epochs - position.epoch + 1) * batches - position.batch
        )
        return by_epochs if self.max_steps is None else min(by_epochs, self.max_steps)

    def reachable(self, total: int, first: int, step: int, seconds: float) -> int:
        """Return the last step that the time limit lets this call reach, at the pace so far.

        Args:
            total: from `total_steps`.
            first: step at which this call began.
            step: the step just done, above `first`.
            seconds: time this call has taken.
        """
        if self.max_seconds is None or seconds <= 0:
            return total
        return min(total, max(step, first + int((step - first) * self.max_seconds / seconds)))


class Task(Protocol[T_contra]):
    """What the loop drives."""

    def start_epoch(self, epoch: int) -> None:
        """Prepare an epoch; also called when a run goes on in the middle of one."""

    def finish_epoch(self, epoch: int, seconds: float) -> None:
        """End an epoch."""

    def step(self, batch: T_contra, step: int, *, detailed: bool) -> None:
        """Take optimiser step number `step` (from 1); `detailed` steps measure what is logged."""

    def log(self, step: int, rate: float, waiting: float) -> str:
        """Log the last detailed step; `rate` steps/s, `waiting` share of time spent on data.
        Returns a short text.
        """

    def evaluate(self, step: int) -> None:
        """Evaluate after step number `step`."""

    def save(self, position: Position) -> None:
        """Write checkpoints that resume exactly here."""


class StopSignal(AbstractContextManager["StopSignal"]):
    """Turn SIGINT and SIGTERM into a wish to stop after the running step.

    A second SIGINT stops at once.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        # Only the main thread may set handlers; elsewhere the caller's own handling stays.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.name is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name


class Stopwatch(Generic[T]):
    """Times a stretch of steps and how much of it was spent waiting for batches."""

    def __init__(self, batches: Iterator[T]) -> None:
        self._batches = batches
        self.restart()

    def restart(self) -> None:
        """Begin a new stretch."""
        self._start, self._waited, self._steps = time.monotonic(), 0.0, 0

    def next_batch(self) -> T:
        """Return the next batch."""
        before = time.monotonic()
        batch = next(self._batches)
        self._waited += time.monotonic() - before
        self._steps += 1
        return batch

    def read(self) -> tuple[float, float]:
        """Return steps per second and the share of time spent waiting; begins a new stretch."""
        elapsed = max(time.monotonic() - self._start, 1e-9)
        result = self._steps / elapsed, self._waited / elapsed
        self.restart()
        return result


def run(
    task: Task[T],
    batches: Iterator[T],
    batches_per_epoch: int,
    position: Position,
    schedule: Schedule,
    *,
    stop: StopSignal,
    progress: Progress | None = None,
) -> str:
    """Train until a limit or a signal; the state at the end is saved.

    Args:
        task: what is trained.
        batches: endless, beginning at `position`.
        batches_per_epoch: batches in one epoch.
        position: where to begin; kept up to date.
        schedule: cadence and limits.
        stop: looked at before each step.
        progress: called after each step.

    Returns:
        Why it ended: max_steps, epochs, max_minutes, SIGINT or SIGTERM.
    """
    total = schedule.total_steps(position, batches_per_epoch)
    began = epoch_began = time.monotonic()
    watch = Stopwatch(batches)
    saved_at, first, text = position.step, position.step, ""
    task.start_epoch(position.epoch)

    while True:
        # ---- the end of an epoch -----------------------------------------------------------------
        if position.batch >= batches_per_epoch:
            if position.epoch >= schedule.epochs:
                reason = "epochs"
                break
            now = time.monotonic()
            task.finish_epoch(position.epoch, now - epoch_began)
            position.epoch, position.batch, epoch_began = position.epoch + 1, 0, now
            task.start_epoch(position.epoch)

        # ---- limits ------------------------------------------------------------------------------
        if position.epoch > schedule.epochs:
            reason = "epochs"
            break
        if stop.name is not None:
            reason = stop.name
            break
        if schedule.max_steps is not None and position.step >= schedule.max_steps:
            reason = "max_steps"
            break
        if schedule.max_seconds is not None and time.monotonic() - began >= schedule.max_seconds:
            reason = "max_minutes"
            break

        # ---- one step ----------------------------------------------------------------------------
        batch = watch.next_batch()
        step = position.step + 1
        detailed = step == 1 or step % schedule.log_interval == 0
        task.step(batch, step, detailed=detailed)
        position.step, position.batch = step, position.batch + 1

        # ---- log, evaluate, save -----------------------------------------------------------------
        if detailed:
            text = task.log(step, *watch.read())
        if progress is not None:
            spent = time.monotonic() - began
            progress(step, schedule.reachable(total, first, step, spent), text)
        if step % schedule.eval_interval == 0:
            task.evaluate(step)
            task.save(position)
            saved_at = step
            watch.restart()

    # ---- nothing is lost at the end --------------------------------------------------------------
    if position.step != saved_at:
        if not reason.startswith("SIG"):
            task.evaluate(position.step)
        task.save(position)
    return reason
