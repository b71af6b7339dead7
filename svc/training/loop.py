"""The training loop, readable from top to bottom, whatever is trained: cadence, limits,
progress, and what becomes of a save that fails.

What a step, an evaluation or a save *is* belongs to the task.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from svc.errors import OutputError
from svc.progress import Progress
from svc.training.stopping import PATIENCE, SIGNALS, StoppedError, StopSignal

logger = logging.getLogger(__name__)

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
    """Batches of that epoch done, those of all processes counted."""
    saved: int | None = field(default=None, compare=False)
    """Step of the newest save; None = of the start, whatever that was. The loop sets it when
    `Task.save` returns, and a task that writes more than what a resume needs sets it before that.
    """


@dataclass(frozen=True)
class Schedule:
    """When to log, evaluate and stop."""

    log_interval: int  # steps
    eval_interval: int  # steps
    epochs: int  # last epoch, inclusive
    max_steps: int | None = None  # over the whole run
    max_seconds: float | None = None  # of this call

    def total_steps(self, position: Position, batches: int, world: int = 1) -> int:
        """Steps the whole run will have when it ends by itself; a step takes `world` batches."""
        later = self.epochs - position.epoch
        now, then = -(-(batches - position.batch) // world), -(-batches // world)
        by_epochs = position.step + (now + later * then if later >= 0 else 0)
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

    def evaluate(self, step: int, stopping: Callable[[], bool] = ...) -> None:
        """Evaluate after step number `step`; return early, with nets as before, once `stopping`
        says so. May raise OutputError for files of its own, which costs the run nothing.
        """

    def save(self, position: Position) -> None:
        """Write checkpoints that resume exactly here. Raises OutputError where that fails; the
        earlier ones are whole then, and a later save is tried.
        """


class Note(Protocol):
    """Writes a line of the journal, as `Journal.note`."""

    def __call__(self, text: str, *, level: int = ...) -> None:
        """Write it."""


def _log(text: str, *, level: int = logging.INFO) -> None:
    logger.log(level, "%s", text)


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
    note: Note = _log,
    agree: Callable[[bool], bool] = bool,
    world: int = 1,
) -> str:
    """Train until a limit or a signal; the state at the end is saved.

    A save that fails is told, and tried again at the next `eval_interval`; the last one must not
    fail. An evaluation or a batch that fails ends the run, after a save: the nets are whole.

    Args:
        task: what is trained.
        batches: endless, beginning at `position`.
        batches_per_epoch: batches in one epoch.
        position: where to begin; kept up to date.
        schedule: cadence and limits.
        stop: looked at before each step and in evaluations.
        progress: called after each step.
        note: told of saves that fail.
        agree: makes one decision out of those of all processes of the run.
        world: processes of the run; a step takes a batch for each of them.

    Returns:
        Why it ended: max_steps, epochs, max_minutes, SIGINT, SIGTERM or SIGHUP.

    Raises:
        OutputError: the state at the end cannot be saved; says what is lost.
    """
    total = schedule.total_steps(position, batches_per_epoch, world)
    began = epoch_began = time.monotonic()
    watch = Stopwatch(batches)
    keeper = _Keeper(task, position, stop, note)
    first, text = position.step, ""
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
        if agree(stop.wished()):
            # All processes say the same, though the wish may be of one of them; in doubt a signal's.
            stops = (PATIENCE, *SIGNALS)
            reason = next((name for name in stops if agree(stop.name == name)), "SIGTERM")
            break
        if schedule.max_steps is not None and position.step >= schedule.max_steps:
            reason = "max_steps"
            break
        limit = schedule.max_seconds
        if limit is not None and agree(time.monotonic() - began >= limit):
            reason = "max_minutes"
            break

        # ---- one step ----------------------------------------------------------------------------
        try:
            with stop.cut_short():
                batch = watch.next_batch()
        except StoppedError:
            # Here, and not below, where the loader is gone: its processes take their time to end.
            keeper.finish(evaluate=False)
            continue
        except Exception:
            keeper.rescue()
            raise
        step = position.step + 1
        detailed = step == 1 or step % schedule.log_interval == 0
        task.step(batch, step, detailed=detailed)
        position.step, position.batch = step, min(position.batch + world, batches_per_epoch)

        # ---- log, evaluate, save -----------------------------------------------------------------
        if detailed:
            text = task.log(step, *watch.read())
        if progress is not None:
            spent = time.monotonic() - began
            try:
                progress(step, schedule.reachable(total, first, step, spent), text)
            except OSError:  # the terminal is gone, which must not take the run with it
                progress = None
        if step % schedule.eval_interval == 0:
            keeper.attempt(f"The next attempt is at step {step + schedule.eval_interval}.")
            watch.restart()

    # ---- nothing is lost at the end --------------------------------------------------------------
    keeper.finish(evaluate=not reason.startswith("SIG"))
    return stop.name or reason


class _Keeper(Generic[T]):
    """Evaluates and saves, and knows what is not on the disk yet."""

    def __init__(self, task: Task[T], position: Position, stop: StopSignal, note: Note) -> None:
        self._task, self._position, self._stop, self._note = task, position, stop, note
        self._evaluated: int | None = None  # newest step whose evaluation wrote all it had to
        self._errors: list[OutputError] = []  # of the newest attempt
        if position.saved is None:
            position.saved = position.step

    def attempt(self, again: str) -> None:
        """Evaluate and save in the middle of a run; what cannot be written is told.

        Args:
            again: when the next attempt is made.
        """
        self._try()
        for error in self._errors[-1:]:
            self._note(f"{error}. {self._standing()} {again}", level=logging.WARNING)

    def finish(self, *, evaluate: bool) -> None:
        """Save at the end of a run what is not saved. Raises OutputError."""
        if self._position.step == self._position.saved and not self._errors:
            return
        self._try(evaluate=evaluate)
        for error in self._errors[-1:]:
            raise OutputError(f"{error}. {self._standing()}") from error

    def rescue(self) -> None:
        """Save before an error ends the run."""
        if self._position.step != self._position.saved:
            self._try(evaluate=False)
            for error in self._errors[-1:]:
                self._note(f"{error}. {self._standing()}", level=logging.WARNING)

    def _try(self, *, evaluate: bool = True) -> None:
        step, self._errors = self._position.step, []
        if evaluate and self._evaluated != step:
            try:
                self._task.evaluate(step, self._stop.wished)
                self._evaluated = step
            except OutputError as error:
                self._errors.append(error)
            except Exception:
                self.rescue()
                raise
        try:
            self._task.save(self._position)
            self._position.saved = step
        except OutputError as error:
            self._errors.append(error)

    def _standing(self) -> str:
        step, saved = self._position.step, self._position.saved
        if step == saved:
            return f"The checkpoint of step {step} is whole."
        newest = (
            f"the newest checkpoint is of step {saved}" if saved else "there is no checkpoint yet"
        )
        lost = f"Steps {(saved or 0) + 1} to {step} are" if saved != step - 1 else f"Step {step} is"
        return f"{lost} not saved: {newest}."
