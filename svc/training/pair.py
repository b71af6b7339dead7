"""A generator and its discriminator with everything that makes them learn: what training a voice and
training a vocoder have in common (spec_core 7.1, 7.2).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from svc.config import TrainConfig
from svc.synthesizer.losses import GeneratorLosses, discriminator_loss
from svc.training.numerics import (
    FiniteGuard,
    autocast_dtype,
    gradient_norm,
    make_adamw,
    make_scaler,
)
from svc.vocoder.discriminator import Discriminator, Judgement

Net_co = TypeVar("Net_co", bound=nn.Module, covariant=True)


class NetPair(Generic[Net_co]):
    """Two nets, two optimisers, a number format and a watch on the losses.

    Args:
        generator: makes audio.
        discriminator: judges it.
        train: learning rate, precision and `gan_start_step`.
        device: where to train.
    """

    def __init__(
        self,
        generator: Net_co,
        discriminator: Discriminator,
        train: TrainConfig,
        device: torch.device,
    ) -> None:
        self.train_config, self.device = train, device
        self.dtype = autocast_dtype(train, device)
        self.generator = generator.to(device).train()
        self.discriminator = discriminator.to(device).train()
        self.optim_g = make_adamw(self.generator, train)
        self.optim_d = make_adamw(self.discriminator, train)
        self.scaler = make_scaler(self.dtype, device)
        self.guard = FiniteGuard(device)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the generator now."""
        return float(self.optim_g.param_groups[0]["lr"])

    def set_learning_rate(self, value: float) -> None:
        """Set the learning rate of both nets."""
        for optimizer in (self.optim_g, self.optim_d):
            optimizer.param_groups[0]["lr"] = value

    def decay_learning_rate(self, gamma: float) -> None:
        """Multiply both learning rates."""
        for optimizer in (self.optim_g, self.optim_d):
            optimizer.param_groups[0]["lr"] *= gamma

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which the nets compute in their reduced precision."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def learn(
        self,
        real: Tensor,
        fake: Tensor,
        loss_of: Callable[[Judgement | None], GeneratorLosses],
        step: int,
        names: tuple[str, ...],
        *,
        measure: bool,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Let both nets take a step, the discriminator first (spec_core 7.2, points 2 to 5).

        Before `train.gan_start_step` the discriminator rests.

        Args:
            real: (B, 1, T) recorded audio.
            fake: (B, 1, T) float32, generated, with its graph.
            loss_of: the generator's losses from the judgement of the updated discriminator; from
                None while that rests.
            step: number of the step, from 1.
            names: clips of the batch.
            measure: measure gradient norms.

        Returns:
            Losses, with "total" and "disc", and gradient norms "g" and "d"; 0-dimensional.

        Raises:
            SvcError: a loss is not finite; names the clips.
        """
        losses: dict[str, Tensor] = {}
        norms: dict[str, Tensor] = {}

        # ---- discriminator step ------------------------------------------------------------------
        adversarial = step >= self.train_config.gan_start_step
        if adversarial:
            with self.autocast():
                real_scores, fake_scores, _, _ = self.discriminator(real, fake.detach())
            loss_d, _ = discriminator_loss(real_scores, fake_scores)
            losses["disc"] = loss_d.detach()
            self.guard.watch(losses, step, names)
            norms |= self._descend(self.optim_d, loss_d, "d", measure=measure)

        # ---- generator step, judged by the updated discriminator, which itself stays as it is ----
        self.discriminator.requires_grad_(False)
        judgement: Judgement | None = None
        if adversarial:
            with self.autocast():
                judgement = self.discriminator(real, fake)
        loss_g = loss_of(judgement)
        losses |= {**loss_g.parts, "total": loss_g.total.detach()}
        self.guard.watch(loss_g.parts, step, names)
        norms |= self._descend(self.optim_g, loss_g.total, "g", measure=measure)
        self.discriminator.requires_grad_(True)
        self.scaler.update()
        return losses, norms

    def _descend(
        self, optimizer: torch.optim.Optimizer, loss: Tensor, name: str, *, measure: bool
    ) -> dict[str, Tensor]:
        optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        norms = {}
        if measure:
            self.scaler.unscale_(optimizer)
            norms[name] = gradient_norm(optimizer.param_groups[0]["params"])
        self.scaler.step(optimizer)
        return norms
