"""How long an MP3 really is: its frames counted by their headers, where its own word is missing or wrong.

libsndfile guesses the length of a file without a Xing or Info frame from its first frames and reads no
further than that, so that much of a song of variable bit rate would be lost without a word. It believes
such a frame; where there is none, one is put in front (`length_edit`). Files of several songs one
behind the other have one that counts the first only.

Frame headers: ISO/IEC 11172-3 section 2.4.1.3, 13818-3 section 2.4.2.3, and the usual "2.5" of half
their rates. The Xing frame is known from those who read and write it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

from svc.audio.view import Edit

_KBITS_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)  # MPEG-1 layer III
_KBITS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # MPEG-2 and 2.5
_RATES_1 = (44100, 48000, 32000)  # Hz
_RATE_DIVISORS = {3: 1, 2: 2, 0: 4}  # by the version's bits: MPEG-1, 2, 2.5
_LONGEST_JUNK = 1 << 16  # bytes between frames that are looked through for the next one
_ROOM_OF_XING = 200  # bytes; readers do not look for it in shorter frames
_HAS_COUNT, _HAS_BYTES = 1, 2  # flags of a Xing frame
_VBRI_AT = 36  # bytes after the beginning of a frame
_MIDDLE_OF_COUNT = 14  # bytes from "VBRI" to its number of frames


@dataclass(frozen=True)
class FrameHeader:
    """What the four bytes before a frame of layer III say.

    Attributes:
        size: of the frame with its header, bytes.
        kind: version and rate, alike in all frames of a song.
        tag_at: where a Xing frame has its name, bytes after the frame's beginning.
    """

    size: int
    kind: tuple[int, int]
    tag_at: int


@lru_cache(maxsize=512)
def parse_header(head: bytes) -> FrameHeader | None:
    """Return what a frame header says; None where it is none of layer III, or of free format.

    Args:
        head: four bytes.
    """
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return None
    version, unprotected = head[1] >> 3 & 3, head[1] & 1
    kbits_index, rate_index, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version not in _RATE_DIVISORS or kbits_index in (0, 15) or rate_index == 3:
        return None
    first = version == 3
    kbits = (_KBITS_1 if first else _KBITS_2)[kbits_index]
    sr = _RATES_1[rate_index] // _RATE_DIVISORS[version]
    mono = head[3] >> 6 == 3
    side_info = (17 if mono else 32) if first else (9 if mono else 17)  # bytes
    size = (144_000 if first else 72_000) * kbits // sr + padding
    return FrameHeader(size, (version, sr), 4 + (0 if unprotected else 2) + side_info)


def length_edit(stream: BinaryIO, n_bytes: int) -> Edit | None:
    """Find out how the header of an MP3 must read for all of it to be read.

    Headers alone are looked at: some tenths of a second for an hour of music, and no memory.

    Args:
        stream: an open file, of any format.
        n_bytes: its size.

    Returns:
        What to replace; None where the file is no MP3, or its own word will do. A file that has
        fewer frames than it says goes on saying so: it has been cut off.
    """
    head = _read_at(stream, 0, 4)
    if head[:3] != b"ID3" and parse_header(head) is None:
        return None
    start = 0
    while (size := _tag_size(stream, start)) > 0:
        start += size
    first = parse_header(_read_at(stream, start, 4))
    if first is None:
        if _read_at(stream, start, 4) in (b"fLaC", b"RIFF", b"OggS", b"FORM"):
            return None
        start = _next_frame(stream, start, n_bytes)
        first = parse_header(_read_at(stream, start, 4))
        if first is None:
            return None
    frame = _read_at(stream, start, first.size)
    found = _count(stream, start, n_bytes, first.kind)
    if found <= 1:  # less than it takes to tell an MP3
        return None
    name, flags, said = _unpack(">4sII", frame, first.tag_at)
    if name in (b"Xing", b"Info"):
        found -= 1  # this one holds no sound
        if not flags & _HAS_COUNT:
            return Edit(start, first.size, _xing_frame(frame, found))
        # Some writers count that frame: one more or less is no reason to move the end, which the
        # delays that LAME notes are counted from.
        if abs(found - said) <= 1:
            return None
        numbers = struct.pack(">I", max(found, said))
        if flags & _HAS_BYTES:  # a wrong one has the decoder write a line of its own to stderr
            numbers += struct.pack(">I", min(n_bytes - start, 0xFFFFFFFF))
        return Edit(start + first.tag_at + 8, len(numbers), numbers)
    if frame[_VBRI_AT : _VBRI_AT + 4] == b"VBRI":
        (said,) = _unpack(">I", frame, _VBRI_AT + _MIDDLE_OF_COUNT)
        return Edit(start, first.size, _xing_frame(frame, max(found - 1, said)))
    return Edit(start, 0, _xing_frame(frame, found))


def _xing_frame(like: bytes, n_frames: int) -> bytes:
    """Make a frame that says how many others follow.

    Args:
        like: a frame of the file: version, rate and channels are taken from it.
        n_frames: how many.
    """
    for kbits_index in range(1, 15):  # ends with a frame of at least 288 bytes
        head = bytes((like[0], like[1] | 1, kbits_index << 4 | like[2] & 0x0C, like[3]))
        header = parse_header(head)
        if header is not None and header.size >= _ROOM_OF_XING:
            tag = b"Xing" + struct.pack(">II", _HAS_COUNT, n_frames)
            return (head.ljust(header.tag_at, b"\0") + tag).ljust(header.size, b"\0")
    raise ValueError(f"{like[:4].hex()} is no header of a frame of layer III")


def _count(stream: BinaryIO, position: int, n_bytes: int, kind: tuple[int, int]) -> int:
    """Count the whole frames from one on, over tags and junk between them.

    Frames of another rate count, too. They are another song's, and no decoder reads on there: that
    there is less to be read than was counted is then told.
    """
    n_frames = 0
    while position < n_bytes:
        header = parse_header(_read_at(stream, position, 4))
        if header is not None and (
            header.kind == kind or _is_followed(stream, position, header, n_bytes)
        ):
            kind = header.kind
            position += header.size
            n_frames += position <= n_bytes
        elif (size := _tag_size(stream, position)) > 0:
            position += size
        else:
            position = _next_frame(stream, position, n_bytes)
    return n_frames


def _next_frame(stream: BinaryIO, position: int, n_bytes: int) -> int:
    """Return where the next frame or tag begins; `n_bytes` where there is none near."""
    junk = _read_at(stream, position, _LONGEST_JUNK)
    for at in range(1, len(junk) - 3):
        if junk[at] == 0xFF:
            header = parse_header(junk[at : at + 4])
            if header is not None and _is_followed(stream, position + at, header, n_bytes):
                return position + at
        elif junk[at] in b"IAT" and _tag_size(stream, position + at) > 0:
            return position + at
    return n_bytes


def _is_followed(stream: BinaryIO, position: int, header: FrameHeader, n_bytes: int) -> bool:
    """Whether another frame, or the end, is where a frame ends: chance makes headers, but no rows."""
    behind = position + header.size
    following = parse_header(_read_at(stream, behind, 4))
    return behind == n_bytes or (following is not None and following.kind == header.kind)


def _tag_size(stream: BinaryIO, position: int) -> int:
    """Return how long the ID3 or APE tag at a position is, bytes; 0 = there is none."""
    head = _read_at(stream, position, 32)
    if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 0x80:
        size = 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0)))
        return size + (10 if head[5] & 0x10 else 0)  # a footer
    if head[:8] == b"APETAGEX" and len(head) == 32:
        size, flags = struct.unpack("<I4xI", head[12:24])
        at_its_header = flags & 0x20000000
        return int(size) + 32 if at_its_header else 32  # behind the footer, which ends the tag
    return 128 if head[:3] == b"TAG" else 0


def _unpack(layout: str, data: bytes, at: int) -> tuple[Any, ...]:
    """Unpack numbers from data that may be too short: zeros follow it."""
    size = struct.calcsize(layout)
    return struct.unpack(layout, data[at : at + size].ljust(size, b"\0"))


def _read_at(stream: BinaryIO, position: int, size: int) -> bytes:
    stream.seek(position)
    return stream.read(size)
