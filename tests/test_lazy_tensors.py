"""What a file says about its tensors is checked before it is believed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from svc.lazy_tensors import Descriptions
from svc.safe_pickle import _CONTAINERS, Builder, Name, UnsupportedError

STORAGE = Descriptions(10**6).names()["torch.FloatStorage"]


def described(file_bytes: int = 1000, count: int = 10) -> tuple[Descriptions, Any]:
    descriptions = Descriptions(file_bytes)
    return descriptions, descriptions.storage(("storage", STORAGE, "0", "cpu", count))


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (11,), (1,)),
        (1, (10,), (1,)),
        (10, (), ()),
        (0, (2, 5), (6, 1)),
        (0, (2,), (1 << 47,)),
        (-1, (1,), (1,)),
        (0, (-1,), (1,)),
        (0, (1,), (-1,)),
        (0, (1 << 62,), (0,)),
        (0, (1 << 40,), (0,)),
        (0, (1 << 20, 1 << 20), (0, 0)),
        (0, (2, 2), (1,)),
        (True, (1,), (1,)),
        (0, [1], (1,)),
        (0, (1.0,), (1,)),
        (0, (True,), (1,)),
        (0, "1", (1,)),
        (None, (1,), (1,)),
    ],
)  # fmt: skip
def test_tensors_outside_their_storage_are_not_described(
    offset: Any, size: Any, stride: Any
) -> None:
    descriptions, storage = described()
    assert descriptions.tensor(storage, 0, (2, 5), (5, 1)).size == (2, 5)
    with pytest.raises(ValueError, match=r"^(a tensor|tensors|a size or stride) "):
        descriptions.tensor(storage, offset, size, stride)


@pytest.mark.parametrize(
    "identity",
    [
        "storage", 7, None, (), ("storage",), ("storages", STORAGE, "0", "cpu", 1),
        (("storage",), STORAGE, "0", "cpu", 1), ("storage", "FloatStorage", "0", "cpu", 1),
        ("storage", torch.float32, "0", "cpu", 1), ("storage", STORAGE, "0", "cpu", -1),
        ("storage", STORAGE, "0", "cpu", 1.0), ("storage", STORAGE, None, "cpu", 1),
        ("storage", STORAGE, "0", "cpu", 251), ("storage", STORAGE, "0", "cpu", 1, None, None),
        ("storage", STORAGE, "0", "cpu", 1 << 80), ("storage", STORAGE, "1", "cpu", 2),
    ],
    ids=lambda identity: repr(identity)[-40:],
)  # fmt: skip
def test_odd_references_are_refused(identity: Any) -> None:
    descriptions = Descriptions(1000)
    descriptions.storage(("storage", STORAGE, "1", "cpu", 1))
    with pytest.raises(ValueError, match=r"storages? |reference "):
        descriptions.storage(identity)
    with pytest.raises(UnsupportedError, match="model object"):
        descriptions.storage(("module", "Net", "net.py", "source"))


def test_all_storages_together_fit_in_the_file_and_tensors_are_not_much_larger() -> None:
    descriptions = Descriptions(1000)
    for key in range(25):
        descriptions.storage(("storage", STORAGE, str(key), "cpu", 10))
    with pytest.raises(ValueError, match="storages larger than the file"):
        descriptions.storage(("storage", STORAGE, "25", "cpu", 1))
    descriptions, storage = described()
    for _ in range(64):
        descriptions.tensor(storage, 0, (1 << 18,), (0,))
    with pytest.raises(ValueError, match="far larger than the file"):
        descriptions.tensor(storage, 0, (1 << 18,), (0,))


def test_only_tensors_are_rebuilt_as_tensors() -> None:
    descriptions, storage = described()
    table = descriptions.names()
    plain = Name("torch._utils._rebuild_tensor_v2", descriptions.tensor)
    arguments = (storage, 0, (2,), (1,))
    assert descriptions.typed(plain, table["torch.Tensor"], arguments, {}).size == (2,)
    odd = [
        (Name("os.system", None), table["torch.Tensor"], arguments),
        (Name("torch.Size", lambda *a: a), table["torch.Tensor"], arguments),
        (descriptions.tensor, table["torch.Tensor"], arguments),
        (Name("torch._tensor._rebuild_from_type_v2", descriptions.typed), table["torch.Tensor"], arguments),
        (plain, Name("fairseq.X", None), arguments),
        (plain, torch.Tensor, arguments),
    ]  # fmt: skip
    for rebuild, kind, given in odd:
        with pytest.raises(ValueError, match="unknown class"):
            descriptions.typed(rebuild, kind, given, {})
    with pytest.raises(ValueError, match="without tensor"):
        descriptions.parameter([1])
    with pytest.raises(ValueError, match="without dtype"):
        descriptions.tensor_of_dtype(storage, 0, (2,), (1,), False, None, "float32")


def test_the_table_holds_nothing_that_could_run_code() -> None:
    """Builders are this project's own functions; all else is dtypes and markers."""
    for name, entry in {**_CONTAINERS, **Descriptions(1).names()}.items():
        if isinstance(entry, Builder):
            assert entry.build.__module__.startswith("svc."), name
        else:
            assert isinstance(entry, torch.dtype) or not callable(entry), name
