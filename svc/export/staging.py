"""Files that appear together: written to a hidden folder first, moved when all of them are done."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from svc.atomic import make_folder, output_error
from svc.errors import OutputError


def check_free(targets: Sequence[Path], *, force: bool) -> None:
    """See that files may be written, before any work.

    Args:
        targets: the files.
        force: those that are there may be replaced.

    Raises:
        OutputError: one is there already, or a folder has its name.
    """
    for path in targets:
        if path.is_dir():
            raise OutputError(f"cannot write {path}: a folder of that name is in the way")
        if path.exists() and not force:
            raise OutputError(f"{path} is there already; --force replaces it")


@contextlib.contextmanager
def staged(parent: Path, targets: Sequence[Path]) -> Iterator[Callable[[Path], Path]]:
    """Write files elsewhere and move them to their places at the very end.

    Args:
        parent: folder that all targets lie under; the hidden one is made in it.
        targets: the files, in the order in which they are moved.

    Yields:
        A function: target -> where to write it until then.

    Raises:
        OutputError: the disk's reason; nothing has been moved unless the disk fails halfway.
    """
    hidden = parent / f".tmp-{secrets.token_hex(8)}"
    places = {target: hidden / target.relative_to(parent) for target in targets}
    try:
        for place in places.values():
            make_folder(place.parent)
        yield places.__getitem__
        for target, place in places.items():
            make_folder(target.parent)
            try:
                os.replace(place, target)
            except OSError as error:
                raise output_error(target, error) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
