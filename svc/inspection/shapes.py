"""Nets without values, to compare the shapes of their tensors with those of a file."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from svc.checkpoint import classic_weight_norm_keys, load_state
from svc.errors import CheckpointError


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
