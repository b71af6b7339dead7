"""A file as libsndfile shall see it: a few bytes put right on the way, the file itself untouched."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import BinaryIO


@dataclass(frozen=True)
class Edit:
    """Bytes of a file that are replaced.

    Attributes:
        at: position of the first one.
        removed: how many go.
        new: what comes instead; it may be longer or shorter.
    """

    at: int
    removed: int
    new: bytes


class FileView:
    """An open file with one place replaced, for libsndfile to read and to seek in.

    Seeking to before the beginning changes nothing: libsndfile does that where a streaming writer left
    a place-holder for a size, and an exception could not pass through it (it would be printed).

    Args:
        stream: the file; closed by its owner.
        edit: what is replaced; None = nothing.
    """

    def __init__(self, stream: BinaryIO, edit: Edit | None = None) -> None:
        self._stream = stream
        self._edit = edit or Edit(0, 0, b"")
        self._size = stream.seek(0, io.SEEK_END) + self._growth
        self._position = 0

    @property
    def _growth(self) -> int:
        return len(self._edit.new) - self._edit.removed

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position, counted as files do; return where one is then."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset >= 0:
            self._position = start + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, all that are left where it is negative."""
        edit = self._edit
        left = max(0, self._size - self._position)
        left = left if size < 0 else min(size, left)
        parts = []
        while left > 0:
            inside = self._position - edit.at
            if inside < 0:
                part = self._original(self._position, min(left, -inside))
            elif inside < len(edit.new):
                part = edit.new[inside : inside + left]
            else:
                part = self._original(self._position - self._growth, left)
            if not part:  # the file has become shorter
                break
            parts.append(part)
            self._position += len(part)
            left -= len(part)
        return b"".join(parts)

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer as far as the file goes; return how many bytes that is."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _original(self, position: int, size: int) -> bytes:
        self._stream.seek(position)
        return self._stream.read(size)
