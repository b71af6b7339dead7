"""Loading a voice for inference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svc.checkpoint import load_checkpoint, load_state, strip_prefix
from svc.config import SvcConfig
from svc.empty_nets import shapes_only
from svc.errors import CheckpointError
from svc.synthesizer.check import NEXT_STEP, check_state
from svc.synthesizer.model import Synthesizer
from svc.vocoder.weight_norm import respell_state

_POSTERIOR = "enc_q."


def state_from_checkpoint(checkpoint: Mapping[str, Any], *, what: str) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint dictionary: its entry ``model``, or the dictionary itself.

    Args:
        checkpoint: from `load_checkpoint`.
        what: the file, for the message.

    Raises:
        CheckpointError: it holds no tensors by name.
    """
    state = checkpoint.get("model", checkpoint)
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f'{what} has no entry "model" with weights; is it the right file?')
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if len(tensors) != len(state):
        raise CheckpointError(f'{what} has no entry "model" with weights; is it the right file?')
    return strip_prefix(tensors)


def load_synthesizer(
    path: str | Path,
    config: SvcConfig,
    *,
    device: torch.device | str = "cpu",
    compat: bool = False,
) -> Synthesizer:
    """Load a voice for inference.

    Args:
        path: `G_*.pth`, a released or compressed file (half precision, no posterior encoder), or
            `.safetensors`.
        config: its config.
        device: where the net shall live.
        compat: see `Synthesizer`.

    Returns:
        The net in eval mode: float32, weight norm folded, without its posterior encoder.

    Raises:
        MissingFileError: no such file.
        CheckpointError: damaged, refused, or trained with another config.
    """
    what = str(path)
    state = state_from_checkpoint(load_checkpoint(path), what=what)
    check_state(state, config, what=what)
    with shapes_only():  # every value comes from the file: skip the random initialisation
        model = Synthesizer.from_config(config, compat=compat)
    model.enc_q = None
    model.to_empty(device="cpu")
    load_state(
        model,
        respell_state(state, model),
        what=what,
        allow_unexpected=(_POSTERIOR,),
        hint=f"Next: {NEXT_STEP}",
    )
    model.fold_weight_norm()
    return model.eval().requires_grad_(False).to(device)
