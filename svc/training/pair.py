"""A generator and its discriminator with everything that makes them learn: what training a voice and
training a vocoder have in common (spec_core 7.1, 7.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from svc.config import TrainConfig
from svc.synthesizer.losses import GeneratorLosses, discriminator_loss
from svc.training.descent import descend
from svc.training.machine import arrange
from svc.training.microbatch import Dice, MicroBatches
from svc.training.numerics import (
    FiniteGuard,
    all_finite,
    autocast_dtype,
    make_adamw,
    make_scaler,
)
from svc.training.ranks import Ranks, Shares
from svc.training.source import begin_source
from svc.vocoder.discriminator import Discriminator, Judgement

Net_co = TypeVar("Net_co", bound=nn.Module, covariant=True)


Pictures = tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]
"""Log-mels (M, N) by picture; pitch curves (N,) by picture and label."""


@dataclass(frozen=True)
class Made:
    """What the generator has made of some clips of a batch."""

    real: Tensor
    """(b, 1, T) recorded audio."""
    fake: Tensor
    """(b, 1, T) float32, generated."""
    losses: Callable[[Judgement | None], GeneratorLosses]
    """The generator's losses, as their share of the batch's, from the judgement of the updated
    discriminator; from None while that rests.
    """
    draw: Callable[[], Pictures]
    """What of the first clip is drawn."""


Make = Callable[[slice, Shares], Made]
"""Lets the generator make some clips of a batch; told which, and their weights in the whole."""


class NetPair(Generic[Net_co]):
    """Two nets, two optimisers, a number format and a watch on the losses.

    Args:
        generator: makes audio.
        discriminator: judges it.
        train: learning rate, precision, `gan_start_step` and `source_weight`.
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
        begin_source(generator, train.source_weight)
        self.dtype = autocast_dtype(train, device)
        self.generator = generator.to(device).train()
        self.discriminator = discriminator.to(device).train()
        arrange((self.generator, self.discriminator), device, self.dtype)
        self.optim_g = make_adamw(self.generator, train)
        self.optim_d = make_adamw(self.discriminator, train)
        self.scaler = make_scaler(self.dtype, device)
        self.guard = FiniteGuard(device)
        self.micro = MicroBatches(device)
        self.ranks = Ranks.single()

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

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """Both nets, whose optimizers are `optimizers`."""
        return self.generator, self.discriminator

    @property
    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """Both optimizers."""
        return self.optim_g, self.optim_d

    def sound(self) -> bool:
        """Return whether all weights are finite numbers; waits for the device."""
        return all_finite(self.modules)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which the nets compute in their reduced precision."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    # ---- a step ----------------------------------------------------------------------------------

    def learn(
        self, make: Make, lengths: Sequence[int], shares: Shares, step: int, names: tuple[str, ...]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Callable[[], Pictures]]:
        """Let both nets take a step, the discriminator first (spec_core 7.2, points 2 to 5).

        Before `train.gan_start_step` the discriminator rests. Where the batch does not fit into
        memory it goes through in parts: all of them through the discriminator's step, then all of
        them again, with the same random numbers, through the generator's. (With spectral norm its
        power iteration advances with every part.)

        A step with a loss or gradient that is not finite is left out on the device, and `guard` is
        told. The generator is judged by the updated discriminator, so where that has nothing
        finite to learn, neither learns; the other way round the discriminator has taken its step
        by then, from finite numbers, and keeps it.

        Args:
            make: see `Make`.
            lengths: frames of each clip, without padding.
            shares: weights of this batch in the whole batch of all processes.
            step: number of the step, from 1.
            names: clips of the batch.

        Returns:
            Losses, with "total" and "disc", and gradient norms "g" and "d", 0-dimensional; and
            `Made.draw` of the first clips.

        Raises:
            DeviceError: not even one clip fits into memory.
        """
        work = _Pass(self, make, lengths, shares)
        losses: dict[str, Tensor] = {}
        norms: dict[str, Tensor] = {}
        bad = torch.zeros((), dtype=torch.bool, device=self.device)

        # ---- discriminator step ------------------------------------------------------------------
        adversarial = step >= self.train_config.gan_start_step
        if adversarial:
            losses["disc"] = self.micro.run(len(lengths), work.discriminate, work.undo)
            norms["d"], bad = descend(self, self.optim_d, losses.values(), bad)

        # ---- generator step, judged by the updated discriminator, which itself stays as it is ----
        self.discriminator.requires_grad_(False)
        try:
            made = self.micro.run(
                len(lengths), lambda parts: work.generate(parts, adversarial), work.undo
            )
        finally:
            self.discriminator.requires_grad_(True)
        norms["g"], bad = descend(self, self.optim_g, made.losses.values(), bad)
        self.scaler.update()

        losses |= made.losses
        values = {name: value for name, value in losses.items() if name != "total"}
        values |= {f"gradient norm {name}": norm for name, norm in norms.items()}
        self.guard.watch(step, names, values, bad, made.sound)
        return losses, norms, made.draw


