from __future__ import annotations

import itertools
import os
import signal
from dataclasses import replace

import pytest

from svc.training.loop import Position, Schedule, StopSignal, run


class Recorder:
    """A task that writes down what it is asked to do."""

    def __init__(self, *, signal_at: int | None = None, number: int = signal.SIGTERM) -> None:
        self.calls: list[tuple[str, int]] = []
        self.saved: list[Position] = []
        self.detailed: list[int] = []
        self.batches: list[int] = []
        self.signal_at, self.number = signal_at, number

    def start_epoch(self, epoch: int) -> None:
        self.calls.append(("start", epoch))

    def finish_epoch(self, epoch: int, seconds: float) -> None:
        self.calls.append(("finish", epoch))

    def step(self, batch: int, step: int, *, detailed: bool) -> None:
        self.batches.append(batch)
        if detailed:
            self.detailed.append(step)
        if step == self.signal_at:
            os.kill(os.getpid(), self.number)

    def log(self, step: int, rate: float, waiting: float) -> str:
        assert rate > 0
        assert 0 <= waiting <= 1
        return f"logged {step}"

    def evaluate(self, step: int) -> None:
        self.calls.append(("evaluate", step))

    def save(self, position: Position) -> None:
        self.calls.append(("save", position.step))
        self.saved.append(replace(position))


def go(
    task: Recorder,
    schedule: Schedule,
    *,
    per_epoch: int = 4,
    position: Position | None = None,
    stop: StopSignal | None = None,
) -> tuple[str, Position, list[tuple[int, int, str]]]:
    where = position or Position()
    reports: list[tuple[int, int, str]] = []
    reason = run(
        task,
        itertools.count(where.step),
        per_epoch,
        where,
        schedule,
        stop=stop or StopSignal(),
        progress=lambda *report: reports.append(report),
    )
    return reason, where, reports


def test_cadence() -> None:
    task = Recorder()
    reason, where, reports = go(task, Schedule(3, 5, epochs=100, max_steps=11))
    assert reason == "max_steps"
    assert where == Position(11, 3, 3)
    assert task.batches == list(range(11))
    assert task.detailed == [1, 3, 6, 9]
    assert [call for call in task.calls if call[0] == "save"] == [
        ("save", 5), ("save", 10), ("save", 11),
    ]  # fmt: skip
    assert [call for call in task.calls if call[0] == "evaluate"] == [
        ("evaluate", 5), ("evaluate", 10), ("evaluate", 11),
    ]  # fmt: skip
    assert [call for call in task.calls if call[0] in ("start", "finish")] == [
        ("start", 1), ("finish", 1), ("start", 2), ("finish", 2), ("start", 3),
    ]  # fmt: skip
    assert [report[0] for report in reports] == list(range(1, 12))
    assert {report[1] for report in reports} == {11}
    assert reports[7][2] == "logged 6"


def test_nothing_is_evaluated_or_saved_before_the_first_interval() -> None:
    task = Recorder()
    go(task, Schedule(10, 100, epochs=100, max_steps=3))
    assert task.calls == [("start", 1), ("evaluate", 3), ("save", 3)]


def test_the_last_epoch_is_inclusive() -> None:
    task = Recorder()
    reason, where, reports = go(task, Schedule(10, 8, epochs=2))
    assert reason == "epochs"
    # The end of the last epoch is left for a later call with more epochs; 8 was saved on the way.
    assert where == Position(8, 2, 4)
    assert task.calls.count(("save", 8)) == 1
    assert reports[-1][:2] == (8, 8)
    longer = Recorder()
    go(longer, Schedule(10, 8, epochs=3), position=where)
    assert longer.calls[:3] == [("start", 2), ("finish", 2), ("start", 3)]
    assert longer.batches == [8, 9, 10, 11]


def test_done_runs_stay_untouched() -> None:
    for position, schedule, expected in (
        (Position(9, 3, 1), Schedule(1, 1, epochs=100, max_steps=9), "max_steps"),
        (Position(8, 2, 4), Schedule(1, 1, epochs=2), "epochs"),
        (Position(8, 5, 0), Schedule(1, 1, epochs=2), "epochs"),
    ):
        task = Recorder()
        assert go(task, schedule, position=position)[0] == expected
        assert task.batches == []
        assert task.saved == []


def test_time_limit() -> None:
    task = Recorder()
    reason, where, _ = go(task, Schedule(1000, 10**9, epochs=10**9, max_seconds=0.05))
    assert reason == "max_minutes"
    assert where.step > 1
    assert task.saved[-1].step == where.step


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_its_step_with_a_save(number: signal.Signals) -> None:
    task = Recorder(signal_at=6, number=number)
    before = signal.getsignal(number)
    with StopSignal() as stop:
        reason, where, _ = go(task, Schedule(1000, 4, epochs=99), stop=stop)
    assert signal.getsignal(number) is before
    assert reason == number.name
    assert where.step == 6
    assert [position.step for position in task.saved] == [4, 6]
    assert ("evaluate", 6) not in task.calls  # whoever stops it does not wait for that


def test_a_second_interrupt_is_obeyed_at_once() -> None:
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.name == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_time_limit_bounds_what_progress_promises() -> None:
    limited = Schedule(log_interval=1, eval_interval=1, epochs=9, max_seconds=60.0)
    assert limited.reachable(1000, 100, 110, 10.0) == 160
    assert limited.reachable(120, 100, 110, 10.0) == 120
    assert limited.reachable(1000, 100, 110, 90.0) == 110
    assert Schedule(log_interval=1, eval_interval=1, epochs=9).reachable(1000, 0, 1, 5.0) == 1000
