"""Loader processes that die: a clear end instead of a traceback."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from svc.errors import DatasetError

_DEATH = re.compile(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\) (.*)", re.DOTALL)


@contextlib.contextmanager
def lost_loaders() -> Iterator[None]:
    """Turn the death of a loader process into one line.

    torch tells of it wherever the main process is at that moment, also in the middle of a step: it
    listens to the system's signal. So this has to surround the whole loop. What was saved last stays,
    for saves are atomic.

    Raises:
        DatasetError: a loader process was killed, says how to go on.
    """
    try:
        yield
    except RuntimeError as error:
        found = _DEATH.search(str(error))
        if found is None:
            raise
        how = found[2].split(". ")[0].strip().rstrip(".")
        memory = "Bus error" in how or "shared memory" in found[2]
        advice = (
            "the shared memory is too small (/dev/shm; in a container give it --shm-size=8g)"
            if memory
            else "most likely the machine was out of memory: close other programs or lower "
            '"train.batch_size"'
        )
        raise DatasetError(
            f"a loader process (pid {found[1].strip()}) {how}; {advice}. The run is as it was saved "
            "last; run the same command again to go on from there"
        ) from error