@dataclass(frozen=True)
class _Generated:
    losses: dict[str, Tensor]  # of the whole batch
    sound: Tensor  # (B,) bool: clips whose audio is finite
    draw: Callable[[], Pictures]  # of the first clips


class _Pass:
    """One batch on its way through both nets, in one part or several."""

    def __init__(
        self, nets: NetPair[nn.Module], make: Make, lengths: Sequence[int], shares: Shares
    ) -> None:
        self.nets, self._make, self._lengths, self._shares = nets, make, lengths, shares
        self._whole: list[Made] = []  # a batch in one part is made once for both nets
        self._dice = Dice(nets.device)

    def undo(self) -> None:
        """Go back to where dropout has drawn nothing and nothing is kept."""
        self._whole.clear()
        self._dice.restore()

    def discriminate(self, parts: list[slice]) -> Tensor:
        """Collect the discriminator's gradients; returns its loss."""
        self.nets.optim_d.zero_grad(set_to_none=True)
        # What a part has taken is gone before the next one begins: nothing of it is kept here.
        return torch.stack([self._judge(where, keep=len(parts) == 1) for where in parts]).sum()

    def _judge(self, where: slice, *, keep: bool) -> Tensor:
        nets, shares = self.nets, self._weigh(where)
        with torch.set_grad_enabled(keep):
            made = self._make(where, shares)
        with nets.autocast():
            real_scores, fake_scores = nets.discriminator(made.real, made.fake.detach())[:2]
        loss = discriminator_loss(real_scores, fake_scores)[0] * shares.clips
        self._backward(loss)
        if keep:
            self._whole.append(made)
        return loss.detach()

    def generate(self, parts: list[slice], judged: bool) -> _Generated:
        """Collect the generator's gradients, with a judgement or without."""
        self.nets.optim_g.zero_grad(set_to_none=True)
        if not self._whole:
            self._dice.restore()
        losses: dict[str, Tensor] = {}
        sound, draw = [], None
        for where in parts:
            made, parted = self._improve(where, judged)
            for name, value in parted.items():
                losses[name] = losses[name] + value if name in losses else value
            sound.append(torch.isfinite(made.fake.detach()).flatten(1).all(1))
            draw = draw or made.draw
            del made
        if draw is None:
            raise ValueError("a batch has at least one clip")
        return _Generated(losses, torch.cat(sound), draw)

    def _improve(self, where: slice, judged: bool) -> tuple[Made, dict[str, Tensor]]:
        nets = self.nets
        made = self._whole.pop() if self._whole else self._make(where, self._weigh(where))
        judgement: Judgement | None = None
        if judged:
            with nets.autocast():
                judgement = nets.discriminator(made.real, made.fake)
        loss = made.losses(judgement)
        self._backward(loss.total)
        return made, {**loss.parts, "total": loss.total.detach()}

    def _weigh(self, where: slice) -> Shares:
        clips = len(self._lengths[where]) / len(self._lengths)
        frames = sum(self._lengths[where]) / sum(self._lengths)
        whole = self._shares
        return Shares(whole.clips * clips, whole.frames * frames, whole.cells * clips)

    def _backward(self, loss: Tensor) -> None:
        self.nets.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
