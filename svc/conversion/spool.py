"""Samples on disk for a while: what is needed twice and does not fit into memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

from svc.atomic import check_space, output_error
from svc.conversion.chunks import FloatArray

_BLOCK = 1 << 16  # samples of a row that are read at once


class Spool:
    """Rows of samples in a file without a name, which goes with the process; a context manager.

    Args:
        beside: the file next to which it lies: the result's disk is the one that has room.
        n_rows: R.
        n_samples: how many there are going to be, for the check that they fit.

    Raises:
        OutputError: they do not fit, or the folder takes no files; from ``with`` on.
    """

    def __init__(self, beside: Path, n_rows: int, n_samples: int) -> None:
        self._beside, self._n_rows, self._n_samples = beside, n_rows, n_samples
        self._stack = ExitStack()

    def __enter__(self) -> Spool:
        check_space(self._beside, 4 * self._n_rows * self._n_samples)
        try:
            # Removed with its name still unused: nothing is left even where the process is killed.
            stream = tempfile.TemporaryFile(prefix=".tmp-", dir=self._beside.parent)
        except OSError as error:
            raise output_error(self._beside, error) from error
        self._stream = self._stack.enter_context(stream)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def write(self, rows: FloatArray) -> None:
        """Add samples, float32 (R, n). Raises OutputError."""
        try:
            self._stream.write(np.ascontiguousarray(rows.T).data)
        except OSError as error:
            raise output_error(self._beside, error) from error

    def blocks(self) -> Iterator[FloatArray]:
        """Yield all samples from the beginning, (R, n) each. Raises OutputError."""
        try:
            self._stream.seek(0)  # writes first what is buffered
            while data := self._stream.read(4 * self._n_rows * _BLOCK):
                frames = np.frombuffer(data, dtype=np.float32).reshape(-1, self._n_rows)
                yield np.ascontiguousarray(frames.T)
        except OSError as error:
            raise output_error(self._beside, error) from error
