"""One run at a time in a folder: two would write over each other's checkpoints."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from svc.atomic import make_folder, output_error
from svc.errors import SvcError

logger = logging.getLogger(__name__)

NAME = "training.lock"
_TAKEN = {errno.EACCES, errno.EAGAIN}


class TakenError(SvcError):
    """Another process trains in that folder."""


@contextlib.contextmanager
def claim(folder: Path, *, needed: bool = True) -> Iterator[None]:
    """Keep a folder to this process.

    The system gives the lock back when the process ends, however it ends, so none is ever left behind; the file
    may stay after a kill and means nothing. Only processes that know each other's locks are kept apart: those of one
    machine always, those of several on NFS where its lock service runs, and on some shared file systems not at all,
    which is told where the system says so.

    Args:
        folder: of a run; it is created, and removed again where it holds nothing in the end.
        needed: False for processes that leave writing to another one, which holds it.

    Raises:
        TakenError: another process has it; says which.
        OutputError: the folder cannot be written.
    """
    if not needed:
        yield
        return
    new = _missing(folder)
    try:
        lock = _take(make_folder(folder) / NAME)
        try:
            yield
        finally:
            if lock is not None:
                (folder / NAME).unlink(missing_ok=True)  # before: who finds it has the lock
                os.close(lock)
    finally:
        for path in new:
            with contextlib.suppress(OSError):  # something is in it: the run
                path.rmdir()


def _missing(folder: Path) -> list[Path]:
    """A folder and its parents that are not there, the inner ones first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _take(path: Path) -> int | None:
    """Open a lock file and lock it; None where there are no locks."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return None
    while True:
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise output_error(path, error) from error
        try:
            # Not flock: loader processes would inherit that, and keep it when their parent is killed.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(lock, 200, 0).decode("utf-8", "replace").strip()
            os.close(lock)
            if error.errno in _TAKEN:
                raise TakenError(
                    f"{path.parent} is in use: {holder or 'another process'} trains there; wait for it or stop it, or "
                    "give this run a folder of its own"
                ) from error
            logger.warning(
                "%s cannot be locked here (%s): make sure that no other run writes to that folder",
                path,
                error.strerror,
            )
            return None
        with contextlib.suppress(OSError):  # removed by its holder just before it was locked: again
            if os.path.samestat(os.fstat(lock), path.stat()):
                _sign(lock)
                return lock
        os.close(lock)


def _sign(lock: int) -> None:
    """Write down who holds a lock, for messages of others; a full disk costs no more than that."""
    with contextlib.suppress(OSError):
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
