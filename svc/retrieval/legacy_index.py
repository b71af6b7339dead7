"""`feature_and_index.pkl`, the index file of so-vits-svc 4.1 (spec_cluster_index 4), read and written without pickle.

The file is a pickle of {speaker id: faiss index}; each index is an object of a class of faiss whose state is
{"this": bytes}, the bytes being what faiss itself writes. Reading goes through `svc.safe_pickle` with a table that has
nothing but those classes, as records; the bytes are views of the file and are checked before faiss sees them.

Which module the class is said to be in depends on the instruction set of the machine that wrote the file, and a plain
unpickle fails on others. We write the module `faiss`, in which every installation has the class that fits.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from svc.atomic import atomic_path
from svc.errors import CheckpointError
from svc.retrieval.index_files import StoredIndex, map_file
from svc.safe_pickle import Builder, RefusedError, Stateful, read_pickle

LEGACY_NAME = "feature_and_index.pkl"
_VARIANTS = ("", "_avx2", "_avx512", "_avx512_spr", "_sve")  # of the module, by instruction set
_CLASSES = ("IndexIVFFlat", "IndexFlatL2", "IndexFlat")
_LONG = 4096  # bytes; a shorter text is copied


class _PickledIndex(Stateful):
    """Stands for an object of faiss; keeps the bytes of its state."""

    __slots__ = ("data",)

    def __init__(self) -> None:
        self.data: memoryview | None = None

    def set_state(self, state: Any) -> None:
        """Take {"this": bytes}."""
        if type(state) is not dict or set(state) != {"this"}:
            raise ValueError("an index with an odd state")
        if type(state["this"]) not in (bytes, memoryview):
            raise ValueError("an index without bytes")
        self.data = memoryview(state["this"])


class MappedBytes:
    """A mapped file as a stream whose long texts are views of the mapping: an index is never copied."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._at

    def read(self, count: int) -> bytes | memoryview:
        """Return the next bytes, a long part as a view of the file."""
        part = self._data[self._at : self._at + count]
        self._at += len(part)
        return part if count > _LONG else bytes(part)

    def readline(self) -> bytes:
        """Return the bytes up to the end of the line."""
        line = bytes(self._data[self._at : self._at + _LONG])
        line = line[: line.find(b"\n") + 1 or len(line)]
        self._at += len(line)
        return line


def open_legacy(path: Path) -> dict[int, StoredIndex]:
    """Open the index file of the original.

    Args:
        path: the file.

    Returns:
        The index of each speaker id, checked, not yet read into faiss.

    Raises:
        MissingFileError: no such file.
        CheckpointError: damaged, refused because it asks for anything else than an index, or of a kind not read.
    """
    modules = ["faiss", *(f"faiss.swigfaiss{variant}" for variant in _VARIANTS)]
    names = {f"{module}.{cls}": Builder(_PickledIndex) for module in modules for cls in _CLASSES}
    stream = cast(Any, MappedBytes(map_file(path)))  # Any: of a stream only what the machine uses
    try:
        found = read_pickle(stream, names)
    except RefusedError as error:
        raise CheckpointError(
            f"{path}: refused: loading it would call {', '.join(error.names[:3])}, which an index of "
            "so-vits-svc never needs and which could run any code; get the file from a source you "
            "trust, or build it again with  svc train-index"
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"{path}: not a readable retrieval index: {error}; copy it again, or build it again with  "
            "svc train-index"
        ) from error
    indexes = found if type(found) is dict else {}
    stored = {
        speaker_id: StoredIndex.of(f"{path}, speaker {speaker_id}", item.data)
        for speaker_id, item in indexes.items()
        if type(speaker_id) is int and type(item) is _PickledIndex and item.data is not None
    }
    if not stored or len(stored) < len(indexes):
        raise CheckpointError(
            f"{path}: not a retrieval index of so-vits-svc: it is no table of speaker ids and indexes; "
            "is it the right file?"
        )
    return stored


def write_legacy(path: Path, files: Mapping[int, Path]) -> None:
    """Write the index file of the original, which so-vits-svc 4.1 unpickles with any installation of faiss.

    Args:
        path: the file; replaced atomically.
        files: the native index file of each speaker id.

    Raises:
        CheckpointError, MissingFileError: a native file is damaged or absent.
        OutputError: the file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(pickle.PROTO + b"\x04" + pickle.EMPTY_DICT)
        for speaker_id, file in sorted(files.items()):
            data = map_file(file)
            lists = StoredIndex.of(str(file), data).facts.n_lists
            stream.write(_integer(speaker_id))
            stream.write(_text("faiss") + _text("IndexIVFFlat" if lists else "IndexFlatL2"))
            stream.write(pickle.STACK_GLOBAL + pickle.EMPTY_TUPLE + pickle.NEWOBJ)
            stream.write(pickle.EMPTY_DICT + _text("this"))
            stream.write(pickle.BINBYTES8 + len(data).to_bytes(8, "little"))
            stream.write(data)
            stream.write(pickle.SETITEM + pickle.BUILD + pickle.SETITEM)
        stream.write(pickle.STOP)


def _integer(value: int) -> bytes:
    return pickle.BININT + value.to_bytes(4, "little", signed=True)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return pickle.SHORT_BINUNICODE + bytes([len(encoded)]) + encoded
