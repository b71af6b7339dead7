"""Putting a result in its place: what lies there describes it, or nothing does.

A manifest that was written for an earlier result would tell lies about the new one until its own is written, and for
ever where none is asked for or the process is killed in between. So it goes just before the result comes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from svc.atomic import make_folder, output_error
from svc.conversion.feature_cache import home_folder
from svc.conversion.manifest import manifest_path
from svc.errors import AudioError, OutputError

_LONGEST_MANIFEST = 16_000_000  # bytes; what is longer is somebody else's


@contextlib.contextmanager
def stage_beside(folder: Path) -> Iterator[Path]:
    """Yield the path of a hidden folder in `folder`, for files that are not whole yet; it is removed at the end.

    It is made by whoever writes there first.
    """
    stage = folder / f".tmp-{secrets.token_hex(8)}"
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def put(staged: Path, result: Path) -> None:
    """Move a whole result to its place; a manifest of what was there is removed.

    Raises:
        OSError: it cannot be moved, or the manifest not be removed.
    """
    if not result.is_dir():  # it is going to fail, and what is there stays as it is
        drop_manifest(result)
    os.replace(staged, result)
    # Without it a power cut can undo the rename; not every platform allows opening a folder.
    with contextlib.suppress(OSError):
        descriptor = os.open(result.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def place(staged: Path, result: Path) -> None:
    """`put`, with an error for people.

    Raises:
        OutputError: the result cannot be moved to its place.
    """
    make_folder(result.parent)
    try:
        put(staged, result)
    except OSError as error:
        raise output_error(result, error) from error


def check_place(result: Path) -> None:
    """Find out before the work that a folder is where a result is to be.

    Raises:
        OutputError: it is.
    """
    if result.is_dir():
        raise output_error(result, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))


class Together:
    """Results that come to their places together, when all of them are whole; a context manager.

    Until then what an earlier run has left is untouched.
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._stages: dict[Path, Path] = {}  # folder -> where its results are written
        self._whole: dict[Path, Path] = {}  # result -> its file

    def __enter__(self) -> Together:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def writing(self, result: Path) -> Iterator[Path]:
        """Yield the path where a result is to be written.

        Raises:
            OutputError: it cannot be written.
            AudioError: what is raised inside names the result, not where it waits.
        """
        if result.parent not in self._stages:
            stage = self._stack.enter_context(stage_beside(result.parent))
            self._stages[result.parent] = stage
        staged = self._stages[result.parent] / result.name
        try:
            yield staged
        except (AudioError, OutputError) as error:
            raise type(error)(str(error).replace(str(staged), str(result))) from error
        self._whole[result] = staged

    def place_all(self) -> None:
        """Put the results in their places, in the order in which they were written.

        Raises:
            OutputError: one cannot be moved to its place.
        """
        for result in self._whole:
            try:
                drop_manifest(result)  # from now on none of them tells the truth
            except OSError as error:
                raise output_error(manifest_path(result), error) from error
        for result, staged in self._whole.items():
            place(staged, result)


def drop_manifest(result: Path) -> None:
    """Remove the manifest of a result, if there is one; a file of that name that is none stays.

    Raises:
        OSError: it cannot be removed.
    """
    if _read_manifest(result) is not None:
        manifest_path(result).unlink(missing_ok=True)


def outdated_stems(mix: Path, folder: Path) -> list[Path]:
    """List the stems of the cover that lies at `mix`, as its manifest names them.

    Args:
        mix: the finished cover.
        folder: of its stems; those in other folders are left out.

    Returns:
        Files that are there and have not been touched since the manifest was written.
    """
    told = _read_manifest(mix)
    try:
        made = manifest_path(mix).stat().st_mtime_ns
        names = [str(stem["output"]) for stem in (told or {})["cover"]["stems"] if stem["output"]]
    except (OSError, KeyError, TypeError):
        return []
    found = []
    for name in names:
        path = Path(name)
        if path.parts[:1] == ("~",):
            path = (home_folder() or Path()).joinpath(*path.parts[1:])
        with contextlib.suppress(OSError):
            if path.parent.resolve() == folder.resolve() and path.lstat().st_mtime_ns <= made:
                found.append(folder / path.name)
    return found


def _read_manifest(result: Path) -> dict[str, Any] | None:
    path = manifest_path(result)
    try:
        if not path.is_file() or path.stat().st_size > _LONGEST_MANIFEST:
            return None
        told = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) and "svc_manifest" in told else None
