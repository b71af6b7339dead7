"""A pool of worker processes for batches of files: one bad file, even one that kills its process,
stops nothing else.

Each worker is built once (an encoder is loaded once per process) and gets one task at a time over
its own pipe, so the parent always knows which file a dead worker was at, and nothing but file names
and short results is in flight.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from svc.errors import DatasetError, OutputError, SvcError
from svc.threads import cpu_count

Task = TypeVar("Task")
Result = TypeVar("Result")

_FATAL_ERRNO = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})
_JOIN_SECONDS = 5.0


@dataclass(frozen=True)
class Outcome(Generic[Task, Result]):
    """What became of one task: a result, or the reason why there is none."""

    task: Task
    result: Result | None = None
    error: str | None = None


def job_count(asked: int | None, *, limit: int = 30) -> int:
    """Return how many processes to use.

    Args:
        asked: a number; 0 = one per CPU; None = CPUs - 2 above 4 CPUs, else 1 (spec_core 6.2).
        limit: the most that None means.
    """
    cpus = cpu_count()
    if asked is None:
        return min(limit, cpus - 2) if cpus > 4 else 1
    return asked if asked > 0 else cpus


def run_jobs(
    build: Callable[[int], Callable[[Task], Result]], tasks: Sequence[Task], *, jobs: int
) -> Iterator[Outcome[Task, Result]]:
    """Run tasks, in this process or in several.

    Args:
        build: called once per worker with its number; returns the function that does one task. With
            more than one job it must be picklable: a function of a module, or a `functools.partial`
            of one.
        tasks: what to do; each is picklable.
        jobs: worker processes; 1 = work here. Never more than there are tasks.

    Yields:
        One outcome per task as it ends, in any order.

    Raises:
        SvcError: a worker could not be built.
        OutputError: the disk is full or read-only; going on would fail for every file.
    """
    if min(jobs, len(tasks)) <= 1:
        yield from _run_here(build, tasks)
    else:
        yield from _run_processes(build, tasks, min(jobs, len(tasks)))


def _run_here(
    build: Callable[[int], Callable[[Task], Result]], tasks: Sequence[Task]
) -> Iterator[Outcome[Task, Result]]:
    if not tasks:
        return
    work = build(0)
    for task in tasks:
        try:
            result = work(task)
        except Exception as error:
            # Any failure of one file is reported with its name; the batch goes on.
            if _is_fatal(error):
                raise
            yield Outcome(task, error=_describe(error))
        else:
            yield Outcome(task, result=result)


def _is_fatal(error: Exception) -> bool:
    """A disk that is full or may not be written to fails every file; a name that is too long fails
    one.
    """
    cause = error.__cause__
    if not isinstance(error, OutputError):
        return False
    return not isinstance(cause, OSError) or cause.errno in _FATAL_ERRNO


def _describe(error: Exception) -> str:
    if isinstance(error, SvcError):
        return str(error)
    if isinstance(error, MemoryError):
        return "not enough memory; cut the recording into shorter clips with  svc slice"
    return f"{type(error).__name__}: {error}"


def _serve(pipe: Connection, build: Callable[[int], Callable[[Any], Any]], number: int) -> None:
    """Do tasks from a pipe until None comes: the body of a worker process."""
    # When the parent is interrupted or gone there is nobody to answer: leave without a word.
    with contextlib.suppress(KeyboardInterrupt, EOFError, BrokenPipeError):
        _serve_tasks(pipe, build, number)


def _serve_tasks(
    pipe: Connection, build: Callable[[int], Callable[[Any], Any]], number: int
) -> None:
    try:
        work = build(number)
    except Exception as error:
        pipe.send(("unbuilt", _describe(error)))
        return
    pipe.send(("ready", None))
    while (message := pipe.recv()) is not None:
        try:
            answer = ("done", work(message[0]))
        except Exception as error:
            answer = ("fatal" if _is_fatal(error) else "failed", _describe(error))
        pipe.send(answer)


@dataclass
class _Worker:
    number: int
    process: BaseProcess
    pipe: Connection
    task: int | None = None  # index of the task it is at


@contextlib.contextmanager
def _interrupt_ignored() -> Iterator[None]:
    """Let processes started inside ignore Ctrl-C, which a terminal sends to all of them.

    The parent ends them; otherwise each would print a traceback if it is still importing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier)


def _start(build: Callable[[int], Callable[[Any], Any]], number: int) -> _Worker:
    # spawn everywhere: a forked child of a process that has used CUDA or started threads may hang.
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, build, number), daemon=True)
    with _interrupt_ignored():
        process.start()
    there.close()
    return _Worker(number, process, here)


def _death(worker: _Worker) -> str:
    worker.process.join(_JOIN_SECONDS)
    code = worker.process.exitcode
    killed = " (killed: perhaps out of memory; use fewer --jobs)" if code == -9 else ""
    return f"the worker process died with exit code {code}{killed}"


def _run_processes(
    build: Callable[[int], Callable[[Task], Result]], tasks: Sequence[Task], jobs: int
) -> Iterator[Outcome[Task, Result]]:
    waiting = iter(range(len(tasks)))
    workers: list[_Worker] = []
    try:
        workers += [_start(build, number) for number in range(jobs)]
        while workers:
            ready = wait([worker.pipe for worker in workers])
            for worker in [worker for worker in workers if worker.pipe in ready]:
                try:
                    kind, value = worker.pipe.recv()
                except EOFError:
                    # It died. Its task is lost, the rest goes on in a new process.
                    workers.remove(worker)
                    worker.pipe.close()
                    if worker.task is None:
                        raise DatasetError(
                            f"{_death(worker)} before its first file; run again with --jobs 1"
                        ) from None
                    yield Outcome(tasks[worker.task], error=_death(worker))
                    workers.append(_start(build, worker.number))
                    continue
                if kind == "unbuilt":
                    raise DatasetError(value)
                if kind == "fatal":
                    raise OutputError(value)
                finished = worker.task
                worker.task = next(waiting, None)
                if worker.task is None:
                    worker.pipe.send(None)
                    workers.remove(worker)
                    worker.process.join(_JOIN_SECONDS)
                else:
                    worker.pipe.send((tasks[worker.task],))
                if finished is not None:
                    task = tasks[finished]
                    yield (
                        Outcome(task, result=value)
                        if kind == "done"
                        else Outcome(task, error=value)
                    )
    finally:
        for worker in workers:
            worker.process.terminate()
            worker.process.join(_JOIN_SECONDS)
