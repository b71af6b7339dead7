"""The two containers that `torch.save` has written since 2017, read without torch's own loader.

torch's loader reads every storage of the older container into memory, a gigabyte of optimizer state included, and its
weights-only unpickler could be made to corrupt memory before torch 2.10 (CVE-2026-24747), which is newer than what svc
asks for. Here the object comes out of `svc.safe_pickle` with tensors as mere descriptions, all of which are checked
against the file's size before one is made; then only those that are kept are read or mapped.

    zip:     <name>/data.pkl       the object; a tensor refers to its storage by key
             <name>/data/<key>     the bytes of a storage, uncompressed, at a multiple of 64
             <name>/byteorder      "little" or "big"
    stream:  magic, protocol, system info, the object, list of storage keys     five pickles
             then for each key: number of elements (8 bytes), the bytes         little-endian, at any position
"""

from __future__ import annotations

import io
import mmap
import struct
import sys
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from svc.lazy_tensors import Descriptions, LazyTensor, Storage
from svc.pickled_arrays import PickledArray, array_names
from svc.safe_pickle import UnsupportedError, printable, read_pickle

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_ZIP_START = b"PK\x03\x04"
_ALIGNMENT = 16  # bytes; the largest element, complex128. A storage elsewhere is read, not mapped


@dataclass
class _Source:
    """Where the storages lie in a file, and those that have been fetched."""

    file: io.BufferedReader
    content: mmap.mmap
    mapped: bool
    places: dict[str, tuple[int, int]]  # key: first byte, bytes
    dtypes: dict[str, torch.dtype]
    swap: bool = False  # written in the other byte order
    _fetched: dict[str, torch.UntypedStorage] = field(default_factory=dict)

    def storage(self, key: str) -> torch.UntypedStorage:
        """Return a storage, the same one for all tensors that share it."""
        if key not in self._fetched:
            self._fetched[key] = self._fetch(*self.places[key], self.dtypes[key])
        return self._fetched[key]

    def _fetch(self, start: int, n_bytes: int, dtype: torch.dtype) -> torch.UntypedStorage:
        if not n_bytes:
            return torch.empty(0, dtype=torch.uint8).untyped_storage()
        if self.mapped and not self.swap and start % _ALIGNMENT == 0:
            return torch.frombuffer(
                self.content, dtype=torch.uint8, count=n_bytes, offset=start
            ).untyped_storage()
        # Read from the file and not out of the mapping, whose pages would stay in memory beside the copy.
        bytes_ = torch.empty(n_bytes, dtype=torch.uint8)
        self.file.seek(start)
        if self.file.readinto(cast(Any, bytes_.numpy())) != n_bytes:
            raise ValueError("the file ends inside a tensor")
        storage = bytes_.untyped_storage()
        if self.swap:
            cast(Any, storage).byteswap(dtype)
        return storage

    def tensor(self, lazy: LazyTensor) -> Tensor:
        """Make a tensor of its description."""
        tensor = torch.empty(0, dtype=lazy.dtype)
        # Any: the stubs know this form of set_ only for typed storages
        cast(Any, tensor).set_(self.storage(lazy.key), lazy.offset, lazy.size, lazy.stride)
        tensor = tensor.conj() if lazy.conjugate else tensor
        return -tensor if lazy.negative else tensor


def read_torch_file(
    path: Path, *, mapped: bool = False, inert: bool = False, drop: Collection[str] = ()
) -> Any:
    """Read a file that `torch.save` has written, in either container, onto the CPU.

    Args:
        path: the file.
        mapped: tensors are views of the file, copied page by page when written to (the file never changes); where a
            storage lies at an odd position it is read. False: all is read.
        inert: replace bookkeeping classes by `svc.safe_pickle.Inert` instead of refusing them.
        drop: keys of the dictionary at the top that are forgotten; their tensors are never read.

    Returns:
        The object. Parameters come back as plain tensors, a bare storage as a tensor of one axis; shared storages stay
        shared. Without `inert`, arrays of numpy come back as arrays and its scalars as numbers of Python.

    Raises:
        RefusedError: it names a callable or class that tensors do not need.
        UnsupportedError: a kind of file, or of tensor, that is not read here.
        ValueError, OSError: truncated, damaged, or no such file.
    """
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        # Never closed by hand: a tensor keeps the mapping alive by a reference, but would not keep it open.
        read = read_zip if content[:4] == _ZIP_START else read_stream
        found, source = read(file, content, mapped, inert)
        if isinstance(found, dict):
            for key in drop:
                found.pop(key, None)
        try:
            return _make(found, source, {})
        except (RuntimeError, TypeError, OverflowError) as error:  # torch's; nested without end
            raise ValueError(f"tensors that cannot be made: {printable(str(error))}") from error


def _make(value: Any, source: _Source, made: dict[int, tuple[Any, Any]]) -> Any:
    """Replace the descriptions in a tree by tensors; containers that are met twice stay one."""
    if type(value) not in (LazyTensor, Storage, PickledArray, tuple, list, dict, OrderedDict):
        return value
    if id(value) in made:
        return made[id(value)][1]
    result: Any = value
    if type(value) is LazyTensor:
        result = source.tensor(value)
    elif type(value) is Storage:
        flat = LazyTensor(value.key, value.dtype, value.start, (value.count,), (1,))
        result = source.tensor(flat)
    elif type(value) is PickledArray:
        result = value.array()
    elif type(value) is tuple:
        result = tuple(_make(item, source, made) for item in value)
    else:
        made[id(value)] = (value, value)  # before its items, which may hold it in turn
        items = list(enumerate(value)) if type(value) is list else list(value.items())
        for key, item in items:
            value[key] = _make(item, source, made)
    made[id(value)] = (value, result)  # the original too: its id must stay taken
    return result


