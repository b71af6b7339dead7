"""Files of torch.save, both containers: every tensor as torch's own loader gives it, no byte of dropped ones read,
and whatever a file says about sizes is checked before it is believed.
"""

from __future__ import annotations

import gc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from svc.safe_pickle import Inert, RefusedError
from svc.torch_file import read_torch_file

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64, torch.complex128,
    torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip


@pytest.fixture(params=["zip", "stream"])
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    def write(value: Any, **options: Any) -> Path:
        path = tmp_path / "file.pt"
        torch.save(value, path, _use_new_zipfile_serialization=request.param == "zip", **options)
        return path

    return write


def assert_same(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs) or isinstance(theirs, nn.Parameter)
    if isinstance(theirs, Tensor):
        assert (ours.dtype, ours.shape, ours.stride(), ours.storage_offset()) == (
            theirs.dtype,
            theirs.shape,
            theirs.stride(),
            theirs.storage_offset(),
        )
        assert (ours.is_conj(), ours.device.type) == (theirs.is_conj(), "cpu")
        raw = [t.detach().resolve_conj().resolve_neg().contiguous() for t in (ours, theirs)]
        assert bytes(raw[0].flatten().view(torch.uint8)) == bytes(
            raw[1].flatten().view(torch.uint8)
        )
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key, value in theirs.items():
            assert_same(ours[key], value)
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs):
            assert_same(one, other)
    else:
        assert ours == theirs


