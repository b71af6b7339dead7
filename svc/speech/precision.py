"""Half-precision weights where they pay: the matrices of a net, and nothing else."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn


def lower_precision(net: nn.Module, dtype: torch.dtype, keep: Collection[nn.Module] = ()) -> None:
    """Cast the weights of linear layers and convolutions in place.

    Norms, tables and single parameters stay float32, and every layer of this room casts its input
    to the precision of its weights, so sums over layers and statistics are float32 as well.

    Args:
        net: a net of this room.
        dtype: float32 leaves everything as it is.
        keep: modules that stay float32: first convolutions, which hear the raw wave, whose quiet
            samples are below the smallest normal float16.
    """
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv1d) and module not in keep:
            module.to(dtype)
