from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from svc.errors import DatasetError, OutputError
from svc.training.loop import Position, Schedule, run
from svc.training.stopping import StopSignal, never


class Recorder:
    """A task that writes down what it is asked to do."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.saved: list[Position] = []
        self.detailed: list[int] = []
        self.batches: list[int] = []

    def start_epoch(self, epoch: int) -> None:
        self.calls.append(("start", epoch))

    def finish_epoch(self, epoch: int, seconds: float) -> None:
        self.calls.append(("finish", epoch))

    def step(self, batch: int, step: int, *, detailed: bool) -> None:
        self.batches.append(batch)
        if detailed:
            self.detailed.append(step)

    def log(self, step: int, rate: float, waiting: float) -> str:
        assert rate > 0
        assert 0 <= waiting <= 1
        return f"logged {step}"

    def evaluate(self, step: int, stopping: Callable[[], bool] = never) -> None:
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


def test_a_time_limit_bounds_what_progress_promises() -> None:
    limited = Schedule(log_interval=1, eval_interval=1, epochs=9, max_seconds=60.0)
    assert limited.reachable(1000, 100, 110, 10.0) == 160
    assert limited.reachable(120, 100, 110, 10.0) == 120
    assert limited.reachable(1000, 100, 110, 90.0) == 110
    assert Schedule(log_interval=1, eval_interval=1, epochs=9).reachable(1000, 0, 1, 5.0) == 1000


# ---- what fails ----------------------------------------------------------------------------------


class FullDisk(Recorder):
    """A task whose evaluations and saves fail at certain steps."""

    def __init__(self, *, saves: tuple[int, ...] = (), evaluations: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.saves, self.evaluations = list(saves), list(evaluations)

    def evaluate(self, step: int, stopping: Callable[[], bool] = never) -> None:
        super().evaluate(step, stopping)
        if step in self.evaluations:
            raise OutputError(f"cannot write best_{step}: no space")

    def save(self, position: Position) -> None:
        if position.step in self.saves:
            self.saves.remove(position.step)
            raise OutputError(f"cannot write G_{position.step}: no space")
        super().save(position)


def saved(task: Recorder) -> list[int]:
    return [position.step for position in task.saved]


def test_a_save_that_fails_on_the_way_is_told_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = FullDisk(saves=(4, 8))
    with caplog.at_level(logging.WARNING):
        reason, where, _ = go(task, Schedule(100, 4, epochs=99, max_steps=13))
    assert (reason, where.step, where.saved) == ("max_steps", 13, 13)
    assert saved(task) == [12, 13]
    assert caplog.messages == [
        "cannot write G_4: no space. Steps 1 to 4 are not saved: there is no checkpoint yet. "
        "The next attempt is at step 8.",
        "cannot write G_8: no space. Steps 1 to 8 are not saved: there is no checkpoint yet. "
        "The next attempt is at step 12.",
    ]


def test_the_last_save_is_tried_once_more_and_is_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = FullDisk(saves=(8,))
    go(task, Schedule(100, 4, epochs=99, max_steps=8))
    assert saved(task) == [4, 8]  # failed on the way and succeeded at the end
    assert task.calls.count(("evaluate", 8)) == 1
    for steps, lost in ((5, "Step 5 is"), (7, "Steps 5 to 7 are")):
        task = FullDisk(saves=(steps,))
        with pytest.raises(OutputError) as caught:
            go(task, Schedule(100, 4, epochs=99, max_steps=steps))
        assert str(caught.value) == (
            f"cannot write G_{steps}: no space. {lost} not saved: the newest checkpoint is of step 4."
        )
        assert saved(task) == [4]


def test_what_is_lost_counts_from_the_start_of_a_resumed_run() -> None:
    task = FullDisk(saves=(103,))
    with pytest.raises(OutputError, match=r"Steps 101 to 103 .* newest checkpoint is of step 100"):
        go(task, Schedule(100, 50, epochs=99, max_steps=103), position=Position(100, 26, 0))


def test_an_evaluation_that_cannot_write_costs_no_save(caplog: pytest.LogCaptureFixture) -> None:
    task = FullDisk(evaluations=(4,))
    go(task, Schedule(100, 4, epochs=99, max_steps=6))
    assert saved(task) == [4, 6]
    told = (
        "cannot write best_4: no space. The checkpoint of step 4 is whole. The next attempt is at"
    )
    assert [message[: len(told)] for message in caplog.messages] == [told]
    task = FullDisk(evaluations=(6,))
    with pytest.raises(OutputError, match=r"best_6: no space\. The checkpoint of step 6 is whole"):
        go(task, Schedule(100, 4, epochs=99, max_steps=6))
    assert saved(task) == [4, 6]


def test_a_task_that_has_saved_what_counts_says_so() -> None:
    class Exporting(Recorder):
        def save(self, position: Position) -> None:
            super().save(position)
            position.saved = position.step
            raise OutputError("cannot write the export")

    with pytest.raises(OutputError, match=r"the export\. The checkpoint of step 3 is whole"):
        go(Exporting(), Schedule(100, 3, epochs=99, max_steps=3))


def test_an_evaluation_that_fails_ends_the_run_after_a_save() -> None:
    class Failing(Recorder):
        def evaluate(self, step: int, stopping: Callable[[], bool] = never) -> None:
            raise RuntimeError("out of memory")

    task = Failing()
    with pytest.raises(RuntimeError, match="out of memory"):
        go(task, Schedule(100, 4, epochs=99))
    assert saved(task) == [4]


def batches_until(step: int, error: Exception) -> Iterator[int]:
    yield from range(step)
    raise error


@pytest.mark.parametrize(("fails_after", "expected"), [(6, [4, 6]), (4, [4])])
def test_data_that_cannot_be_read_end_the_run_after_a_save(
    fails_after: int, expected: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    batches = batches_until(fails_after, DatasetError("clip 7 is damaged"))
    task = Recorder()
    with StopSignal() as stop, pytest.raises(DatasetError, match="clip 7"):
        run(task, batches, 9, Position(), Schedule(100, 4, epochs=99), stop=stop)
    assert saved(task) == expected
    # Where the disk is full as well, it is the data that the run ends by; the disk is told of.
    task = FullDisk(saves=(6,))
    batches = batches_until(6, DatasetError("clip 7 is damaged"))
    with StopSignal() as stop, pytest.raises(DatasetError, match="clip 7"):
        run(task, batches, 9, Position(), Schedule(100, 4, epochs=99), stop=stop)
    assert "Steps 5 to 6 are not saved" in caplog.text


def test_a_terminal_that_is_gone_does_not_end_the_run() -> None:
    calls: list[int] = []

    def broken(step: int, total: int, text: str) -> None:
        calls.append(step)
        raise BrokenPipeError

    task, where = Recorder(), Position()
    schedule = Schedule(100, 4, epochs=99, max_steps=6)
    reason = run(task, itertools.count(), 4, where, schedule, stop=StopSignal(), progress=broken)
    assert (reason, where.step, calls) == ("max_steps", 6, [1])


@pytest.mark.parametrize("other", ["patience", "SIGINT", "SIGHUP"])
def test_all_processes_end_by_one_decision_and_say_the_same(other: str) -> None:
    asked: list[bool] = []
    names = ("patience", "SIGINT", "SIGTERM", "SIGHUP")

    def agree(mine: bool) -> bool:
        asked.append(mine)  # of another process: a wish before the fourth step, and then why
        return len(asked) == 4 or (len(asked) > 4 and names[len(asked) - 5] == other)

    task, where = Recorder(), Position()
    schedule = Schedule(100, 99, epochs=99)
    reason = run(task, itertools.count(), 9, where, schedule, stop=StopSignal(), agree=agree)
    assert (reason, where.step, saved(task)) == (other, 3, [3])
    assert asked == [False] * (5 + names.index(other))
