"""Arrays of numpy in a pickle: what numpy writes is read; what it would believe of a damaged file is not."""

from __future__ import annotations

import io
import os
import pickle
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.checkpoint import load_checkpoint, load_restricted
from svc.errors import CheckpointError
from svc.pickled_arrays import PickledArray, array_names
from svc.safe_pickle import Builder, Inert, RefusedError, UnsupportedError, read_pickle


def read(program: bytes) -> Any:
    found = read_pickle(io.BytesIO(program), array_names())
    return found.array() if type(found) is PickledArray else found


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


DTYPE = b"cnumpy\ndtype\n" + text("f4") + b"\x89\x88\x87R"
DTYPE_STATE = b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
START = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"


def array(
    shape: bytes = b"K\x02K\x03\x86",
    dtype: bytes = DTYPE + DTYPE_STATE,
    raw: bytes = b"C\x18" + bytes(24),
    *,
    order: bytes = b"\x89",
) -> bytes:
    """The pickle of an array (2, 3) of float32, with parts of it replaced."""
    return b"\x80\x04" + START + b"(K\x01" + shape + dtype + order + raw + b"tb."


ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(12, dtype=np.int32)[::2],
    np.array(3.5),
    np.zeros((0, 3), np.float32),
    np.zeros(0, np.uint8),
    np.array([True, False]),
    np.array([1.5, np.nan, np.inf], np.float16),
    np.arange(4, dtype=">f4"),
    np.asfortranarray(np.arange(6, dtype=">i2").reshape(3, 2)),
    np.frombuffer(bytes(range(256)), np.uint8),
    *(np.ones(2, dtype) for dtype in ("i1", "u2", "u4", "u8")),
]


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("value", ARRAYS, ids=lambda value: f"{value.dtype.str}{value.shape}")
def test_reads_what_numpy_writes(value: np.ndarray, protocol: int) -> None:
    ours = read(pickle.dumps(value, protocol))
    assert (ours.shape, ours.dtype) == (value.shape, value.dtype.newbyteorder("="))
    np.testing.assert_array_equal(ours, value)
    assert ours.flags.f_contiguous or not value.flags.f_contiguous
    ours[...] = 0  # writable


@pytest.mark.parametrize("protocol", range(2, 5))
def test_axes_in_any_order(protocol: int) -> None:
    value = np.arange(24, dtype=np.int64).reshape(2, 3, 4).transpose(2, 0, 1)
    np.testing.assert_array_equal(read(pickle.dumps(value, protocol)), value)


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_numpy_1_and_2_use_other_names(core: str) -> None:
    value = np.arange(6, dtype=np.float32)
    program = pickle.dumps(value, 2).replace(b"numpy._core", b"numpy.core")
    np.testing.assert_array_equal(read(program.replace(b"numpy.core", core.encode())), value)
    table = array_names()
    for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer"):
        assert isinstance(table[f"{core}.{name}"], Builder)


@pytest.mark.parametrize(
    "value", [np.float32(2.5), np.int64(-7), np.bool_(True), np.float64(1e300)]
)
def test_scalars_are_plain_numbers(value: Any) -> None:
    ours = read(pickle.dumps(value))
    assert type(ours) in (bool, int, float)
    assert ours == value


@pytest.mark.parametrize("zipped", [True, False])
def test_in_files_of_torch(tmp_path: Path, zipped: bool) -> None:
    shared = np.arange(6, dtype=np.float32).reshape(2, 3)
    value = {
        "a": {"centres": shared, "n": np.int32(4)},
        "b": [shared, (shared,)],
        "t": torch.ones(2),
    }
    path = tmp_path / "x.pt"
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    for mmap in (False, True):
        loaded = load_checkpoint(path, mmap=mmap)
        np.testing.assert_array_equal(loaded["a"]["centres"], shared)
        assert loaded["a"]["n"] == 4
        assert loaded["b"][0] is loaded["a"]["centres"] is loaded["b"][1][0]
        assert loaded["t"].tolist() == [1, 1]


def test_the_original_file_of_clusters(golden: Path) -> None:
    centres = load_checkpoint(golden / "golden_kmeans_50.pt")["spk"]["cluster_centers_"]
    assert (centres.shape, centres.dtype) == ((50, 24), np.float32)


