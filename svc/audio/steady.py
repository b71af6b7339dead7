"""Files without chance: what libsndfile draws from the clock is set to a constant, so that the same
samples give the same bytes.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

_SERIAL = struct.pack("<I", 1)
_PAGE = 27  # bytes of an Ogg page's header before its table of segments
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_ALL_ONES = 0xFFFFFFFF


def remove_chance(path: Path, container: str) -> None:
    """Make a file that libsndfile has just written independent of the time of day.

    Args:
        path: the file, changed in place.
        container: libsndfile's name of its format.
    """
    if container == "OGG":
        with path.open("r+b") as stream:
            _set_serials(stream)
    elif container in ("WAV", "AIFF"):
        with path.open("r+b") as stream:
            _clear_peak_time(stream, "<4sI" if container == "WAV" else ">4sI")


def _clear_peak_time(stream: BinaryIO, layout: str) -> None:
    """Set the time in the PEAK chunk of float files to 0: version, time, a peak per channel."""
    position = 12
    while len(head := _read_at(stream, position, 8)) == 8:
        name, size = struct.unpack(layout, head)
        if name == b"PEAK":
            stream.seek(position + 12)
            stream.write(bytes(4))
            return
        position += 8 + size + (size & 1)


def _set_serials(stream: BinaryIO) -> None:
    """Give every page of an Ogg file the serial number 1 (RFC 3533 section 6)."""
    position = 0
    while len(head := _read_at(stream, position, _PAGE)) == _PAGE and head[:4] == b"OggS":
        table = stream.read(head[26])
        body = stream.read(sum(table))
        page = head[:14] + _SERIAL + head[18:22] + bytes(4) + head[26:] + table + body
        stream.seek(position)
        stream.write(page[:22] + struct.pack("<I", _ogg_checksum(page)) + page[26:])
        position += len(page)


def _ogg_checksum(page: bytes) -> int:
    """CRC-32 with the most significant bit first, no initial value and no final inversion: zlib's
    of the mirrored bytes, mirrored, with its inversions undone.
    """
    found = zlib.crc32(page.translate(_MIRRORED), _ALL_ONES) ^ _ALL_ONES
    return int(f"{found:032b}"[::-1], 2)


def _read_at(stream: BinaryIO, position: int, size: int) -> bytes:
    stream.seek(position)
    return stream.read(size)
