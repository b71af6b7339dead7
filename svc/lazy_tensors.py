"""Tensors as the pickle of a torch file describes them: checked, and not read yet.

Every number comes from the file. A description is only made if the tensor lies inside its storage and the sizes stay
far from what overflows; what may be called to make one is the table of `Descriptions.names`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from svc.safe_pickle import Builder, Name, UnsupportedError

_MAX_INTEGER = 1 << 48  # of sizes and strides: torch counts in 64 bits
_FREE_BYTES = 64 << 20
_SWELL = 4  # all tensors together may be this many times the file, plus the line above

_STORAGES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}
_DTYPES = (
    "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32",
    "uint64", "bool", "complex32", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
    "float8_e5m2fnuz",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _StorageType:
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class _Kind:
    """A class that stands in a file only as the type of a tensor."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """Part of a storage in the file: elements start..start + count of the one called `key`."""

    key: str
    dtype: torch.dtype
    start: int
    count: int


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """A tensor in the file, checked to lie inside its storage. `offset` and `stride` in elements of `dtype`."""

    key: str
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    conjugate: bool = False
    negative: bool = False


def _integers(value: Any) -> tuple[int, ...]:
    if type(value) not in (tuple, torch.Size) or not all(
        type(item) is int and 0 <= item <= _MAX_INTEGER for item in value
    ):
        raise ValueError("a size or stride that is no tuple of whole numbers")
    return tuple(value)


def _size(items: Any = ()) -> torch.Size:
    return torch.Size(_integers(tuple(items)))


def _device(kind: Any, index: Any = None) -> torch.device:
    if type(kind) is not str or (index is not None and type(index) is not int):
        raise ValueError("a device that is no text")
    return torch.device(kind) if index is None else torch.device(kind, index)


@dataclass
class Descriptions:
    """What the pickle of a torch file says about tensors, collected and checked; nothing is read here."""

    file_bytes: int
    # key: (elements, dtype)
    storages: dict[str, tuple[int, torch.dtype]] = field(default_factory=dict)
    storage_bytes: int = 0
    tensor_bytes: int = 0

    def names(self) -> dict[str, object]:
        """Return the table of everything that a file of tensors may name."""
        table: dict[str, object] = {
            "torch._utils._rebuild_tensor": Builder(self.tensor),
            "torch._utils._rebuild_tensor_v2": Builder(self.tensor),
            "torch._utils._rebuild_tensor_v3": Builder(self.tensor_of_dtype),
            "torch._utils._rebuild_parameter": Builder(self.parameter),
            "torch._utils._rebuild_parameter_with_state": Builder(self.parameter),
            "torch._tensor._rebuild_from_type_v2": Builder(self.typed),
            "torch.Size": Builder(_size),
            "torch.device": Builder(_device),
            "torch.Tensor": _Kind("Tensor"),
            "torch.nn.parameter.Parameter": _Kind("Parameter"),
        }
        untyped = _StorageType(torch.uint8)
        table |= {f"torch.{name}Storage": _StorageType(dtype) for name, dtype in _STORAGES.items()}
        table |= {f"torch.{name}": getattr(torch, name) for name in _DTYPES}
        table |= {"torch.UntypedStorage": untyped, "torch.storage.UntypedStorage": untyped}
        return table

    def storage(self, identity: object) -> Storage:
        """Stand for a storage: ("storage", type, key, device, elements[, view])."""
        if type(identity) is tuple and identity[:1] == ("module",):
            raise UnsupportedError("it holds a model object of Python, not its weights")
        if type(identity) is not tuple or len(identity) not in (5, 6) or identity[0] != "storage":
            raise ValueError("an odd reference to data outside the pickle")
        _, kind, key, _device_name, count, view = (*identity, None)[:6]
        if type(kind) is not _StorageType or type(key) not in (str, int):
            raise ValueError("a storage without type or key")
        if type(count) is not int or count < 0:
            raise ValueError("a storage without length")
        if str(key) not in self.storages:
            self.storages[str(key)] = (count, kind.dtype)
            self.storage_bytes += count * kind.dtype.itemsize
        known, dtype = self.storages[str(key)]
        if known * dtype.itemsize != count * kind.dtype.itemsize:
            raise ValueError("a storage of two lengths")
        if self.storage_bytes > self.file_bytes:
            raise ValueError("storages larger than the file")
        if view is None:
            return Storage(str(key), kind.dtype, 0, count)
        # Early versions of torch wrote views of storages: (key, first element, elements).
        _, start, length = view
        if type(start) is not int or type(length) is not int or min(start, length) < 0:
            raise ValueError("an odd view of a storage")
        if start + length > count:
            raise ValueError("a view beyond its storage")
        return Storage(str(key), kind.dtype, start, length)

    def tensor(
        self,
        storage: Any,
        offset: Any,
        size: Any,
        stride: Any,
        requires_grad: Any = False,
        hooks: Any = None,
        metadata: Any = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> LazyTensor:
        """Describe a strided tensor. Hooks are forgotten, and whether it wants a gradient."""
        if type(storage) is not Storage or type(offset) is not int or offset < 0:
            raise ValueError("a tensor without storage")
        of = dtype or storage.dtype
        size, stride = _integers(size), _integers(stride)
        if len(size) != len(stride):
            raise ValueError("a tensor with other strides than axes")
        start, odd = divmod(storage.start * storage.dtype.itemsize, of.itemsize)
        elements = storage.count * storage.dtype.itemsize // of.itemsize
        count = 1
        for length in size:
            count *= length
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if odd or (count and last >= elements):
            raise ValueError("a tensor beyond its storage")
        self.tensor_bytes += count * of.itemsize
        # A stride of 0 makes any size of few bytes; filling in a real net with such must not fill the memory.
        if self.tensor_bytes > _SWELL * self.file_bytes + _FREE_BYTES:
            raise ValueError("tensors far larger than the file")
        bits = metadata if isinstance(metadata, dict) else {}
        return LazyTensor(
            storage.key,
            of,
            start + offset,
            size,
            stride,
            bool(bits.get("conj")),
            bool(bits.get("neg")),
        )

    def tensor_of_dtype(
        self,
        storage: Any,
        offset: Any,
        size: Any,
        stride: Any,
        requires_grad: Any,
        hooks: Any,
        dtype: Any,
        metadata: Any = None,
    ) -> LazyTensor:
        """Describe a tensor whose storage has no type, as dtypes without a storage class are saved."""
        if type(dtype) is not torch.dtype:
            raise ValueError("a tensor without dtype")
        return self.tensor(storage, offset, size, stride, metadata=metadata, dtype=dtype)

    def parameter(
        self, data: Any, requires_grad: Any = False, hooks: Any = None, state: Any = None
    ) -> LazyTensor:
        """Describe a parameter: its tensor."""
        if type(data) is not LazyTensor:
            raise ValueError("a parameter without tensor")
        return data

    def typed(self, rebuild: Any, kind: Any, arguments: Any, state: Any) -> LazyTensor:
        """Describe a tensor with attributes of its own, which are forgotten."""
        known = (self.tensor, self.tensor_of_dtype, self.parameter)
        if type(rebuild) is not Name or rebuild.build not in known or type(kind) is not _Kind:
            raise ValueError("a tensor of an unknown class")
        described = rebuild.build(*arguments)
        if type(described) is not LazyTensor:
            raise ValueError("a tensor that is none")
        return described
