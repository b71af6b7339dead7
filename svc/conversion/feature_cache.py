"""Units and pitch of stretches that have been heard before, kept on the disk between runs.

An entry's name is a hash of all it depends on, so entries are never out of date and several processes
may share a folder: they write the same bytes under the same name. The oldest ones by use go when the
folder is full. Entries are arrays in zip files with checksums (npz); nothing in them can be run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from svc.atomic import atomic_path
from svc.errors import ConfigError, OutputError

logger = logging.getLogger(__name__)

Arrays = Mapping[str, npt.NDArray[Any]]

DEFAULT_GB = 2.0
ENVIRONMENT = "SVC_CACHE_DIR"
"""Variable that names the folder of caches where it is not to be the platform's."""

_SUFFIX = ".npz"
_KEPT_SHARE = 0.9  # of the limit, after room has been made
_LOOKS_PER_LIMIT = 16  # how often the folder is measured again while others may write, too
_ABANDONED_S = 3600.0  # age of temporary files whose process must be gone
_DAMAGE = (ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error)


def default_folder() -> Path | None:
    """Return where features are kept: SVC_CACHE_DIR, else the platform's folder of caches; None for
    a user without a home.
    """
    told = os.environ.get(ENVIRONMENT)
    if told:
        return Path(told) / "features"
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    home = home_folder()
    if Path(xdg).is_absolute():  # relative ones are invalid (XDG base directory specification)
        base = Path(xdg)
    elif home is None:
        return None
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = home / ".cache"
    return base / "svc" / "features"


def home_folder() -> Path | None:
    """Return the user's home folder; None for a user of a container who has none."""
    try:
        return Path.home()
    except RuntimeError:
        return None


class FeatureCache:
    """A folder of arrays with a limit.

    Args:
        folder: where; made when the first entry is written.
        limit_gb: size of all entries together, 10^9 bytes.

    Attributes:
        hits: entries found.
        misses: entries asked for in vain.

    Raises:
        ConfigError: a limit that is not above 0.
    """

    def __init__(self, folder: Path, limit_gb: float = DEFAULT_GB) -> None:
        if not limit_gb > 0:
            raise ConfigError(
                f"--cache_gb is {limit_gb:g}: give a number above 0, or --no_cache to keep nothing"
            )
        self.folder, self.hits, self.misses = folder, 0, 0
        self._limit = int(limit_gb * 1e9)
        self._size = 0  # of all entries, as far as this process knows
        self._unlooked: int | None = None  # bytes written since the folder was measured
        self._usable = True
        self._lock = threading.Lock()  # pitch is heard in a thread of its own

    def get(self, key: str) -> dict[str, npt.NDArray[Any]] | None:
        """Return an entry, or None where there is none or it is damaged.

        Args:
            key: hexadecimal digits.
        """
        path = self._path(key)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files}
        except FileNotFoundError:
            found = None
        except (OSError, *_DAMAGE) as error:
            logger.debug("%s is damaged and removed: %s", path, error)
            found = None
            with contextlib.suppress(OSError):
                path.unlink()
        with self._lock:
            self.hits += found is not None
            self.misses += found is None
        if found is None:
            return None
        with contextlib.suppress(OSError):  # the time of use; disks are often mounted without
            os.utime(path)
        return found

    def put(self, key: str, arrays: Arrays) -> None:
        """Keep an entry. Where that cannot be done it is told once, and work goes on without.

        Args:
            key: hexadecimal digits.
            arrays: of numbers.
        """
        n_bytes = sum(array.nbytes for array in arrays.values())
        if not self._usable or n_bytes > self._limit * _KEPT_SHARE:
            return
        path = self._path(key)
        try:
            with atomic_path(path) as temporary, temporary.open("wb") as stream:
                np.savez(stream, **arrays)  # type: ignore[arg-type]
            n_bytes = path.stat().st_size
        except (OutputError, OSError) as error:
            self._usable = False
            logger.warning(
                "features are not kept for the next run: %s; choose a folder with --cache_dir, or "
                "leave the cache out with --no_cache",
                error,
            )
            return
        with self._lock:
            self._size += n_bytes
            unlooked = self._unlooked
            self._unlooked = None if unlooked is None else unlooked + n_bytes
            if (
                self._unlooked is None
                or self._size > self._limit
                or self._unlooked > self._limit // _LOOKS_PER_LIMIT
            ):
                self._make_room()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}{_SUFFIX}"

    def _make_room(self) -> None:
        """Measure the folder and remove what has not been used for the longest time."""
        entries: list[tuple[float, int, Path]] = []
        now = time.time()
        for path in self.folder.glob("*/*"):
            try:
                facts = path.stat()
            except OSError:
                continue  # another process has removed it
            if path.name.startswith(".tmp-"):
                if now - facts.st_mtime > _ABANDONED_S:
                    with contextlib.suppress(OSError):
                        path.unlink()
            elif path.suffix == _SUFFIX:
                entries.append((facts.st_mtime, facts.st_size, path))
        self._size, self._unlooked = sum(size for _, size, _ in entries), 0
        if self._size <= self._limit:
            return
        for _, size, path in sorted(entries):
            if self._size <= self._limit * _KEPT_SHARE:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            self._size -= size
