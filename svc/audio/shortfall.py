"""What the header of a file promises and its end does not hold: files that have been cut off.

libsndfile reads what is there of such files, without a word.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from svc.audio.view import Edit

_STREAMED_SIZES = frozenset({0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF})
_LONGEST_SIZE = 1 << 62  # bytes; place-holders of 64 bits are above
_IN_DS64 = 0xFFFFFFFF  # the size stands in the chunk "ds64" (EBU Tech 3306)
_W64_REST = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # all GUIDs of chunks but "riff" end so
_LONGEST_PAGE = 65_307  # bytes of Ogg (RFC 3533 section 6)
_PAGE_HEAD = 27  # bytes before a page's table of segments
_END_OF_STREAM = 4  # flag of a page


@dataclass(frozen=True)
class Shortfall:
    """What is missing at the end of a file.

    Attributes:
        n_bytes: that its header promises and that are not there, at least.
        is_sure: even few bytes are lost sound; else they may be a miscount of the writer.
        is_open: the file ends where more could follow, and does not say that it is the end.
    """

    n_bytes: int = 0
    is_sure: bool = False
    is_open: bool = False


def shortfall(stream: BinaryIO, n_bytes: int) -> Shortfall:
    """Compare the size of the sound with that of the file: WAV, RF64, W64, AIFF, CAF, AU and Ogg.

    Sizes that streaming writers leave as place-holders do not count.

    Args:
        stream: an open file, of any format.
        n_bytes: its size.
    """
    head = _read_at(stream, 0, 40)
    kind, form = head[:4], head[8:12]
    promised: int | None = None
    if kind in (b"RIFF", b"RF64", b"BW64") and form == b"WAVE":
        promised = _end_of_chunk(stream, n_bytes, "<4sI", b"data")
    elif kind == b"FORM" and form in (b"AIFF", b"AIFC"):
        promised = _end_of_chunk(stream, n_bytes, ">4sI", b"SSND")
    elif kind == b"riff" and head[24:28] == b"wave":
        promised = _end_in_w64(stream, n_bytes)
    elif kind == b"caff":
        promised = _end_in_caf(stream, n_bytes)
    elif kind in (b".snd", b"dns.") and len(head) >= 12:
        start, size = struct.unpack(">II" if kind == b".snd" else "<II", head[4:12])
        promised = None if size in _STREAMED_SIZES else start + size
    elif kind == b"OggS":
        return _end_of_ogg(stream, n_bytes)
    return Shortfall(0 if promised is None else max(0, promised - n_bytes))


def length_edit(stream: BinaryIO, n_bytes: int) -> Edit | None:
    """Give the sound of a Core Audio file the size it has: libsndfile refuses files that leave it open,
    or promise more than there is (which is for `shortfall` to tell).

    Args:
        stream: an open file, of any format.
        n_bytes: its size.

    Returns:
        What to replace; None where the file is no Core Audio file, or its own word will do.
    """
    if _read_at(stream, 0, 4) != b"caff":
        return None
    start, size = _sound_of_caf(stream, n_bytes)
    if start is None or 0 <= size <= n_bytes - start:
        return None
    return Edit(start - 8, 8, struct.pack(">q", n_bytes - start))


def _end_of_chunk(stream: BinaryIO, n_bytes: int, layout: str, sound_chunk: bytes) -> int | None:
    """Return where the sound of a WAV, RF64 or AIFF should end; None = it does not say."""
    position, long_size = 12, 0
    while position + 8 <= n_bytes:
        name, size = struct.unpack(layout, _read_at(stream, position, 8))
        position += 8
        if name == b"ds64" and position + 16 <= n_bytes:
            (long_size,) = struct.unpack("<Q", _read_at(stream, position + 8, 8))
        if name == sound_chunk:
            if size == _IN_DS64 and 0 < long_size < _LONGEST_SIZE:
                return position + int(long_size)
            return None if size in _STREAMED_SIZES else position + int(size)
        position += size + (size & 1)
    return None


def _end_in_w64(stream: BinaryIO, n_bytes: int) -> int | None:
    """Return where the sound of a Sony Wave64 should end; sizes count the 24 bytes of their head."""
    position = 40
    while position + 24 <= n_bytes:
        name, rest, size = struct.unpack("<4s12sQ", _read_at(stream, position, 24))
        if not 24 <= size < _LONGEST_SIZE:
            return None
        if name == b"data" and rest == _W64_REST:
            return None if size == 24 else position + int(size)
        position += (size + 7) // 8 * 8
    return None


def _end_in_caf(stream: BinaryIO, n_bytes: int) -> int | None:
    """Return where the sound of a Core Audio file should end; None = it does not say."""
    start, size = _sound_of_caf(stream, n_bytes)
    return None if start is None or size < 0 else start + size


def _sound_of_caf(stream: BinaryIO, n_bytes: int) -> tuple[int | None, int]:
    """Return where the sound begins, None = there is none, and its size; -1 = up to the file's end."""
    position = 8
    while position + 12 <= n_bytes:
        name, size = struct.unpack(">4sq", _read_at(stream, position, 12))
        position += 12
        if name == b"data":
            return position, int(size)
        position += max(0, size)
    return None, 0


def _end_of_ogg(stream: BinaryIO, n_bytes: int) -> Shortfall:
    """Look at the last page: whether it is whole, and says that it is the last."""
    tail = _read_at(stream, max(0, n_bytes - 2 * _LONGEST_PAGE), 2 * _LONGEST_PAGE)
    at = tail.rfind(b"OggS\0")
    page = tail[at:]
    if at < 0:
        return Shortfall()
    if len(page) < _PAGE_HEAD or len(page) < _PAGE_HEAD + page[26]:
        return Shortfall(1, is_sure=True)
    table = page[_PAGE_HEAD : _PAGE_HEAD + page[26]]
    missing = _PAGE_HEAD + len(table) + sum(table) - len(page)
    if missing > 0:
        return Shortfall(missing, is_sure=True)
    return Shortfall(is_open=not page[5] & _END_OF_STREAM)


def _read_at(stream: BinaryIO, position: int, size: int) -> bytes:
    stream.seek(position)
    return stream.read(size)
