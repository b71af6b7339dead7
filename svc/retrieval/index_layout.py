"""What a serialised faiss index has to look like before faiss itself may read it.

faiss believes the lengths that it reads: a damaged file can make it allocate any amount of memory, and one made on
purpose can make it read and write elsewhere. So the whole layout is checked here first, by a reader that only looks.
Of the many kinds of index two are taken, vectors as they are with and without lists of nearby ones; faiss has written
both in the same way since version 1.5. All numbers are little-endian.

    flat        "IxF2" header                  number of floats u64   vectors f32 (rows, U)
    with lists  "IwFl" header  lists u64  probes u64   centroids: a flat index of as many rows as lists
                direct map: kind u8, length u64, places i64
                "ilar"  lists u64  bytes per vector u64
                "full"  lists u64    rows of each list u64             where more than half of the lists have rows
             or "sprs"  2 pairs u64  (list u64, its rows u64) ...      else
                then for each list that has rows: vectors f32 (n, U), row numbers i64 (n,)
    header      U i32   rows i64   two unused i64   trained u8   metric i32, 1 = squared L2
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MAX_DIM = 1 << 16
_MAX_PROBES = 1 << 31
_L2 = 1
_FLAT, _LISTS = b"IxF2", b"IwFl"
FOURCCS = (_FLAT, _LISTS)
"""What the file of an index begins with."""


@dataclass(frozen=True)
class IndexFacts:
    """What the layout of an index says."""

    dim: int  # U, width of the vectors
    rows: int
    n_lists: int  # 0: a flat index
    nprobe: int  # lists searched unless something else is asked for


class _Cursor:
    """A place in the bytes, which moves on; never beyond their end."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> memoryview:
        if count > self.left:
            raise ValueError("it ends too early")
        self._at += count
        return self._data[self._at - count : self._at]

    def name(self) -> bytes:
        return bytes(self.take(4))

    def number(self, code: str) -> int:
        (value,) = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))
        return int(value)

    def array(self, count: int, dtype: str) -> NDArray[np.generic]:
        kind = np.dtype(dtype)
        return np.frombuffer(self.take(count * kind.itemsize), dtype=kind)

    def vectors(self, rows: int, dim: int) -> None:
        """Pass over vectors that have to be finite."""
        if not np.isfinite(self.array(rows * dim, "<f4")).all():
            raise ValueError("it holds numbers that are not finite")


def check_layout(data: memoryview) -> IndexFacts:
    """Check the bytes of an index from the first to the last.

    Args:
        data: what `faiss.serialize_index` returns or `faiss.write_index` writes, as plain bytes.

    Returns:
        Its width and sizes.

    Raises:
        ValueError: truncated, damaged, or of a kind that is not read; the message says which.
    """
    cursor = _Cursor(data)
    kind = cursor.name()
    if kind == _FLAT:
        dim, rows = _flat(cursor)
        facts = IndexFacts(dim, rows, 0, 1)
    elif kind == _LISTS:
        facts = _with_lists(cursor)
    else:
        raise ValueError(
            f"it holds an index of the kind {kind.decode('latin-1')!a}; only IVF,Flat (IwFl) and "
            "Flat with L2 distance (IxF2) are read"
        )
    if cursor.left:
        raise ValueError(f"{cursor.left} bytes too many at its end")
    return facts


def _header(cursor: _Cursor) -> tuple[int, int]:
    """Return width and rows."""
    dim, rows = cursor.number("i"), cursor.number("q")
    cursor.take(16)
    trained, metric = cursor.number("B"), cursor.number("i")
    if metric != _L2:
        raise ValueError(f"it compares by metric {metric}, not by L2 distance")
    if not (0 < dim <= _MAX_DIM and rows > 0 and trained == 1):
        raise ValueError(f"its header is damaged or it is empty: {rows} rows of {dim}")
    if 4 * rows * dim > cursor.left:
        raise ValueError("it ends too early")
    return dim, rows


def _flat(cursor: _Cursor) -> tuple[int, int]:
    dim, rows = _header(cursor)
    if cursor.number("Q") != rows * dim:
        raise ValueError("its vectors are not as many as its header says")
    cursor.vectors(rows, dim)
    return dim, rows


def _with_lists(cursor: _Cursor) -> IndexFacts:
    dim, rows = _header(cursor)
    n_lists, nprobe = cursor.number("Q"), cursor.number("Q")
    if not 0 < nprobe <= _MAX_PROBES:
        raise ValueError(f"it would search {nprobe} lists")
    if cursor.name() != _FLAT or _flat(cursor) != (dim, n_lists):
        raise ValueError("its centroids do not fit it")
    map_kind, map_length = cursor.number("B"), cursor.number("Q")
    if (map_kind, map_length) not in ((0, 0), (1, rows)):
        raise ValueError("its direct map is damaged or of another kind")
    direct = cursor.array(map_length, "<i8")
    places = _places(cursor, dim, rows, n_lists)
    if map_kind and not np.array_equal(direct, places):
        raise ValueError("its direct map points elsewhere")
    return IndexFacts(dim, rows, n_lists, nprobe)


def _places(cursor: _Cursor, dim: int, rows: int, n_lists: int) -> NDArray[np.int64]:
    """Check the lists; returns where each row lies as faiss writes it: list · 2³² + position in it."""
    if cursor.name() != b"ilar" or (cursor.number("Q"), cursor.number("Q")) != (n_lists, 4 * dim):
        raise ValueError("its lists are damaged or of another kind")
    pairs = _sizes(cursor, n_lists)
    if cursor.left != rows * (4 * dim + 8):
        raise ValueError(f"its lists have {cursor.left} bytes, {rows} rows do not take as many")
    places = np.full(rows, -1, dtype=np.int64)
    for number, size in pairs:
        cursor.vectors(size, dim)
        ids = cursor.array(size, "<i8").astype(np.int64)
        if size and not (ids.min() >= 0 and ids.max() < rows):
            raise ValueError("a row number out of range")
        places[ids] = (number << 32) + np.arange(size)
    # As many rows as numbers, so each number was there once if none is missing.
    if (places < 0).any():
        raise ValueError("a row number that is there twice")
    return places


def _sizes(cursor: _Cursor, n_lists: int) -> list[tuple[int, int]]:
    """Return (list, its rows) in the order of the file."""
    kind, length = cursor.name(), cursor.number("Q")
    if kind == b"full" and length == n_lists:
        return list(enumerate(cursor.array(length, "<u8").tolist()))
    if kind != b"sprs" or length % 2 or length > 2 * n_lists:
        raise ValueError("the sizes of its lists are damaged")
    flat = cursor.array(length, "<u8").tolist()
    numbers = flat[::2]
    if any(not 0 <= number < n_lists for number in numbers) or len(set(numbers)) < len(numbers):
        raise ValueError("the sizes of its lists are damaged")
    return list(zip(numbers, flat[1::2], strict=True))
