"""One training step of a diffusion model: a net, an optimiser, one loss (spec_diffusion 6 and 11)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from svc.config import DiffusionConfig
from svc.config.diffusion import DiffusionTrain
from svc.diffusion.unit2mel import Unit2Mel
from svc.errors import ConfigError
from svc.training.diffusion_clips import DiffusionBatch
from svc.training.numerics import FiniteGuard, adamw, gradient_norm, half_dtype, make_scaler

_BETAS, _EPS = (0.9, 0.999), 1e-8
_PRECISIONS = ("fp32", "fp16", "bf16")


def learning_rate(train: DiffusionTrain, step: int) -> float:
    """Return the rate of optimiser step number `step` (from 1): lr · gamma^⌊max(step − 2, 0) / decay_step⌋.

    It depends on nothing but the step, so it is the same after a resume (spec_diffusion 11).
    """
    return float(train.lr * train.gamma ** (max(step - 2, 0) // train.decay_step))


def amp_dtype(train: DiffusionTrain, device: torch.device) -> torch.dtype | None:
    """Return the reduced precision of `train.amp_dtype`, or None for float32.

    Raises:
        ConfigError: an unknown name, or the device cannot do it.
    """
    if train.amp_dtype not in _PRECISIONS:
        raise ConfigError(f'"train.amp_dtype" is "{train.amp_dtype}"; use {", ".join(_PRECISIONS)}')
    if train.amp_dtype == "fp32":
        return None
    return half_dtype(train.amp_dtype, device, key="train.amp_dtype", off="to fp32")


@dataclass(frozen=True)
class DiffusionDetail:
    """What a logged step shows; 0-dimensional tensors on the device."""

    loss: Tensor
    gradient_norm: Tensor


class DiffusionLearner:
    """A diffusion model with everything that makes it learn.

    Args:
        config: the whole config.
        device: where to train.
        n_mels: mel bands of the vocoder.
        seed: of initial weights, and of the times and the noise of every step.
    """

    def __init__(
        self, config: DiffusionConfig, device: torch.device, *, n_mels: int, seed: int
    ) -> None:
        self.config, self.device, self.seed = config, device, seed
        self.dtype = amp_dtype(config.train, device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = Unit2Mel.from_config(config, n_mels=n_mels)
        self.model = model.to(device).train()
        train = config.train
        self.optimizer = adamw(
            self.model, lr=train.lr, betas=_BETAS, eps=_EPS, weight_decay=train.weight_decay
        )
        self.scaler = make_scaler(self.dtype, device)
        self.guard = FiniteGuard(device)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, batch: DiffusionBatch, step: int, *, detailed: bool) -> DiffusionDetail | None:
        """Train on one batch.

        Args:
            batch: on any device.
            step: number of the step, from 1.
            detailed: measure what is logged.

        Returns:
            What is logged, for a detailed step.

        Raises:
            SvcError: the loss is not finite; names the clips.
        """
        batch = batch.to(self.device)
        self.optimizer.param_groups[0]["lr"] = learning_rate(self.config.train, step)
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            loss = self.model.loss(
                batch.mel.float().transpose(1, 2),
                batch.units.float(),
                batch.f0,
                batch.volume,
                batch.speaker,
                aug_shift=batch.aug_shift,
                generator=self._draws(step),
            )
        self.guard.watch({"loss": loss}, step, batch.names)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        norm = torch.zeros(())
        if detailed:
            self.scaler.unscale_(self.optimizer)
            norm = gradient_norm(self.model.parameters())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return DiffusionDetail(loss.detach(), norm) if detailed else None

    def _draws(self, step: int) -> torch.Generator:
        """Return the random numbers of a step: of its own, so that a resume needs no state."""
        # On the device, where millions of numbers per step cost nothing.
        number = np.random.SeedSequence([self.seed, step]).generate_state(1, np.uint64)[0]
        return torch.Generator(self.device).manual_seed(int(number))