def _names(described: Descriptions, inert: bool) -> dict[str, object]:
    # In the files whose bookkeeping is made inert, arrays are part of it.
    return described.names() if inert else described.names() | array_names()


def read_zip(
    file: io.BufferedReader, content: mmap.mmap, mapped: bool, inert: bool
) -> tuple[Any, _Source]:
    """Read the container of torch since 2020; returns the object with described tensors, and where
    their bytes are. Raises as `read_torch_file`.
    """
    records = _zip_records(file, content)
    pickles = [name for name in records if name.endswith(".pkl")]
    if len(pickles) != 1 or not pickles[0].endswith("/data.pkl"):
        raise ValueError(f"{len(pickles)} pickles where torch.save writes one")
    folder = pickles[0].removesuffix("data.pkl")
    start, length = records[pickles[0]]
    described = Descriptions(len(content))
    found = read_pickle(
        io.BytesIO(content[start : start + length]),
        _names(described, inert),
        inert=inert,
        persistent=described.storage,
    )
    places = {}
    for key, (count, dtype) in described.storages.items():
        place = records.get(f"{folder}data/{key}")
        if place is None or place[1] < count * dtype.itemsize:
            raise ValueError("a tensor without its data")
        places[key] = (place[0], count * dtype.itemsize)
    first, length = records.get(f"{folder}byteorder", (0, 0))
    order = content[first : first + min(length, 8)].decode("ascii") or "little"
    if order not in ("little", "big"):
        raise ValueError("an unknown byte order")
    return found, _source(file, content, mapped, places, described, swap=order != sys.byteorder)


def _zip_records(file: io.BufferedReader, content: mmap.mmap) -> dict[str, tuple[int, int]]:
    """Return the first byte and the number of bytes of each record; all of them uncompressed."""
    records = {}
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, LookupError, struct.error) as error:
        raise ValueError(f"damaged zip file: {printable(str(error))}") from error
    if any(info.filename.endswith("/constants.pkl") for info in infos):
        raise UnsupportedError("it is a TorchScript program, not weights: export its state dict")
    for info in infos:
        head = content[info.header_offset : info.header_offset + 30]
        if len(head) < 30 or head[:4] != _ZIP_START or info.compress_type or info.flag_bits & 1:
            raise ValueError("a zip record that torch.save does not write")
        names = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        start = info.header_offset + 30 + names
        if start + info.file_size > len(content) or info.filename in records:
            raise ValueError("a zip record beyond the file, or there twice")
        records[info.filename] = (start, info.file_size)
    return records


def check_sums(path: Path, *, any_container: bool = False) -> None:
    """Read a file in the zip container and compare every record with its checksum, a piece at a time.

    Args:
        path: the file.
        any_container: pass one that is not in the zip container: the older one has no checksums.

    Raises:
        ValueError: a record is damaged or cut off.
        OSError: the disk cannot read it.
    """
    with path.open("rb") as file:
        if any_container and file.read(4) != _ZIP_START:
            return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (
        zipfile.BadZipFile,
        RuntimeError,
        LookupError,
        EOFError,
        struct.error,
        zlib.error,
    ) as error:
        # RuntimeError: a record with a password, or packed in a way that is not known
        raise ValueError(f"damaged zip file: {printable(str(error))}") from error
    if damaged is not None:
        raise ValueError(f"the checksum of {printable(damaged)} does not fit what is there")


def read_stream(
    file: io.BufferedReader, content: mmap.mmap, mapped: bool, inert: bool
) -> tuple[Any, _Source]:
    """Read the container of torch before 2020; see `read_zip`."""
    if content[257:262] == b"ustar":
        raise UnsupportedError(
            "it is in torch's tar format of before 2017: save it anew with torch"
        )
    stream = cast(IO[bytes], content)
    if read_pickle(stream, {}, inert=inert) != _MAGIC:
        raise ValueError("no file of torch.save")
    if read_pickle(stream, {}) != _PROTOCOL:
        raise ValueError("an unknown version of torch's stream format")
    if not isinstance(read_pickle(stream, {}), Mapping):
        raise ValueError("no system info")
    described = Descriptions(len(content))
    names = _names(described, inert)
    found = read_pickle(stream, names, inert=inert, persistent=described.storage)
    keys = read_pickle(stream, {})
    if not isinstance(keys, list) or len(set(map(str, keys))) != len(keys):
        raise ValueError("no list of storages")
    position, places = content.tell(), {}
    for key in map(str, keys):
        if key not in described.storages:
            raise ValueError("data of no tensor")
        count, dtype = described.storages[key]
        if int.from_bytes(content[position : position + 8], "little") != count:
            raise ValueError("a storage of another length than its tensors say")
        places[key] = (position + 8, count * dtype.itemsize)
        position += 8 + count * dtype.itemsize
        if position > len(content):
            raise ValueError("the file ends inside a tensor")
    if places.keys() != described.storages.keys():
        raise ValueError("a tensor without its data")
    return found, _source(file, content, mapped, places, described, swap=sys.byteorder == "big")


def _source(
    file: io.BufferedReader,
    content: mmap.mmap,
    mapped: bool,
    places: dict[str, tuple[int, int]],
    described: Descriptions,
    *,
    swap: bool,
) -> _Source:
    dtypes = {key: dtype for key, (_, dtype) in described.storages.items()}
    return _Source(file, content, mapped, places, dtypes, swap)
