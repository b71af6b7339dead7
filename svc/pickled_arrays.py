"""Arrays of numpy inside a pickle, as it describes them: checked, and not made yet.

A pickle rebuilds an array in two steps: it calls a function of numpy for an empty array, and sets its state, which is
(version, shape, dtype, Fortran order, bytes). The dtype is made in the same way. numpy's own functions believe most of
this; here each step only makes a description, whose shape has to agree with the number of bytes, and whose elements
are plain numbers. Arrays of Python objects, which hold a pickle each, are never made.

Names of numpy 1 (`numpy.core`) and of numpy 2 (`numpy._core`) are known, and the short form of protocol 5.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svc.safe_pickle import Builder, Stateful, UnsupportedError, printable

_KINDS = frozenset(
    {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}
)  # numbers of the same size on every machine
_ORDERS = frozenset({"<", ">", "=", "|"})
_MAX_AXES = 32  # numpy 1's own limit


class _ArrayClass:
    """Stands for `numpy.ndarray`, which is only ever an argument."""


class _Dtype(Stateful):
    """Stands for a dtype of numbers; its state adds the byte order."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: Any, *_: Any) -> None:
        if type(code) is not str or code.lstrip("<>=|") not in _KINDS:
            what = f'of dtype "{printable(code)}"' if type(code) is str else "without dtype"
            raise UnsupportedError(
                f"it holds an array {what}; only arrays of plain numbers are read"
            )
        self._code = code.lstrip("<>=|")
        self._order = code[0] if code[0] in _ORDERS else "="

    def set_state(self, state: Any) -> None:
        """Take (version, byte order, sub-array, names, fields, ...)."""
        if type(state) is not tuple or len(state) < 5 or state[1] not in _ORDERS:
            raise ValueError("a dtype with an odd state")
        if any(part is not None for part in state[2:5]):
            raise UnsupportedError("it holds an array of records; only plain numbers are read")
        self._order = state[1]

    def dtype(self) -> np.dtype[Any]:
        """Return numpy's dtype."""
        return np.dtype(self._order + self._code)


class PickledArray(Stateful):
    """An array as a pickle describes it: complete and checked once its state is set."""

    __slots__ = ("_content",)

    def __init__(self) -> None:
        # What describes it: dtype, shape, order "C" or "F", bytes
        self._content: tuple[np.dtype[Any], tuple[int, ...], str, bytes | bytearray] | None = None

    def set_state(self, state: Any) -> None:
        """Take (version, shape, dtype, Fortran order, bytes)."""
        if type(state) is not tuple or len(state) != 5:
            raise ValueError("an array with an odd state")
        _, shape, dtype, fortran, raw = state
        if type(fortran) not in (bool, int):
            raise ValueError("an array without an order")
        self.describe(dtype, shape, "F" if fortran else "C", raw)

    def describe(self, dtype: Any, shape: Any, order: str, raw: Any) -> None:
        """Check and keep what the file says."""
        if type(dtype) is not _Dtype:
            raise ValueError("an array without dtype")
        if type(shape) is not tuple or len(shape) > _MAX_AXES:
            raise ValueError("an array without shape")
        if not all(type(length) is int and length >= 0 for length in shape):
            raise ValueError("an array of an odd shape")
        if type(raw) not in (bytes, bytearray):
            raise ValueError("an array without bytes")
        kind = dtype.dtype()
        if math.prod(shape) * kind.itemsize != len(raw):
            raise ValueError("an array of another size than its bytes")
        self._content = (kind, shape, order, raw)

    def array(self) -> NDArray[Any]:
        """Make the array, in the machine's byte order; writable. Raises ValueError where the state was never set."""
        if self._content is None:
            raise ValueError("an array without content")
        dtype, shape, order, raw = self._content
        flat = np.frombuffer(raw, dtype=dtype)
        # reshape and not the constructor: the shape has been checked against the bytes, which stay where they are
        return flat.astype(dtype.newbyteorder("=")).reshape(
            shape, order="F" if order == "F" else "C"
        )


def _reconstruct(kind: Any, shape: Any = None, code: Any = None) -> PickledArray:
    """Stand for numpy's `_reconstruct`: an array that waits for its state."""
    if type(kind) is not _ArrayClass:
        raise ValueError("an array of a class of its own")
    return PickledArray()


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> PickledArray:
    """Stand for numpy's `_frombuffer`, which protocol 5 calls."""
    if type(order) is not str or order not in ("C", "F") or axes is not None:
        raise UnsupportedError("it holds an array whose axes are in a mixed order")
    made = PickledArray()
    made.describe(dtype, shape, order, raw)
    return made


def _scalar(dtype: Any, raw: Any = None) -> bool | int | float:
    """Stand for numpy's `scalar`: a plain number of Python."""
    made = PickledArray()
    made.describe(dtype, (), "C", raw)
    number: bool | int | float = made.array().item()
    return number


def array_names() -> dict[str, object]:
    """Return what a pickle of arrays may name, for `svc.safe_pickle.read_pickle`; arrays come out as `PickledArray`."""
    table: dict[str, object] = {"numpy.dtype": Builder(_Dtype), "numpy.ndarray": _ArrayClass()}
    for core in ("numpy.core", "numpy._core"):
        table[f"{core}.multiarray._reconstruct"] = Builder(_reconstruct)
        table[f"{core}.multiarray.scalar"] = Builder(_scalar)
        table[f"{core}.numeric._frombuffer"] = Builder(_from_buffer)
    return table
