"""Reading the object arrays that so-vits-svc 4.1 saves, without unpickling them.

Such a file is an ordinary .npy whose body is a pickle: F0 of an array of Python floats (spec_core
6.4), an augmented mel of an array that holds a float32 array and a float (spec_diffusion 10). Here
the pickle may name three things of numpy, and each is replaced by an inert record; no other name is
looked up and no numpy code sees unchecked data.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator
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
        """Fields are of no interest for plain numbers, byte order only where it is unusual."""
        if state[1] == ">":
            raise pickle.UnpicklingError("its numbers are in the byte order of another machine")


class _Array:
    """Stands for an `numpy.ndarray` under construction; remembers shape and items."""

    def __init__(self) -> None:
        self.shape: Any = ()
        self.items: Any = None  # a list of objects, or the bytes of float32 numbers
        self.code = ""  # "O" or "f"
        self.fortran = False  # the bytes go down the columns

    def __setstate__(self, state: Any) -> None:
        _, self.shape, dtype, fortran, self.items = state
        if not isinstance(dtype, _Dtype) or not dtype.code.startswith(("O", "f4")):
            raise pickle.UnpicklingError("it is not an array of floats")
        self.code, self.fortran = dtype.code[0], bool(fortran)


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


def _unpickle(stream: IO[bytes]) -> tuple[tuple[int, ...], list[Any]]:
    """Return shape and items of an object array, in C order whatever its memory layout was."""
    loaded = _Reader(stream).load()
    if not isinstance(loaded, _Array) or loaded.code != "O" or not isinstance(loaded.items, list):
        raise pickle.UnpicklingError("it is not an array of Python objects")
    return _shape(loaded), loaded.items


def _shape(array: _Array) -> tuple[int, ...]:
    shape = array.shape
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise pickle.UnpicklingError("its shape is damaged")
    return shape


def _floats(stream: IO[bytes]) -> np.ndarray:
    shape, items = _unpickle(stream)
    if len(items) > _MAX_ITEMS or not all(type(item) in (float, int) for item in items):
        raise pickle.UnpicklingError("it is not an array of Python floats")
    return np.array(items, dtype=np.float64).reshape(shape)


def _mel_and_shift(stream: IO[bytes]) -> np.ndarray:
    """Return the mel of a pair (mel, key shift) with the shift as a further column."""
    _, items = _unpickle(stream)
    mel, shift = items if len(items) == 2 else (None, None)
    if not isinstance(mel, _Array) or mel.code != "f" or type(shift) not in (float, int):
        raise pickle.UnpicklingError("it is not a pair of a float32 mel and a key shift")
    shape = _shape(mel)
    if not isinstance(mel.items, bytes) or len(shape) != 2:
        raise pickle.UnpicklingError("its mel is not (frames, bands)")
    # The original's mel is a transposed view, whose memory is written as it lies.
    numbers = np.frombuffer(mel.items, dtype="<f4").reshape(
        shape, order="F" if mel.fortran else "C"
    )
    return np.hstack([numbers, np.full((len(numbers), 1), shift, dtype=np.float64)])


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
    return _checked(path, _floats)


def read_augmented(path: Path) -> np.ndarray:
    """Read an augmented mel, ours or the original's pair of a mel and its key shift.

    Args:
        path: the .npy file.

    Returns:
        float32 (N, M + 1): the log-mel, and in the last column its key shift in semitones.

    Raises:
        MissingFileError: no such file.
        DatasetError: damaged, or refused because it asks for anything but such a pair.
    """
    return _checked(path, _mel_and_shift)


def array_shape(path: Path) -> tuple[int, ...]:
    """Return the shape of a .npy file by its header alone. Raises like `read_array`."""
    with _readable(path), path.open("rb") as stream:
        return _header(stream)[0]


def _checked(path: Path, unpickle: Callable[[IO[bytes]], np.ndarray]) -> np.ndarray:
    with _readable(path):
        return _read(path, unpickle)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
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


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy_format.read_magic(stream)
    read_header = (
        npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    )
    shape, fortran, dtype = read_header(stream)
    return shape, fortran, dtype


def _read(path: Path, unpickle: Callable[[IO[bytes]], np.ndarray]) -> np.ndarray:
    with path.open("rb") as stream:
        _, _, dtype = _header(stream)
        if dtype == np.dtype(object):
            array = unpickle(stream)
        else:
            array = np.load(path, allow_pickle=False)
            if not np.issubdtype(array.dtype, np.number):
                raise ValueError(f"it holds {array.dtype}, not numbers")
    with np.errstate(all="ignore"):  # what overflows becomes infinite and is refused
        small = array.astype(np.float32)
    if not np.isfinite(small).all():
        raise ValueError("it holds numbers that are not finite")
    return small
