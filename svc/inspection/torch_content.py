"""What a file of torch.save holds, with no tensor read: they come as tensors without data, on torch's "meta" device."""

from __future__ import annotations

import io
import mmap
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from svc.lazy_tensors import LazyTensor, Storage
from svc.pickled_arrays import PickledArray, array_names
from svc.safe_pickle import Builder, Inert, RefusedError, is_inert, printable, read_pickle
from svc.torch_file import read_stream, read_zip

ZIP_START = b"PK\x03\x04"
MOST_NAMES = 20
"""Names that are listed; there may be more."""
_BEFORE_THE_OBJECT = 3  # pickles of the stream container: magic, protocol, system info


@dataclass(frozen=True)
class TorchContent:
    """A file of torch.save, described."""

    value: Any
    """Containers, numbers, texts, `Inert` objects; tensors and arrays as tensors on "meta"."""
    harmless: int
    """Callables and classes it names, beyond those of plain containers."""
    bookkeeping: tuple[str, ...]
    """Of these the ones that are not needed for tensors: only readers of foreign encoders take them."""


def describe_torch_file(path: Path) -> TorchContent:
    """Describe a file of torch.save in either container; of its tensors nothing is read.

    Args:
        path: the file.

    Returns:
        What it holds.

    Raises:
        RefusedError: it names callables that could do anything; those, and no others, are listed.
        UnsupportedError: a kind of file that is not read here.
        ValueError, OSError: truncated, damaged.
    """
    try:
        value = _read(path, inert=False)
    except RefusedError as refused:
        value = _read_with_bookkeeping(path, refused)
    names = _names(path)
    return TorchContent(value, len(names), tuple(name for name in names if _is_extra(name)))


def _is_extra(name: str) -> bool:
    return is_inert(name) and name not in array_names()


def _read_with_bookkeeping(path: Path, refused: RefusedError) -> Any:
    try:
        return _read(path, inert=True)
    except RefusedError as error:
        # Arrays are harmless, and yet refused here: no file that is read has both.
        names = [name for name in error.names if name not in array_names()]
        raise RefusedError(names or refused.names) from error


def _read(path: Path, *, inert: bool) -> Any:
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        read = read_zip if content[:4] == ZIP_START else read_stream
        found, _ = read(file, content, True, inert)
    try:
        return _bare(found, {}, {})
    except (RuntimeError, TypeError, OverflowError) as error:  # torch's; nested without end
        raise ValueError(f"tensors that cannot be made: {printable(str(error))}") from error


def _bare(value: Any, done: dict[int, tuple[Any, Any]], tensors: dict[LazyTensor, Any]) -> Any:
    """Replace descriptions by tensors without data: a tensor that is there twice becomes one."""
    if type(value) not in (LazyTensor, Storage, PickledArray, tuple, list, dict, OrderedDict):
        return value
    if id(value) in done:
        return done[id(value)][1]
    result: Any = value
    if type(value) is LazyTensor:
        if value not in tensors:
            tensors[value] = torch.empty_strided(
                value.size, value.stride, dtype=value.dtype, device="meta"
            )
        result = tensors[value]
    elif type(value) is Storage:
        result = torch.empty(value.count, dtype=value.dtype, device="meta")
    elif type(value) is PickledArray:
        array = value.array()
        result = torch.from_numpy(array).to("meta")
    elif type(value) is tuple:
        result = tuple(_bare(item, done, tensors) for item in value)
    else:
        done[id(value)] = (value, value)  # before its items, which may hold it in turn
        items = list(enumerate(value)) if type(value) is list else list(value.items())
        for key, item in items:
            value[key] = _bare(item, done, tensors)
    done[id(value)] = (value, result)
    return result


def _names(path: Path) -> list[str]:
    """Names in the pickle of a sound file."""
    with path.open("rb") as file:
        if file.read(4) == ZIP_START:
            with zipfile.ZipFile(file) as archive:
                (record,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
                return names_in(io.BytesIO(archive.read(record)))
        file.seek(0)
        for _ in range(_BEFORE_THE_OBJECT):
            read_pickle(file, {}, inert=True)
        return names_in(file)


def names_in(stream: IO[bytes], *, inert: bool = False) -> list[str]:
    """List what a pickle names, up to `MOST_NAMES`, without what plain containers need.

    The machine of `svc.safe_pickle`, given an empty table, refuses every name and says which. It
    goes on behind each, so damage does not hide those before it.

    Args:
        stream: where the pickle starts.
        inert: do not list bookkeeping classes.

    Raises:
        ValueError: damaged before the first name, or no pickle.
    """
    try:
        read_pickle(stream, {}, inert=inert, persistent=lambda _: Inert("data"))
    except RefusedError as error:
        return error.names
    return []


def check_pickle(stream: IO[bytes], names: Sequence[str]) -> None:
    """See that a pickle which names only `names` is whole; they stand for nothing.

    Raises:
        ValueError: truncated or damaged.
    """
    nothing = Builder(lambda *_: Inert("value"))
    read_pickle(stream, dict.fromkeys(names, nothing), persistent=lambda _: Inert("data"))
