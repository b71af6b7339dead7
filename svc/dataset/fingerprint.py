"""Telling files apart by what they hold: recordings, and the weights their features were made with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from svc.speech.locate import files_of

_DIGEST_BYTES = 16
_SECOND_NS = 1_000_000_000


def file_hash(path: Path) -> str:
    """Return the BLAKE2b hash of a file's content, 128 bits in hexadecimal."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def weights_hash(places: Mapping[str, Path]) -> str:
    """Return what tells the weights of an encoder from others.

    Args:
        places: file or folder of each part, as `svc.speech.locate.locate_encoder` returns them.

    Returns:
        A hash for each part, joined by "+". That of a single file is the file's own, and that of a
        Hugging Face folder covers weights and settings: model cards and tokenizers do not count.
    """
    return "+".join(_place_hash(files_of(path)) for path in places.values())


def _place_hash(files: Sequence[Path]) -> str:
    hashes = [file_hash(file) for file in files]
    if len(hashes) == 1:
        return hashes[0]
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for file, value in zip(files, hashes, strict=True):
        digest.update(f"{file.name}:{value}\n".encode())
    return digest.hexdigest()


def fingerprint(wav: Path, *, with_hash: bool) -> dict[str, Any]:
    """Return size, time and, if asked for, content hash of a recording."""
    stat = wav.stat()
    found: dict[str, Any] = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    if with_hash:
        found["blake2b"] = file_hash(wav)
    return found


def same_time(one_ns: int, other_ns: int) -> bool:
    """Return whether two times of a file are the same, up to what archives and copies lose.

    A tar or zip file keeps whole seconds, or even ones only, so a whole one may stand for one with
    a fraction.
    """
    lost = (one_ns % _SECOND_NS == 0) != (other_ns % _SECOND_NS == 0)
    return one_ns == other_ns or (lost and abs(one_ns - other_ns) <= 2 * _SECOND_NS)


def same_recording(wav: Path, recorded: Any) -> bool:
    """Compare size and time; where only the time differs (a copied data set) the content
    decides.
    """
    if not isinstance(recorded, Mapping):
        return False
    quick = fingerprint(wav, with_hash=False)
    if quick["size"] != recorded.get("size"):
        return False
    earlier = recorded.get("mtime_ns")
    if isinstance(earlier, int) and same_time(quick["mtime_ns"], earlier):
        return True
    return bool(fingerprint(wav, with_hash=True)["blake2b"] == recorded.get("blake2b"))
