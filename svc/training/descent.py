"""The last part of a step: gradients averaged over processes, measured, and followed unless a number is
not finite; decided on the device, for which nobody waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from svc.training.microbatch import MicroBatches
from svc.training.numerics import gradient_norm
from svc.training.ranks import Ranks


class Learner(Protocol):
    """What is trained."""

    scaler: torch.amp.GradScaler
    micro: MicroBatches
    ranks: Ranks


def descend(
    learner: Learner, optimizer: torch.optim.Optimizer, losses: Iterable[Tensor], bad: Tensor
) -> tuple[Tensor, Tensor]:
    """Take a step along the gradients, which are complete, or leave it out.

    Args:
        learner: whose step it is.
        optimizer: from `numerics.adamw`.
        losses: that the gradients are of, each ().
        bad: () bool; where it is set the step is left out.

    Returns:
        The gradient norm, (), and whether the step was bad, () bool: `bad`, or something was not
        finite, in any process. It is left out and not bad where only the gradients overflow, and
        that because the loss scaler amplifies them: it will do so less.
    """
    parameters = optimizer.param_groups[0]["params"]
    learner.micro.spare(lambda: learner.ranks.average(parameters))
    learner.scaler.unscale_(optimizer)
    norm = gradient_norm(parameters)
    lost = ~torch.isfinite(torch.stack(list(losses))).all()
    bad, wild = learner.ranks.any(bad | lost), ~torch.isfinite(norm)
    leave = bad | wild
    learner.micro.spare(lambda: step_unless(optimizer, leave))
    if learner.scaler.is_enabled():
        wild = wild & (learner.scaler.scale(torch.ones((), device=norm.device)) < 1)
    return norm, bad | wild


def step_unless(optimizer: torch.optim.Optimizer, leave: Tensor) -> None:
    """Take a step unless a flag is set.

    Args:
        optimizer: its gradients are unscaled.
        leave: () bool, on the device of the parameters. Where it is set, weights, moments and the
            count of steps stay as they are.
    """
    if not optimizer.param_groups[0]["fused"]:
        if not bool(leave):
            optimizer.step()
        return
    # What torch.amp.GradScaler does with fused optimizers, whose kernels look at the flag.
    told: Any = optimizer
    told.grad_scale, told.found_inf = None, leave.to(torch.float32)
    try:
        optimizer.step()
    finally:
        del told.grad_scale, told.found_inf
