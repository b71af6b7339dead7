"""Nets without values: to be filled from a file, or to compare shapes with those of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class _NoValues(TorchFunctionMode):
    """Leaves out what only changes values: random draws, products with a number, norms.

    On tensors without values they do nothing, but for them torch loads its compiler, which takes
    longer than all else here.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return given.get("tensor", args[0] if args else None)
        if func in (torch.rand, torch.randn):
            return torch.empty(*args, **given)
        if func == Tensor.mul and not isinstance(args[1], Tensor):
            return args[0]
        if func == torch.linalg.vector_norm and given.get("keepdim"):
            norm = args[0]
            for axis in given["dim"]:
                norm = norm.narrow(axis, 0, 1)
            return norm
        return func(*args, **given)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Modules made in this context have parameters of the right shapes and no values."""
    with torch.device("meta"), _NoValues():
        yield
