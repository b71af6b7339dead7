"""The worker pool. Tasks are Python expressions: other processes can be made to do anything."""

from __future__ import annotations

import builtins
import functools
import os
from collections.abc import Callable
from typing import Any, cast

import pytest

from svc.dataset.pool import Outcome, job_count, run_jobs
from svc.errors import DatasetError, OutputError
from svc.threads import cpu_count


def evaluator() -> Callable[[int], Callable[[str], Any]]:
    # dict.get(table, worker number): picklable, and a fresh process can import it.
    build: Any = functools.partial(dict.get, dict.fromkeys(range(9), builtins.eval))
    return cast("Callable[[int], Callable[[str], Any]]", build)


def by_task(outcomes: list[Outcome[str, Any]]) -> dict[str, Outcome[str, Any]]:
    return {outcome.task: outcome for outcome in outcomes}


@pytest.mark.parametrize("jobs", [1, 2])
def test_one_bad_task_stops_nothing(jobs: int) -> None:
    tasks = ["1 + 1", "1 / 0", "'a' * 3", "[][0]"]
    found = by_task(list(run_jobs(evaluator(), tasks, jobs=jobs)))
    assert found["1 + 1"].result == 2
    assert found["'a' * 3"].result == "aaa"
    assert found["1 / 0"].error == "ZeroDivisionError: division by zero"
    assert "IndexError" in str(found["[][0]"].error)


def test_a_killed_worker_costs_one_task() -> None:
    tasks = [
        "1",
        "__import__('os')._exit(7)",
        "__import__('os').kill(__import__('os').getpid(), 9)",
    ]
    tasks += ["2", "3"]
    found = by_task(list(run_jobs(evaluator(), tasks, jobs=2)))
    assert {task for task, outcome in found.items() if outcome.error} == set(tasks[1:3])
    assert "exit code 7" in str(found[tasks[1]].error)
    assert "out of memory" in str(found[tasks[2]].error)
    assert [found[task].result for task in ("1", "2", "3")] == [1, 2, 3]


def test_processes_are_others_and_no_more_than_asked() -> None:
    tasks = [f"__import__('os').getpid() + 0 * {index}" for index in range(6)]
    pids = {outcome.result for outcome in run_jobs(evaluator(), tasks, jobs=2)}
    assert os.getpid() not in pids
    assert 1 <= len(pids) <= 2
    assert {outcome.result for outcome in run_jobs(evaluator(), tasks, jobs=1)} == {os.getpid()}


def test_a_worker_that_cannot_be_built_is_an_error() -> None:
    broken: Callable[[int], Any] = functools.partial(int, "x")
    with pytest.raises(DatasetError, match="ValueError"):
        list(run_jobs(broken, ["1", "2"], jobs=2))
    dying: Callable[[int], Any] = os._exit
    with pytest.raises(DatasetError, match="before its first file"):
        list(run_jobs(dying, ["1", "2"], jobs=2))


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_full_disk_ends_the_batch(jobs: int) -> None:
    full = (
        "exec('from svc.atomic import output_error\\nfrom pathlib import Path\\n"
        'try: raise OSError(28, "full")\\n'
        'except OSError as e: raise output_error(Path("x.wav"), e) from e\')'
    )
    with pytest.raises(OutputError, match="no space left"):
        list(run_jobs(evaluator(), [full, "1", "2"], jobs=jobs))
    # A name that is too long is one file's trouble.
    long = full.replace("28", "36")
    found = by_task(list(run_jobs(evaluator(), [long, "1"], jobs=jobs)))
    assert "too long" in str(found[long].error)
    assert found["1"].result == 1


def test_nothing_to_do_builds_nothing() -> None:
    assert list(run_jobs(lambda _: 1 / 0, [], jobs=4)) == []  # type: ignore[arg-type,return-value]


def test_job_count() -> None:
    assert job_count(3) == 3
    assert job_count(0) == cpu_count() >= 1
    assert 1 <= job_count(None) <= 30
