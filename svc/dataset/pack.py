"""A data set in one file, ``features.pack``: recordings and features of all clips, for training to
read through a memory map.

It lies beside the folders of the speakers (``dataset/44k/features.pack``), so it is found from the
path of any clip, and names clips as ``<speaker>/<file>``, so it may move with them. Layout, all
numbers little-endian:

=================  =========================================================================
64 bytes           magic, version, place and length of the index, BLAKE2b of the index
arrays             each begins at a multiple of 64 bytes: ``wav`` (T,) int16 as in a 16-bit
                   file, float32 where that would lose anything; ``units`` (S, C); ``f0``
                   (2, N) with uv (1 = voiced) as second row; ``volume`` (N,); with --use_diff
                   ``mel`` (N, M), ``aug_mel`` (N, M + 1) with the shift in semitones as
                   last column, ``aug_volume`` (N,); all float32
index              JSON: of each clip the places of its arrays, size and time of the files
                   they came from, and what the side-car says they were made with
=================  =========================================================================

Units lie frame after frame, so a crop touches no more of the file than it needs. The operating
system's page cache is all the memory that a pack takes, and all loader processes share it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from svc.errors import DatasetError

NAME = "features.pack"
MAGIC = b"\x93SVCPACK"
VERSION = 1
ALIGNMENT = 64
"""Bytes of which the beginning of every array is a multiple."""
PREAMBLE = struct.Struct("<8sIIQQ16s")  # magic, version, 0, place, length and hash of the index
DTYPES: dict[str, np.dtype[Any]] = {"<i2": np.dtype("<i2"), "<f4": np.dtype("<f4")}
"""Kinds of numbers that a pack may hold."""
PARTS = ("wav", "units", "f0", "volume", "mel", "aug_mel", "aug_volume")
"""Arrays of a clip, in the order in which they are written."""

_ADVICE = "delete it, or run  svc preprocess --stage pack"

Key = tuple[str, str]  # speaker, file name
Array = npt.NDArray[Any]


class ArrayPlace(NamedTuple):
    """Where an array lies."""

    dtype: str
    offset: int  # bytes from the beginning of the file
    shape: tuple[int, ...]

    @property
    def n_values(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def end(self) -> int:
        """Place of the first byte behind it."""
        return self.offset + self.n_values * DTYPES[self.dtype].itemsize


class FileState(NamedTuple):
    """What is cheaply known of a file."""

    size: int  # bytes
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileState | None:
        """Return the state of a file, None where there is none."""
        try:
            stat = path.stat()
        except OSError:
            return None
        return cls(stat.st_size, stat.st_mtime_ns)


@dataclass(frozen=True)
class PackedClip:
    """What the index says of a clip."""

    speaker: str
    name: str  # of the file
    rate: int  # Hz
    peak: float  # largest |sample|
    files: Mapping[str, FileState]  # recording and features, as they were when they were packed
    made: Mapping[str, Any] | None
    """The side-car: part -> settings; None where there was none, as in data of the original."""
    arrays: Mapping[str, ArrayPlace]

    @property
    def key(self) -> Key:
        """What it is found by."""
        return self.speaker, self.name

    @property
    def n_samples(self) -> int:
        """Length of the recording."""
        return self.arrays["wav"].shape[0]

    def has(self, parts: tuple[str, ...]) -> bool:
        """Return whether all these arrays are there."""
        return all(part in self.arrays for part in parts)


def key_of(path: Path) -> Key:
    """Return what a clip is found by: the name of its folder is the speaker."""
    return path.parent.name, path.name


def pack_path(clip: Path) -> Path:
    """Return where the pack of a clip lies, if there is one."""
    return clip.parent.parent / NAME


class Pack:
    """An open pack; arrays are views of the file, read-only, and cost nothing until they are read.

    It may be handed to other processes: forked ones share the map, others open the file again.

    Args:
        path: the file.

    Raises:
        DatasetError: it cannot be opened, is damaged, or of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map, self._digest, clips = _open(path)
        self.clips = {clip.key: clip for clip in clips}

    def __len__(self) -> int:
        return len(self.clips)

    def get(self, path: Path) -> PackedClip | None:
        """Return what is known of a clip, None where it is not in the pack."""
        return self.clips.get(key_of(path))

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self._map)

    def array(self, clip: PackedClip, part: str) -> Array:
        """Return an array of a clip as a read-only view of the file."""
        place = clip.arrays[part]
        kind = DTYPES[place.dtype]
        flat = np.frombuffer(self._map, kind, place.n_values, place.offset)
        return flat.reshape(place.shape)

    def close(self) -> None:
        """Let go of the file, which some systems do not replace before."""
        with contextlib.suppress(BufferError):  # somebody still looks at an array
            self._map.close()

    def __getstate__(self) -> dict[str, Any]:
        """The index is large and the map cannot travel: the other process opens the file."""
        return {"path": self.path, "digest": self._digest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]
        if self._digest != state["digest"]:
            raise DatasetError(f"{self.path} was written anew meanwhile; run the command again")


def _open(path: Path) -> tuple[mmap.mmap, bytes, list[PackedClip]]:
    try:
        with path.open("rb") as stream:
            whole = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:  # an empty file cannot be mapped
        raise DatasetError(f"{path} is damaged: it is empty; {_ADVICE}") from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}; {_ADVICE}") from error
    try:
        digest, index = _read_index(whole)
        settings = index["settings"]
        clips = [_clip(record, settings, len(whole)) for record in index["clips"]]
    except _AnotherVersionError as error:
        raise DatasetError(f"{path} is {error}; {_ADVICE}") from None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        reason = str(error) if type(error) is ValueError else "its index makes no sense"
        raise DatasetError(f"{path} is damaged: {reason}; {_ADVICE}") from error
    return whole, digest, clips


class _AnotherVersionError(Exception):
    """It may be whole, but is not for this program."""


def _read_index(whole: mmap.mmap) -> tuple[bytes, dict[str, Any]]:
    if len(whole) < PREAMBLE.size or whole[: len(MAGIC)] != MAGIC:
        raise _AnotherVersionError("not a pack of features")
    _, version, _, offset, length, digest = PREAMBLE.unpack(whole[: PREAMBLE.size])
    if version != VERSION:
        raise _AnotherVersionError(f"of version {version}, this program reads version {VERSION}")
    text = whole[offset : offset + length]
    if offset + length != len(whole) or hash_of(text) != digest:
        raise ValueError("it is cut off, or its index was changed")
    index: dict[str, Any] = json.loads(text)
    return digest, index


def _clip(record: dict[str, Any], settings: list[Any], size: int) -> PackedClip:
    arrays = {}
    for part, (dtype, offset, shape) in record["arrays"].items():
        place = ArrayPlace(dtype, offset, tuple(shape))
        numbers = (offset, *place.shape)
        if not all(type(value) is int and value >= 0 for value in numbers) or place.end > size:
            raise ValueError(f"the place of the {part} of {record['name']} is not in it")
        arrays[part] = place
    made = record["made"]
    clip = PackedClip(
        speaker=record["speaker"],
        name=record["name"],
        rate=int(record["rate"]),
        peak=float(record["peak"]),
        files={part: FileState(*state) for part, state in record["files"].items()},
        made=None if made is None else {part: settings[row] for part, row in made.items()},
        arrays=arrays,
    )
    if len(arrays["wav"].shape) != 1:
        raise ValueError(f"the recording of {clip.name} is not one row of samples")
    return clip


def hash_of(index: bytes) -> bytes:
    """Return the hash of an index that stands in the preamble."""
    return hashlib.blake2b(index, digest_size=16).digest()
