"""What a recording says of itself: title, artist and so on, read from one format and written to
another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

Tags = Mapping[str, str]
"""Name of `TAG_NAMES` -> text, never empty."""

TAG_NAMES = (
    "title", "artist", "album", "date", "tracknumber", "genre", "comment", "copyright", "license",
    "software",
)  # fmt: skip
"""What is kept, under libsndfile's names."""

_LONGEST = 4000  # characters; longer ones are no title but a lyrics sheet or an attack
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_FFMPEG_NAMES = {
    "tracknumber": ("track", "tracknumber"),
    "date": ("date", "year"),
    "software": ("encoding_tool", "encoder"),
}
_ID3_FRAMES = {
    "title": b"TIT2", "artist": b"TPE1", "album": b"TALB", "date": b"TDRC", "tracknumber": b"TRCK",
    "genre": b"TCON", "copyright": b"TCOP", "software": b"TSSE",
}  # fmt: skip


def clean_tags(found: Mapping[str, str]) -> dict[str, str]:
    """Keep the known tags, without control characters, cut to a length that any program takes.

    Args:
        found: tags under libsndfile's names; the file they come from may be hostile.
    """
    kept = {}
    for name in TAG_NAMES:
        text = _CONTROL.sub("", found.get(name, ""))[:_LONGEST].strip()
        if text:
            kept[name] = text
    return kept


def from_ffmpeg(found: Mapping[str, str]) -> dict[str, str]:
    """Return tags from those that ffprobe shows, whose names come in any case."""
    lower = {name.lower(): text for name, text in found.items()}
    tags = {}
    for name in TAG_NAMES:
        for known in _FFMPEG_NAMES.get(name, (name,)):
            if known in lower:
                tags[name] = lower[known]
                break
    return clean_tags(tags)


def to_ffmpeg(tags: Tags) -> list[str]:
    """Return the arguments by which ffmpeg writes tags; containers drop those they cannot hold."""
    words: list[str] = []
    for name, text in tags.items():
        # All names of the software: which one a container takes differs.
        known = _FFMPEG_NAMES.get(name, (name,))
        for each in known if name == "software" else known[:1]:
            words += ["-metadata", f"{each}={text}"]
    return words


def id3_tag(tags: Tags) -> bytes:
    """Return an ID3v2.4 tag in UTF-8, to stand in front of an mp3 stream; b"" without tags.

    libsndfile writes tags of mp3 files itself, but as Latin-1 whatever they hold. See
    https://id3.org/id3v2.4.0-structure and https://id3.org/id3v2.4.0-frames.
    """
    frames = b""
    for name, text in tags.items():
        body = b"\x03" + text.encode()  # 3 = UTF-8
        if name == "comment":
            body = b"\x03XXX\x00" + text.encode()  # language unknown, no description
            frames += _id3_frame(b"COMM", body)
        elif name in _ID3_FRAMES:
            frames += _id3_frame(_ID3_FRAMES[name], body)
    return b"ID3\x04\x00\x00" + _seven_bits(len(frames)) + frames if frames else b""


def _id3_frame(name: bytes, body: bytes) -> bytes:
    return name + _seven_bits(len(body)) + b"\x00\x00" + body


def _seven_bits(number: int) -> bytes:
    """Four bytes of seven bits each, the highest first."""
    return bytes((number >> shift) & 0x7F for shift in (21, 14, 7, 0))
