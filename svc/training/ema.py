"""The average of a net's weights over the last steps, which sings with less noise than the weights of
any one step (Polyak averaging; used by training of GANs since arXiv:1806.04498).

Averaged are the parameters as they are trained: of a weight-normalised convolution g and v, not
their product. v counts by its direction alone (w = g · v / ‖v‖), and within the hundreds of steps
that an average remembers that direction turns by so little that the mean of the vectors points where
the mean of the directions does, to second order. The averaged net keeps the names of a checkpoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

WEIGHTS = "ema"
"""Key of the ``svc`` entry of a checkpoint: averaged parameters by name."""
UPDATES = "ema_updates"
"""Key of the ``svc`` entry: steps in the average."""


class Ema:
    """An exponential moving average of the parameters of a net, on the net's device.

    Costs the memory of the parameters once more. Nothing waits for the device.

    Args:
        module: the net; it is read at every update.
        decay: share of the average that stays at a step, in 0...1. The first steps use less,
            (1 + n) / (10 + n) after n of them, so that the initial weights are forgotten soon.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of an average is from 0 up to 1, not {decay}")
        self.decay, self.updates = decay, 0
        named: dict[str, Tensor] = dict(module.named_parameters())  # a shared one once
        self._names, self._parameters = list(named), list(named.values())
        self._averages = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step.

        After a step that was skipped they are the same as before it, which does no harm.
        """
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._averages, self._parameters, 1 - decay)
        self.updates += 1

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Let the net hold the averaged weights for a while; its own come back bit for bit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        # By value: whatever holds on to the parameters (optimizer, compiled code) keeps them.
        for parameter, average in zip(self._parameters, self._averages, strict=True):
            held = parameter.clone()
            parameter.copy_(average)
            average.copy_(held)

    def keys(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, for its ``svc`` entry: float32 tensors on the CPU."""
        plain = {
            name: average.detach().to("cpu", torch.float32).contiguous()
            for name, average in zip(self._names, self._averages, strict=True)
        }
        return {WEIGHTS: plain, UPDATES: self.updates}

    @torch.no_grad()
    def restore(self, extra: Mapping[str, Any] | None) -> str:
        """Go on from a checkpoint; what it does not hold begins as the net's weights are now.

        Args:
            extra: the ``svc`` entry of the checkpoint; None = there is none.

        Returns:
            One line for the log.
        """
        saved = (extra or {}).get(WEIGHTS)
        known: Mapping[str, Tensor] = saved if isinstance(saved, Mapping) else {}
        kept = 0
        for name, parameter, average in zip(
            self._names, self._parameters, self._averages, strict=True
        ):
            there = name in known and known[name].shape == parameter.shape
            average.copy_(known[name] if there else parameter)
            kept += there
        self.updates = int((extra or {}).get(UPDATES, 0)) if kept else 0
        if not kept:
            return "the average of the weights begins with the weights as they are"
        return f"average of the weights: {kept} of {len(self._names)} tensors, {self.updates} steps"
