"""F0 files of the original are read without unpickling anything but floats."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svc.dataset.old_arrays import read_array
from svc.errors import DatasetError, MissingFileError


def object_pair(f0: list[float], uv: list[float]) -> np.ndarray:
    return np.asanyarray((np.array(f0), np.array(uv)), dtype=object)


def write_body(path: Path, body: bytes, shape: tuple[int, ...] = (2, 3)) -> None:
    """Write a .npy with an object header and the given pickle."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|O", "fortran_order": False, "shape": shape}
    )
    path.write_bytes(stream.getvalue() + body)


def test_the_originals_form(tmp_path: Path) -> None:
    path = tmp_path / "a.wav.f0.npy"
    pair = object_pair([220.5, 221.25, 0.0], [1.0, 1.0, 0.0])
    np.save(path, pair)
    assert pair.dtype == object
    assert type(pair[0, 0]) is float
    with pytest.raises(ValueError, match="allow_pickle"):
        np.load(path, allow_pickle=False)
    read = read_array(path)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, np.array([[220.5, 221.25, 0], [1, 1, 0]], np.float32))


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_every_writer_of_object_arrays(tmp_path: Path, protocol: int, module: str) -> None:
    body = pickle.dumps(object_pair([1.5, 2, 3], [1, 0, 1]), protocol=protocol)
    for name in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        if name in body:  # same pickle, as another numpy names it
            head, tail = body.split(name)
            if protocol >= 4:
                head = head[:-1] + bytes([len(module)])
            body = head + module.encode() + tail
            break
    if protocol >= 4:  # the frame length no longer fits; frames are optional
        body = body[:2] + body[11:] if body[2:3] == b"\x95" else body
    write_body(tmp_path / "f.npy", body)
    np.testing.assert_array_equal(
        read_array(tmp_path / "f.npy"), np.array([[1.5, 2, 3], [1, 0, 1]], np.float32)
    )


def test_fortran_order_and_plain_arrays(tmp_path: Path) -> None:
    pair = object_pair([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    np.save(tmp_path / "f.npy", np.asfortranarray(pair))
    np.testing.assert_array_equal(read_array(tmp_path / "f.npy"), pair.astype(np.float32))
    for dtype in (np.float32, np.float64, np.int64):
        np.save(tmp_path / "p.npy", pair.astype(dtype))
        np.testing.assert_array_equal(read_array(tmp_path / "p.npy"), pair.astype(np.float32))


class Hostile:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("nested", [False, True])
def test_a_hostile_file_is_refused_and_does_nothing(tmp_path: Path, nested: bool) -> None:
    trap = tmp_path / "pwned"
    evil: Any = Hostile(os.mkdir, str(trap))
    body = pickle.dumps(evil if not nested else np.array([[1.0, evil], [2.0, 3.0]], dtype=object))
    write_body(tmp_path / "evil.npy", body)
    with pytest.raises(DatasetError, match=r"mkdir, which could run any code"):
        read_array(tmp_path / "evil.npy")
    assert not trap.exists()


@pytest.mark.parametrize(
    "function", [eval, exec, getattr, np.load, np.frombuffer, np.ndarray, pickle.loads, open]
)
def test_other_callables_are_refused(tmp_path: Path, function: Callable[..., Any]) -> None:
    write_body(tmp_path / "evil.npy", pickle.dumps(Hostile(function, "1")))
    with pytest.raises(DatasetError):
        read_array(tmp_path / "evil.npy")


@pytest.mark.parametrize(
    "value",
    [
        np.array(["a", "b"], dtype=object),
        np.array([[1.0, None]], dtype=object),
        np.array([True, 1.0], dtype=object),
        np.array([[1.0, [2.0]]], dtype=object),
        [1.0, 2.0],
        "text",
        np.arange(3.0),
    ],
    ids=["text", "none", "bool", "list", "no array", "string", "float array inside"],
)
def test_anything_but_floats_is_refused(tmp_path: Path, value: Any) -> None:
    write_body(tmp_path / "x.npy", pickle.dumps(value))
    with pytest.raises(DatasetError, match="svc preprocess --stage features"):
        read_array(tmp_path / "x.npy")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with pytest.raises(MissingFileError, match=r"a\.npy is not there"):
        read_array(path)
    np.save(path, object_pair([1.0] * 50, [1.0] * 50))
    whole = path.read_bytes()
    for size in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:size])
        with pytest.raises(DatasetError, match=r"a\.npy"):
            read_array(path)
    np.save(path, np.array(["a"]))
    with pytest.raises(DatasetError, match="not numbers"):
        read_array(path)
    np.save(path, np.arange(4.0))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DatasetError):
        read_array(path)


def test_random_garbage_never_escapes(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "a.npy"
    np.save(path, object_pair([1.0] * 20, [1.0] * 20))
    whole = bytearray(path.read_bytes())
    for _ in range(300):
        broken = bytearray(whole)
        for position in rng.integers(0, len(whole), size=4):
            broken[position] = rng.integers(256)
        path.write_bytes(broken)
        with contextlib.suppress(DatasetError):
            assert np.isfinite(read_array(path)).all()
