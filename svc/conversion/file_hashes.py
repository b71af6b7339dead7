"""What the files of a run hold, as SHA-256, computed beside the work and once per file."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from svc.errors import MissingFileError

_BLOCK = 1 << 20
_Place = tuple[str, int, int]  # path, bytes, time of the last change in ns


class FileHashes:
    """Hashes of files; a context manager that drops what nobody has waited for.

    One thread reads them, so that a model of some hundred megabytes is hashed while it is loaded. A
    file that has changed since is read again.
    """

    def __init__(self) -> None:
        self._found: dict[_Place, Future[str]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="svc-hashes")

    def __enter__(self) -> FileHashes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading; what is asked for afterwards is an error."""
        self._stop.set()
        self._thread.shutdown(cancel_futures=True)

    def ask(self, paths: Iterable[Path]) -> None:
        """Begin to read files that will be asked for; those that are not there are told by `of`."""
        for path in paths:
            if path.is_file():
                self._begin(path)

    def of(self, path: Path) -> str:
        """Return the hash of a file, 64 hexadecimal digits; waits for it.

        Raises:
            MissingFileError: the file is not there, or cannot be read.
        """
        try:
            return self._begin(path).result()
        except (OSError, CancelledError) as error:
            raise MissingFileError(
                f"{path} cannot be read any more ({error}); it was there when this run began"
            ) from error

    def _begin(self, path: Path) -> Future[str]:
        facts = path.stat()
        place = (str(path.absolute()), facts.st_size, facts.st_mtime_ns)
        with self._lock:
            if place not in self._found:
                self._found[place] = self._thread.submit(self._read, path)
            return self._found[place]

    def _read(self, path: Path) -> str:
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                if self._stop.is_set():
                    raise CancelledError
                digest.update(block)
        return digest.hexdigest()
