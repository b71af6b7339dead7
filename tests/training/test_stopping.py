"""Signals, wherever they come: the run ends by them, cleanly, with nothing lost."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from svc.training.loop import Position, Schedule, run
from svc.training.stopping import StoppedError, StopSignal, never

BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
SCHEDULE = Schedule(1000, 4, epochs=99, max_steps=8)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


class Signalled:
    """A task that gets a signal in a step, an evaluation or a save, and writes down what it does."""

    def __init__(self, where: str, step: int, number: int) -> None:
        self.where, self.at, self.number = where, step, number
        self.steps: list[int] = []
        self.evaluated: list[int] = []
        self.saved: list[Position] = []

    def _maybe(self, where: str, step: int) -> None:
        if (where, step) == (self.where, self.at):
            send(self.number)

    def start_epoch(self, epoch: int) -> None:
        pass

    def finish_epoch(self, epoch: int, seconds: float) -> None:
        pass

    def log(self, step: int, rate: float, waiting: float) -> str:
        return ""

    def step(self, batch: int, step: int, *, detailed: bool) -> None:
        assert batch == step - 1
        self.steps.append(step)
        self._maybe("step", step)

    def evaluate(self, step: int, stopping: Callable[[], bool] = never) -> None:
        for clip in range(3):
            if stopping():
                return
            if clip == 1:
                self._maybe("evaluate", step)
        self.evaluated.append(step)

    def save(self, position: Position) -> None:
        self._maybe("save", position.step)
        self.saved.append(replace(position))


def go(task: Signalled, batches: Iterator[int] | None = None) -> tuple[str, Position]:
    where = Position()
    with StopSignal() as stop:
        reason = run(task, batches or itertools.count(), 5, where, SCHEDULE, stop=stop)
    return reason, where


@BOTH
@pytest.mark.parametrize(
    ("where", "step", "evaluated", "saved"),
    [
        ("step", 6, [4], [4, 6]),  # whoever stops it does not wait for an evaluation
        ("step", 4, [], [4]),
        ("evaluate", 4, [], [4]),
        ("save", 4, [4], [4]),
        ("evaluate", 8, [4], [4, 8]),  # the last one: the run ends by the signal, not by its limit
        ("save", 8, [4, 8], [4, 8]),
    ],
)
def test_a_signal_ends_the_run_with_one_save(
    number: signal.Signals, where: str, step: int, evaluated: list[int], saved: list[int]
) -> None:
    task = Signalled(where, step, number)
    before = signal.getsignal(number)
    reason, position = go(task)
    assert signal.getsignal(number) is before
    assert reason == number.name
    assert position.step == step
    assert task.evaluated == evaluated
    assert [at.step for at in task.saved] == saved


@BOTH
@pytest.mark.parametrize("step", [2, 4, 5])
def test_a_signal_cuts_waiting_for_data_short(number: signal.Signals, step: int) -> None:
    def stuck() -> Iterator[int]:
        yield from range(step)
        timer = threading.Timer(0.1, send, [number])
        timer.start()
        time.sleep(60)
        pytest.fail("the wait goes on")

    task, began = Signalled("", 0, 0), time.monotonic()
    reason, position = go(task, stuck())
    assert time.monotonic() - began < 10
    assert reason == number.name
    assert position.step == step
    assert task.saved[-1].step == step
    assert len(task.saved) == (2 if step == 5 else 1)


def test_the_save_does_not_wait_for_the_loader_to_end() -> None:
    """Its processes, which may hang, are let go when the last reference goes."""
    events: list[str] = []

    class Loader:
        def __del__(self) -> None:
            events.append("loader ends")

    def stuck() -> Iterator[int]:
        loader = Loader()
        yield 0
        send(signal.SIGTERM)
        pytest.fail(f"the wait for {loader} goes on")

    class Saving(Signalled):
        def save(self, position: Position) -> None:
            super().save(position)
            events.append("saved")

    assert go(Saving("", 0, 0), stuck())[0] == "SIGTERM"
    assert events == ["saved", "loader ends"]


def test_a_signal_between_two_waits_cuts_the_next_one_short() -> None:
    with StopSignal() as stop:
        with stop.cut_short():
            pass
        send(signal.SIGTERM)
        with pytest.raises(StoppedError), stop.cut_short():
            pytest.fail("it waits")
        send(signal.SIGTERM)  # outside a wait it only stays noted


def test_waits_that_others_share_are_not_cut_short() -> None:
    with StopSignal(cut_waits=False) as stop:
        with stop.cut_short():
            send(signal.SIGTERM)
        assert stop.wished()
        with stop.cut_short():
            pass


def test_a_second_interrupt_is_obeyed_at_once() -> None:
    with StopSignal() as stop:
        send(signal.SIGINT)
        assert stop.name == "SIGINT"
        send(signal.SIGTERM)
        assert stop.name == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_a_wish_of_another_kind_is_no_first_interrupt() -> None:
    with StopSignal() as stop:
        stop.name = "patience"
        send(signal.SIGINT)
        assert stop.name == "SIGINT"


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="a signal of Unix")
def test_the_end_of_a_terminal_stops_the_run_unless_it_is_ignored() -> None:
    reason, position = go(Signalled("step", 3, signal.SIGHUP))
    assert (reason, position.step) == ("SIGHUP", 3)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        reason, position = go(Signalled("step", 3, signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (reason, position.step) == ("max_steps", 8)


def test_other_threads_leave_the_handlers_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> None:
        with StopSignal():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
