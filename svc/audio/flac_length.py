"""How long a FLAC is that was written to a pipe: such a file does not say (RFC 9639).

libsndfile refuses files whose header leaves the number of samples open. It stands in the last frame as
well, which is found from the end of the file: nothing is decoded.
"""

from __future__ import annotations

from typing import BinaryIO

from svc.audio.view import Edit

_STREAMINFO_AT = 8  # bytes: "fLaC" and the head of the first block of metadata
_TOTAL_AT = _STREAMINFO_AT + 13  # half a byte, and four more (section 8.2)
_SEARCHED_STEP = 1 << 18  # bytes
_MOST_SEARCHED = 1 << 24  # bytes; the longest frame, and any tag behind it
_LONGEST_HEADER = 16  # bytes of a frame (section 9.1)
_POLYNOMIAL = 0x07  # of the checksum of frame headers (section 9.1.8)


def length_edit(stream: BinaryIO, n_bytes: int) -> Edit | None:
    """Find the number of samples that the header of a FLAC leaves open.

    Args:
        stream: an open file, of any format.
        n_bytes: its size.

    Returns:
        What to replace; None where the file is no FLAC, says its length, or has no whole header of
        a frame.
    """
    head = _read_at(stream, 0, _TOTAL_AT + 5)
    if len(head) < _TOTAL_AT + 5 or head[:4] != b"fLaC" or head[4] & 0x7F != 0:
        return None
    half = head[_TOTAL_AT]
    if half & 0x0F or any(head[_TOTAL_AT + 1 :]):
        return None
    longest_block = int.from_bytes(head[_STREAMINFO_AT + 2 : _STREAMINFO_AT + 4], "big")  # samples
    end = n_bytes
    while end > _TOTAL_AT and n_bytes - end < _MOST_SEARCHED:
        begin = max(_TOTAL_AT, end - _SEARCHED_STEP)
        piece = _read_at(stream, begin, end + _LONGEST_HEADER - begin)
        at = piece.rfind(b"\xff", 0, end - begin)
        while at >= 0:
            total = _samples_to_end(piece[at : at + _LONGEST_HEADER], longest_block)
            if total is not None and total < 1 << 36:
                numbers = (total | (half & 0xF0) << 32).to_bytes(5, "big")
                return Edit(_TOTAL_AT, 5, numbers)
            at = piece.rfind(b"\xff", 0, at)
        end = begin
    return None


def _samples_to_end(head: bytes, longest_block: int) -> int | None:
    """Return how many samples there are up to the end of a frame; None where no frame begins here.

    Args:
        head: bytes from the beginning of the frame on.
        longest_block: of the file, samples.
    """
    if len(head) < 6 or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return None
    size_code, rate_code = head[2] >> 4, head[2] & 0x0F
    if size_code == 0 or rate_code == 15 or head[3] >> 4 > 10 or (head[3] >> 1 & 7) == 3:
        return None
    number, at = _coded_number(head, 4)
    if number is None:
        return None
    if size_code in (6, 7):
        n_size = size_code - 5  # bytes
        block = int.from_bytes(head[at : at + n_size], "big") + 1
        at += n_size
    elif size_code == 1:
        block = 192
    else:
        block = 576 << (size_code - 2) if size_code < 6 else 256 << (size_code - 8)
    at += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if at >= len(head) or block > longest_block or _checksum(head[:at]) != head[at]:
        return None
    counts_samples = head[1] & 1
    return (number if counts_samples else number * longest_block) + block


def _coded_number(head: bytes, at: int) -> tuple[int | None, int]:
    """Read a number in the way of UTF-8, of up to seven bytes (section 9.1.5).

    Returns:
        The number, None where there is none, and where the next field begins.
    """
    lead = head[at]
    n_ones = next((n for n in range(8) if not lead & 0x80 >> n), 8)
    if n_ones in (1, 8) or at + max(n_ones, 1) > len(head):
        return None, at
    number = lead & 0x7F >> n_ones
    for byte in head[at + 1 : at + n_ones]:
        if byte & 0xC0 != 0x80:
            return None, at
        number = number << 6 | byte & 0x3F
    return number, at + max(n_ones, 1)


def _checksum(data: bytes) -> int:
    found = 0
    for byte in data:
        found ^= byte
        for _ in range(8):
            found = (found << 1 ^ (_POLYNOMIAL if found & 0x80 else 0)) & 0xFF
    return found


def _read_at(stream: BinaryIO, position: int, size: int) -> bytes:
    stream.seek(position)
    return stream.read(size)