def test_an_array_of_ten_thousand_centres_is_read_fast(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """More bytes than the longest pickle without arrays; a second here, most of it is torch's writing."""
    centres = rng.standard_normal((10_000, 768)).astype(np.float32)
    torch.save({"a": {"cluster_centers_": centres}}, tmp_path / "k.pt")
    start = time.perf_counter()
    loaded = load_checkpoint(tmp_path / "k.pt")["a"]["cluster_centers_"]
    assert time.perf_counter() - start < 10
    assert np.array_equal(loaded, centres)


def test_a_sound_array_by_hand() -> None:
    assert read(array()).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert read(array(order=b"\x88")).flags.f_contiguous
    assert read(array(b"K\x00\x85", raw=b"C\x00")).shape == (0,)


LONG = b"\x8a\x09" + b"\xff" * 7 + b"\x7f\x00"
SIZES = {
    "larger than its bytes": array(b"K\x02K\x04\x86"),
    "smaller than its bytes": array(b"K\x02K\x02\x86"),
    "negative": array(b"J\xfe\xff\xff\xffJ\xfd\xff\xff\xff\x86"),
    "minus one": array(b"K\x02J\xff\xff\xff\xff\x86"),
    "overflow": array(b"(" + LONG + LONG + b"K\x04t"),
    "overflow to its size": array(b"(J\x06\x00\x00\x00\x8a\x09" + b"\x00" * 8 + b"\x01" + b"K\x01t"),
    "no tuple": array(b"]"),
    "a float": array(b"G" + struct.pack(">d", 6.0) + b"\x85"),
    "a truth": array(b"\x88K\x06\x86"),
    "an array": array(START + b"\x85"),
    "33 axes": array(b"(" + b"K\x01" * 32 + b"K\x06t"),
    "bytes as text": array(raw=text("x" * 24)),
    "bytes as list": array(raw=b"]"),
    "bytes as an array": array(raw=START),
    "no bytes": array(raw=b"N"),
    "no dtype": array(dtype=b"N"),
    "dtype as text": array(dtype=text("f4")),
    "dtype as a class": array(dtype=b"cnumpy\ndtype\n"),
    "array as dtype": array(dtype=START),
    "an odd order": array(order=b"]"),
    "no state": b"\x80\x04" + START + b".",
    "a short state": b"\x80\x04" + START + b"(K\x01K\x02tb.",
    "a list as state": b"\x80\x04" + START + b"]b.",
    "another class": b"\x80\x04cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85C\x01b\x87R.",
    "a number as class": b"\x80\x04cnumpy.core.multiarray\n_reconstruct\nK\x01K\x00\x85C\x01b\x87R.",
    "the class called": b"\x80\x04cnumpy\nndarray\nK\x02\x85R.",
    "state of the class": b"\x80\x04cnumpy\nndarray\n}b.",
    "dtype with an odd byte order": array(dtype=DTYPE + DTYPE_STATE.replace(b"<", b"#")),
    "dtype with a number as byte order": array(dtype=DTYPE + b"(K\x03K\x04NNNtb"),
    "dtype with a list as byte order": array(dtype=DTYPE + b"(K\x03]NNNtb"),
    "dtype with a short state": array(dtype=DTYPE + b"(K\x03tb"),
    "a short scalar": b"\x80\x04cnumpy._core.multiarray\nscalar\n" + DTYPE + b"C\x03abc\x86R.",
    "a long scalar": b"\x80\x04cnumpy._core.multiarray\nscalar\n" + DTYPE + b"C\x05abcde\x86R.",
    "a scalar without bytes": b"\x80\x04cnumpy._core.multiarray\nscalar\n" + DTYPE + b"\x85R.",
    "a short buffer": b"\x80\x05cnumpy._core.numeric\n_frombuffer\n(C\x01x" + DTYPE + b"K\x06\x85" + text("C") + b"tR.",
}  # fmt: skip


@pytest.mark.parametrize("case", SIZES)
def test_sizes_that_do_not_agree_are_damage(case: str) -> None:
    """With numpy's own functions some of these are arrays of freed or foreign memory."""
    with pytest.raises(ValueError, match=r"damaged pickle: |array without content") as caught:
        read(SIZES[case])
    assert not isinstance(caught.value, RefusedError | UnsupportedError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "code",
    ["O", "O8", "|O", "S4", "U4", "V8", "M8", "f16", "c8", "f3", "f44", "", "float32", "f4,f4", "(2,)f4"],
)  # fmt: skip
def test_elements_that_are_no_plain_numbers_are_not_read(code: str) -> None:
    dtype = b"cnumpy\ndtype\n" + text(code) + b"\x89\x88\x87R"
    for program in (
        array(dtype=dtype),
        b"\x80\x04cnumpy._core.multiarray\nscalar\n" + dtype + b"C\x08" + bytes(8) + b"\x86R.",
    ):
        with pytest.raises(UnsupportedError, match="only arrays of plain numbers are read"):
            read(program)


def test_records_and_mixed_orders_are_not_read() -> None:
    records = DTYPE + b"(K\x03" + text("<") + b"N" + text("a") + b"\x85}J\xff\xff\xff\xfftb"
    with pytest.raises(UnsupportedError, match="array of records"):
        read(array(dtype=records))
    for value in (np.zeros(2, [("a", "f4")]), np.array([{}]), np.array(["x"])):
        for protocol in (2, 5):
            with pytest.raises((UnsupportedError, ValueError), match=r"array"):
                read(pickle.dumps(value, protocol))
    mixed = b"\x80\x05cnumpy._core.numeric\n_frombuffer\n(C\x04abcd" + DTYPE + b"K\x01\x85"
    assert read(mixed + text("C") + b"tR.").shape == (1,)
    for order in (text("K") + b"K\x00\x85", text("A"), b"N", b"]"):
        with pytest.raises(UnsupportedError, match="mixed order"):
            read(mixed + order + b"tR.")


def test_a_dtype_that_changes_later_does_not_change_the_array() -> None:
    """The bytes were checked against the dtype as it stood; each array keeps that."""
    dtype = b"q\x05" + DTYPE_STATE
    program = array(dtype=DTYPE + dtype)[:-1] + b"h\x05" + DTYPE_STATE.replace(b"<", b">") + b"0."
    assert read(program).dtype == np.dtype("f4")


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def test_objects_in_arrays_run_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    attack = Calls(os.mkdir, str(marker))
    holder = np.empty(1, object)
    holder[0] = attack
    for value in (holder, [np.zeros(2), attack], np.array(attack, dtype=object)):
        for protocol in (2, 4):
            torch.save({"a": value}, tmp_path / "x.pt", pickle_protocol=protocol)
            with pytest.raises(CheckpointError, match=r"x\.pt: (refused|cannot be read)"):
                load_checkpoint(tmp_path / "x.pt")
    for name in ("fromfile", "frombuffer", "_frombuffer"):
        program = f"\x80\x02cnumpy.core.multiarray\n{name}\n".encode("latin-1") + b")R."
        with pytest.raises(RefusedError, match=name):
            read(program)
    assert not marker.exists()


def test_one_piece_of_data_does_not_become_thousands_of_arrays() -> None:
    data = b"B" + struct.pack("<I", 100_000) + bytes(100_000)
    one = array(b"J" + struct.pack("<I", 25_000) + b"\x85", raw=data + b"q\x07")[2:-1]
    again = array(b"J" + struct.pack("<I", 25_000) + b"\x85", raw=b"h\x07")[2:-1]
    assert len(read_pickle(io.BytesIO(b"\x80\x04](" + one + b"e."), array_names())) == 1
    with pytest.raises(ValueError, match="again and again"):
        read_pickle(io.BytesIO(b"\x80\x04](" + one + 10 * again + b"e."), array_names())


def test_in_bookkeeping_arrays_stay_inert_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": np.float32(1), "t": torch.ones(1)}, path)
    assert type(load_restricted(path)["a"]) is Inert
    torch.save({"a": np.ones(2)}, path)
    with pytest.raises(CheckpointError, match=r"call numpy\._core\.multiarray\._reconstruct"):
        load_restricted(path)


def test_every_cut_of_a_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": np.arange(4.0)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


def test_the_table_holds_nothing_that_could_run_code() -> None:
    for name, entry in array_names().items():
        assert name.startswith("numpy.")
        if isinstance(entry, Builder):
            assert entry.build.__module__ == "svc.pickled_arrays"
        else:
            assert not callable(entry)
