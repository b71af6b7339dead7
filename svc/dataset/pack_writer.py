"""Writing a pack clip after clip; no more than one is in memory."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from svc.atomic import atomic_path, check_space
from svc.dataset.pack import (
    ALIGNMENT,
    DTYPES,
    MAGIC,
    PARTS,
    PREAMBLE,
    VERSION,
    Array,
    ArrayPlace,
    FileState,
    Key,
    Pack,
    hash_of,
)


@dataclass(frozen=True)
class NewClip:
    """A clip as it is about to be written."""

    key: Key
    rate: int  # Hz
    peak: float  # largest |sample|
    files: Mapping[str, FileState]  # as they were before they were read
    made: Mapping[str, Any] | None  # the side-car, None where there is none
    arrays: Mapping[str, Array]


@contextlib.contextmanager
def write_pack(path: Path, need: int) -> Iterator[PackWriter]:
    """Yield a writer; the new pack takes the place of the old one when all of it is on the disk.

    Args:
        path: the pack.
        need: bytes of the arrays that will be written, and some for the index.

    Yields:
        What clips are given to.

    Raises:
        OutputError: it cannot be written, or does not fit on the disk; the old one stays.
    """
    check_space(path, need)
    with atomic_path(path, check=_look_at) as temporary, temporary.open("wb") as stream:
        writer = PackWriter(stream)
        yield writer
        writer.finish()


def _look_at(path: Path) -> None:
    """Read the index back: what cannot be read does not take the place of what can."""
    Pack(path).close()


class PackWriter:
    """Appends clips to a stream.

    Args:
        stream: an empty file.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._clips: list[dict[str, Any]] = []
        self._settings: dict[str, int] = {}  # what parts were made with, as JSON -> its row
        stream.write(bytes(PREAMBLE.size))

    def add(self, clip: NewClip) -> None:
        """Append a clip. Raises OSError."""
        places = {part: self._write(clip.arrays[part]) for part in PARTS if part in clip.arrays}
        self._clips.append(
            {
                "speaker": clip.key[0],
                "name": clip.key[1],
                "rate": clip.rate,
                "peak": clip.peak,
                "files": clip.files,
                "made": None if clip.made is None else self._rows(clip.made),
                "arrays": places,
            }
        )

    def finish(self) -> None:
        """Write the index, and where it lies. Raises OSError."""
        settings = [json.loads(text) for text in self._settings]
        content = {"settings": settings, "clips": self._clips}
        index = json.dumps(content, separators=(",", ":")).encode("ascii")
        offset = self._align()
        self._stream.write(index)
        self._stream.seek(0)
        self._stream.write(PREAMBLE.pack(MAGIC, VERSION, 0, offset, len(index), hash_of(index)))

    def _write(self, array: Array) -> ArrayPlace:
        kind = next(name for name, dtype in DTYPES.items() if dtype == array.dtype)
        offset = self._align()
        self._stream.write(np.ascontiguousarray(array, dtype=DTYPES[kind]).data)
        return ArrayPlace(kind, offset, array.shape)

    def _align(self) -> int:
        place = self._stream.tell()
        gap = -place % ALIGNMENT
        self._stream.write(bytes(gap))
        return place + gap

    def _rows(self, made: Mapping[str, Any]) -> dict[str, int]:
        """Records of settings are the same for most clips: each stands in the index once."""
        texts = {part: json.dumps(record, sort_keys=True) for part, record in made.items()}
        return {
            part: self._settings.setdefault(text, len(self._settings))
            for part, text in texts.items()
        }
