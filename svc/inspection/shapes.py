"""Nets without values, to compare the shapes of their tensors with those of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from svc.checkpoint import classic_weight_norm_keys, load_state
from svc.errors import CheckpointError


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


def folded_shapes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state with plain weights in place of those with weight norm; only shapes are right."""
    classic = classic_weight_norm_keys(state)
    folded = {}
    for name, tensor in classic.items():
        if name.endswith("weight_v") and name[:-1] + "g" in classic:
            folded[name[:-2]] = tensor
        elif not (name.endswith("weight_g") and name[:-1] + "v" in classic):
            folded[name] = tensor
    return folded


def misfit(net: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """Return how a state differs from what a net needs, in one line; None where it fits.

    Args:
        net: made within `shapes_only`.
        state: tensors by the net's names; their values do not matter.
    """
    try:
        load_state(net, state, what="it")
    except CheckpointError as error:
        return str(error)
    return None