def compare(path: Path, saved: Any, *, torch_fails: bool = False) -> None:
    """Ours, read and mapped, is what was saved, and what torch's loader gives."""
    for mapped in (False, True):
        ours = read_torch_file(path, mapped=mapped)
        assert_same(ours, saved)
        if torch_fails:  # of some dtypes torch writes stream files that it cannot read
            with pytest.raises(AttributeError, match="dtype"):
                torch.load(path, weights_only=True)
        else:
            assert_same(ours, torch.load(path, weights_only=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_layout(save: Callable[..., Path], dtype: torch.dtype) -> None:
    raw = torch.randint(0, 2, (6, 4, 16), dtype=torch.uint8, generator=torch.manual_seed(0))
    whole = raw.view(dtype)
    value = {
        "whole": whole,
        "transposed": whole.transpose(0, 1),
        "every other row": whole[1::2],
        "expanded": whole[:1].expand(5, -1, -1),
        "scalar": whole[0, 0, 0],
        "alone": whole[0, 0, 0].clone(),
        "empty": torch.empty(0, dtype=dtype),
        "empty with a size": torch.empty(3, 0, 2, dtype=dtype),
        "empty slice": whole[2:2],
    }
    path = save(value)
    untyped = b"_rebuild_tensor_v3" in path.read_bytes()
    compare(path, value, torch_fails=untyped and not zipfile.is_zipfile(path))


def test_values_beside_the_tensors(save: Callable[..., Path]) -> None:
    value = {
        "a": [1, 2.5, None, True, "é", b"bytes", (1, (2,)), {3}, 1 << 80],
        "size": torch.Size([1, 2]),
        "device": [torch.device("cpu"), torch.device("cuda", 1)],
        "dtype": [torch.float16, torch.bool],
        "b": OrderedDict(x=torch.ones(2), y={"z": [torch.zeros(1)]}),
        7: ((torch.arange(3),),),
    }
    compare(save(value), value)
    path = save(value, pickle_protocol=4)
    assert_same(read_torch_file(path), value)


def test_a_real_net_and_its_optimizer(save: Callable[..., Path]) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    value = {"model": net.state_dict(), "optimizer": optimizer.state_dict()}
    assert len(value["optimizer"]["state"]) == 4
    compare(save(value), value)


def test_parameters_and_tensors_with_attributes_are_plain_tensors(
    save: Callable[..., Path],
) -> None:
    marked = torch.ones(2)
    marked.note = "x"
    path = save([nn.Parameter(torch.ones(3)), torch.ones(1, requires_grad=True), marked])
    for tensor, length in zip(read_torch_file(path), (3, 1, 2)):
        assert type(tensor) is Tensor
        assert not tensor.requires_grad
        assert tensor.tolist() == [1] * length


def test_conjugate_and_negative_bits(save: Callable[..., Path]) -> None:
    value = torch.randn(4, dtype=torch.complex64)
    ours = read_torch_file(save(value.conj()))
    assert ours.is_conj()
    assert torch.equal(ours, value.conj())
    negative = value.conj().imag
    assert negative.is_neg()
    assert torch.equal(read_torch_file(save(negative)), -value.imag)


def test_shared_storages_stay_shared(save: Callable[..., Path]) -> None:
    base = torch.arange(10.0)
    path = save({"a": base, "b": base[2:5], "tied": [base, base], "c": torch.arange(10.0)})
    for mapped in (False, True):
        loaded = read_torch_file(path, mapped=mapped)
        loaded["a"][3] = 100
        assert loaded["b"].tolist() == [2, 100, 4]
        assert loaded["tied"][1][3] == 100
        assert loaded["c"][3] == 3
        assert loaded["tied"][0] is loaded["tied"][1]
    assert read_torch_file(path)["a"][3] == 3, "writing to a mapped tensor never reaches the file"


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_bare_storages_are_flat_tensors(save: Callable[..., Path]) -> None:
    loaded = read_torch_file(save([torch.arange(4.0).storage(), torch.ones(2).untyped_storage()]))
    assert loaded[0].tolist() == [0, 1, 2, 3]
    assert loaded[1].dtype == torch.uint8
    assert len(loaded[1]) == 8


def test_mapped_tensors_outlive_everything(save: Callable[..., Path]) -> None:
    path = save({f"w{i}": torch.full((999,), float(i)) for i in range(50)})
    tensors = read_torch_file(path, mapped=True)
    path.unlink()
    gc.collect()
    assert [float(tensor.sum()) for tensor in tensors.values()] == [999.0 * i for i in range(50)]


def test_zip_storages_are_mapped_and_others_read(tmp_path: Path) -> None:
    """Where a tensor's memory lies: inside the mapping of the file, or not."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux lists the mappings of a process")

    def is_mapped(tensor: Tensor) -> bool:
        for line in maps.read_text().splitlines():
            first, last = (int(part, 16) for part in line.split()[0].split("-"))
            if first <= tensor.data_ptr() < last:
                return line.endswith("file.pt")
        return False

    path = tmp_path / "file.pt"
    torch.save({"w": torch.ones(5000)}, path)
    assert is_mapped(read_torch_file(path, mapped=True)["w"])
    assert not is_mapped(read_torch_file(path)["w"])
    seen = set()
    for padding in range(16):
        torch.save(
            {"x" * padding: 0, "w": torch.ones(5000)}, path, _use_new_zipfile_serialization=False
        )
        tensor = read_torch_file(path, mapped=True)["w"]
        assert torch.equal(tensor, torch.ones(5000))
        assert tensor.data_ptr() % 16 == 0, "unaligned data is for no kernel"
        seen.add(is_mapped(tensor))
    assert seen == {False, True}


def test_dropped_keys_go_before_anything_is_read(
    save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save({"model": torch.ones(3), "last": {"m": torch.ones(1000)}, "more": 1})
    read: list[int] = []
    make = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: read.append(a[0]) or make(*a, **k))
    loaded = read_torch_file(path, drop=("last", "absent"))
    assert list(loaded) == ["model", "more"]
    assert max(read) == 12
    read_torch_file(path)
    assert max(read) == 4000


def test_inert_objects(save: Callable[..., Path]) -> None:
    import argparse

    path = save({"args": argparse.Namespace(w=torch.ones(3)), "w": torch.zeros(2)})
    with pytest.raises(RefusedError, match=r"argparse\.Namespace"):
        read_torch_file(path)
    loaded = read_torch_file(path, inert=True)
    assert type(loaded["args"]) is Inert
    assert loaded["w"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: torch.eye(3).to_sparse(), RefusedError, r"_rebuild_sparse_tensor"),
        (lambda: torch.empty(3, device="meta"), RefusedError, r"_rebuild_meta_tensor_no_storage"),
        (lambda: nn.Linear(2, 2), RefusedError, r"torch\.nn\.modules\.linear\.Linear"),
    ],
)  # fmt: skip
def test_other_kinds_of_tensors_are_named(
    save: Callable[..., Path], make: Callable[[], Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        read_torch_file(save({"x": make()}))
