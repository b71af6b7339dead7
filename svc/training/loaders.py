"""Loader processes that die, or do not want to end: one line instead of a traceback, and none that stays behind."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import re
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader, dataloader

from svc.errors import DatasetError

_DEATH = re.compile(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\) (.*)", re.DOTALL)
_GRACE = 2.0  # seconds that processes have to end by themselves


@contextlib.contextmanager
def closed(loader: DataLoader[Any]) -> Iterator[Iterator[Any]]:
    """Go through a loader, and end its processes afterwards, those that are stuck in a read among them.

    torch waits ten seconds for each of these, and Python at its exit until the read ends: they take no
    notice of the polite signal (`_quiet_worker` of batches).

    Args:
        loader: with any number of processes.

    Yields:
        Its batches.
    """
    before = multiprocessing.active_children()
    batches = iter(loader)
    workers = [child for child in multiprocessing.active_children() if child not in before]
    close = _Close(batches, workers)
    atexit.register(close)  # for an iterator that nobody has closed when Python leaves
    try:
        yield batches
    finally:
        with _twice(close):
            atexit.unregister(close)


class _Close:
    """Ends the processes of a loader, once.

    torch is asked first, in a thread of its own: a process that was killed while it held a lock that all
    of them share would let torch wait for ever (`multiprocessing.Event.set`). What is left after `_GRACE`
    is killed.

    Args:
        batches: the iterator.
        workers: its processes.
    """

    def __init__(self, batches: Any, workers: Sequence[BaseProcess]) -> None:
        self._batches, self._workers = batches, workers

    def __call__(self) -> None:
        if not self._workers:
            return
        end = getattr(self._batches, "_shutdown_workers", None)
        with _deaf():
            thread = threading.Thread(target=end, name="loader's end", daemon=True)
            with contextlib.suppress(RuntimeError):  # at the very end of Python none can be started
                thread.start()
                thread.join(_GRACE)
            for worker in self._workers:
                worker.kill()
            if thread.ident is not None:
                thread.join(_GRACE)
            for worker in self._workers:
                worker.join(_GRACE)
        self._workers = ()


@contextlib.contextmanager
def _twice(end: Callable[[], None]) -> Iterator[None]:
    """Do something afterwards, and do it again.

    The first time may be cut short before it has begun: torch tells of a death, once, wherever the main
    process is at that moment. A process that was left behind would keep Python from ever leaving.
    """
    try:
        try:
            yield
        finally:
            end()
    finally:
        end()


@contextlib.contextmanager
def lost_loaders() -> Iterator[None]:
    """Turn the death of a loader process into one line, and end those that are left.

    torch tells of it wherever the main process is at that moment, also in the middle of a step: it
    listens to the system's signal. So this has to surround the whole loop. What was saved last stays,
    for saves are atomic.

    Raises:
        DatasetError: a loader process was killed; says how to go on.
    """
    before = multiprocessing.active_children()

    def end() -> None:
        # The error's frames may hold on to the loader, so it has not ended its processes. They take no
        # notice of the polite signal that Python would send at its exit, and then wait for.
        _end([child for child in multiprocessing.active_children() if child not in before])

    with (
        _told(),
        _twice(end),
        _told(),
    ):  # the signal may come while a broken connection is dealt with
        yield


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        found = _DEATH.search(str(error))
        if found is None:
            raise
        how = found[2].split(". ")[0].strip().rstrip(".")
        memory = "Bus error" in how or "shared memory" in found[2]
        raise _lost(f"(pid {found[1].strip()}) {how}", memory=memory) from error
    except (OSError, EOFError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        if not any(frame.filename == dataloader.__file__ for frame in frames):
            raise
        raise _lost("ended while it handed over a batch", memory=False) from error


def _lost(how: str, *, memory: bool) -> DatasetError:
    advice = (
        "the shared memory is too small (/dev/shm; in a container give it --shm-size=8g)"
        if memory
        else "most likely the machine was out of memory: close other programs or lower "
        '"train.batch_size"'
    )
    return DatasetError(
        f"a loader process {how}; {advice}. The run is as it was saved last; run the same command "
        "again to go on from there"
    )


def _end(children: Sequence[BaseProcess]) -> None:
    """Kill processes that only read."""
    if not children:
        return
    with _deaf():
        for child in children:
            child.kill()
        for child in children:
            child.join()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Let processes die without torch, which would take it for an accident, hearing of it."""
    listens = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    earlier = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if listens else None
    try:
        yield
    finally:
        if listens:
            signal.signal(signal.SIGCHLD, earlier)
