"""Which format a file has, by its first bytes; its name is never looked at."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from svc.dataset.pack import MAGIC
from svc.inspection.torch_content import ZIP_START

Format = Literal[
    "empty", "zip", "safetensors", "faiss", "npy", "audio", "video", "midi", "pickle", "tar",
    "onnx", "pack", "text", "binary",
]  # fmt: skip

HEAD = 512  # bytes looked at
_TEXT = 8192  # bytes of which a text must be one
# Four letters that faiss begins an index with: plain, inverted lists, HNSW, ... then its width.
_FAISS = re.compile(rb"I[xwHNVSAMZBL][A-Za-z0-9]{2}")
_MOST_WIDTH = 1 << 20
_AUDIO = (b"fLaC", b"OggS", b".snd", b"caff", b"ID3", b"wvpk", b"MAC ", b"#!AMR")
_MP3 = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")
_CONTAINERS = (b"\x1aE\xdf\xa3", b"0&\xb2u\x8ef\xcf\x11")  # Matroska and WebM, WMA
# ONNX: field 1 is a small version number; then come texts, a graph or an operator set.
_ONNX = re.compile(rb"\x08[\x01-\x7f][\x12\x1a\x22\x28\x32\x3a\x42]", re.DOTALL)


def detect(path: Path) -> tuple[Format, bytes]:
    """Return the format of a file, and its first bytes. Raises OSError."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(HEAD)
        start = head + stream.read(_TEXT - HEAD)
    return ("empty" if size == 0 else _format(head, start)), head


def _format(head: bytes, start: bytes) -> Format:
    if head.startswith(ZIP_START) or head.startswith(b"PK\x05\x06"):
        return "zip"
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(MAGIC):
        return "pack"
    if head.startswith(b"MThd"):
        return "midi"
    if _is_audio(head):
        return "audio"
    if head[4:8] == b"ftyp" or head.startswith(_CONTAINERS):
        return "video"
    if _is_safetensors(head):
        return "safetensors"
    if _FAISS.match(head) and 0 < int.from_bytes(head[4:8], "little") < _MOST_WIDTH:
        return "faiss"
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return "pickle"
    if head[257:262] == b"ustar":
        return "tar"
    if _ONNX.match(head):
        return "onnx"
    return "text" if _is_text(start) else "binary"


def _is_safetensors(head: bytes) -> bool:
    """Whether it begins with the length of a JSON text, and that text.

    Pickles have the first byte 0x80 too, but no five zeros so early.
    """
    small = head[3:8] == bytes(5) or (head[4:8] == bytes(4) and head[0] != 0x80)
    return small and head[8:9] == b"{"


def _is_audio(head: bytes) -> bool:
    if head[:4] in (b"RIFF", b"RF64", b"FORM"):
        return head[8:12] in (b"WAVE", b"AIFF", b"AIFC")
    return head.startswith(_AUDIO) or head.startswith(b"riff\x2e\x91") or bool(_MP3.match(head))


def _is_text(start: bytes) -> bool:
    """Whether it is UTF-8 without control characters; the last character may be cut off."""
    for cut in range(4):
        try:
            text = start[: len(start) - cut].decode("utf-8")
        except UnicodeDecodeError:
            continue
        return not any((sign < " " and sign not in "\t\r\n\f") or sign == "\x7f" for sign in text)
    return False


def first_bytes(head: bytes) -> str:
    """Return the beginning of a file for people: hexadecimal, and what of it can be read."""
    some = head[:16]
    letters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in some)
    return f"{some.hex(' ')}  {letters}"
