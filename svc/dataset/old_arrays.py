"""Reading the object arrays that so-vits-svc 4.1 saves as F0, without unpickling them.

The file is an ordinary .npy whose body is a pickle of an array of Python floats (spec_core 6.4).
Here the pickle may name three things of numpy, and each is replaced by an inert record; no other
name is looked up and no numpy code sees unchecked data.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format

from svc.errors import DatasetError, MissingFileError

_MAX_ITEMS = 50_000_000  # floats; 2 rows of 80 hours at 44.1 kHz and hop 512


class _Dtype:
    """Stands for `numpy.dtype`; remembers its code."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Byte order and fields are of no interest for an object array."""


class _Array:
    """Stands for an `numpy.ndarray` under construction; remembers shape and items."""

    def __init__(self) -> None:
        self.shape: Any = ()
        self.items: Any = None

    def __setstate__(self, state: Any) -> None:
        _, self.shape, dtype, _, self.items = state
        if not isinstance(dtype, _Dtype) or not dtype.code.startswith("O"):
            raise pickle.UnpicklingError("it is not an array of Python floats")


class _Marker:
    """Stands for the class `numpy.ndarray`, which is only ever an argument."""


def _reconstruct(*_: Any) -> _Array:
    return _Array()


_NAMES: dict[str, Any] = {
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _Marker,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in _NAMES:
            raise pickle.UnpicklingError(f"it asks for {full}, which could run any code")
        return _NAMES[full]


def _unpickle(stream: IO[bytes]) -> np.ndarray:
    loaded = _Reader(stream).load()
    if not isinstance(loaded, _Array) or not isinstance(loaded.items, list):
        raise pickle.UnpicklingError("it is not an array of Python floats")
    shape, items = loaded.shape, loaded.items
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise pickle.UnpicklingError("its shape is damaged")
    if len(items) > _MAX_ITEMS or not all(type(item) in (float, int) for item in items):
        raise pickle.UnpicklingError("it is not an array of Python floats")
    # The list is in C order whatever the array's memory layout was.
    return np.array(items, dtype=np.float64).reshape(shape)


def read_array(path: Path) -> np.ndarray:
    """Read a .npy file of numbers: a plain one, or an object array of Python floats.

    Args:
        path: the file.

    Returns:
        float32, the stored shape.

    Raises:
        MissingFileError: no such file.
        DatasetError: damaged, or refused because it asks for anything but an array of floats.
    """
    try:
        array = _read(path)
    except FileNotFoundError:
        raise MissingFileError(
            f"{path} is not there; run  svc preprocess --stage features"
        ) from None
    except Exception as error:
        # Garbage trips a parser in any way there is; whatever it was, this file is of no use.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatasetError(
            f"{path}: not a readable feature file: {reason}; delete it and run  "
            "svc preprocess --stage features"
        ) from error
    return array


def _read(path: Path) -> np.ndarray:
    with path.open("rb") as stream:
        version = npy_format.read_magic(stream)
        read_header = (
            npy_format.read_array_header_1_0
            if version == (1, 0)
            else npy_format.read_array_header_2_0
        )
        _, _, dtype = read_header(stream)
        if dtype == np.dtype(object):
            array = _unpickle(stream)
        else:
            array = np.load(path, allow_pickle=False)
            if not np.issubdtype(array.dtype, np.number):
                raise ValueError(f"it holds {array.dtype}, not numbers")
    with np.errstate(all="ignore"):  # what overflows becomes infinite and is refused
        small = array.astype(np.float32)
    if not np.isfinite(small).all():
        raise ValueError("it holds numbers that are not finite")
    return small
