"""Atomic writing: a reader sees the old file or the whole new one, never half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from svc.errors import OutputError

_REASONS = {
    errno.ENOSPC: "no space left on the disk; free some and run the command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the command again",
    errno.EACCES: "no permission to write there; choose another folder",
    errno.EPERM: "no permission to write there; choose another folder",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EISDIR: "a folder of that name is in the way",
    errno.ENOTDIR: "a part of its path is a file, not a folder",
    errno.ENAMETOOLONG: "the file name is too long for this file system",
}


def output_error(path: Path, error: OSError) -> OutputError:
    """Turn an `OSError` met while writing `path` into the one line a user can act on."""
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return OutputError(f"cannot write {path}: {reason}")


def make_folder(path: Path) -> Path:
    """Create a folder and its parents; returns it. Raises OutputError with the reason."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(
            f"cannot create the folder {path}: a file of that name is there"
        ) from error
    except OSError as error:
        raise output_error(path, error) from error
    return path


def check_space(path: Path, need: int) -> None:
    """Refuse to write `need` bytes to a file where they do not fit. Raises OutputError."""
    free = shutil.disk_usage(make_folder(path.parent)).free
    if free < need * 1.02 + 1_000_000:
        raise OutputError(
            f"cannot write {path}: it needs {need / 1e6:.0f} MB and the disk has {free / 1e6:.0f} MB "
            "free; free some space and run the command again"
        )


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_path(path: str | Path, *, check: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced to disk and renamed over `path`.

    The temporary file has the same suffix (writers choose a format by it) and starts with a dot, so a crash leaves
    nothing that any scan of this project picks up.

    Args:
        path: the file to be written; its folder is created.
        check: looks at the temporary file once it is on the disk; what it raises leaves `path` as it was.

    Yields:
        The path to write to.

    Raises:
        OutputError: the folder or the file cannot be written (reason and next step in the message).
    """
    target = Path(path)
    make_folder(target.parent)
    # A name as long as the file system allows (255 bytes) must stay writable: keep the suffix only.
    temporary = target.with_name(f".tmp-{secrets.token_hex(8)}{target.suffix}")
    try:
        yield temporary
        _fsync(temporary)
        if check is not None:
            check(temporary)
        os.replace(temporary, target)
        # Without syncing the folder a power cut can undo the rename; not every platform allows opening one.
        with contextlib.suppress(OSError):
            _fsync(target.parent)
    except OSError as error:
        raise output_error(target, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically. Raises OutputError."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
