"""One training step of a diffusion model: a net, an optimiser, one loss (spec_diffusion 6 and 11)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from svc.config import DiffusionConfig
from svc.config.diffusion import DiffusionTrain
from svc.diffusion.unit2mel import Unit2Mel
from svc.errors import ConfigError
from svc.synthesizer.blocks import at_least_float32
from svc.training.descent import descend
from svc.training.diffusion_clips import DiffusionBatch
from svc.training.draws import ClipDraws, diffusion_noise
from svc.training.microbatch import Dice, MicroBatches, cut
from svc.training.numerics import FiniteGuard, adamw, all_finite, half_dtype, make_scaler
from svc.training.ranks import Ranks

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
        self.micro = MicroBatches(device)
        self.ranks = Ranks.single()

    @property
    def learning_rate(self) -> float:
        """Learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The net, whose optimizer is in `optimizers`."""
        return (self.model,)

    @property
    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """Its optimizer."""
        return (self.optimizer,)

    def sound(self) -> bool:
        """Return whether all weights are finite numbers; waits for the device."""
        return all_finite(self.modules)

    def step(self, batch: DiffusionBatch, step: int, *, detailed: bool) -> DiffusionDetail | None:
        """Train on one batch, in parts where it does not fit into memory.

        A step whose loss or gradient is not finite is left out on the device, and `guard` is told.

        Args:
            batch: on any device.
            step: number of the step, from 1.
            detailed: return what is logged.

        Returns:
            What is logged, for a detailed step.

        Raises:
            DeviceError: not even one clip fits into memory.
        """
        count, n_frames, n_mels = batch.mel.shape
        draws = ClipDraws(self.seed, step, batch.numbers, self.device)
        times, noise = diffusion_noise(draws, self.model.k_step_max, n_mels, n_frames)
        batch = batch.to(self.device)
        self.optimizer.param_groups[0]["lr"] = learning_rate(self.config.train, step)

        def attempt(parts: list[slice]) -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            losses = []
            for where in parts:
                weight = batch.shares.clips * len(batch.names[where]) / count
                losses.append(self._teach(cut(batch, where), times[where], noise[where], weight))
            return torch.stack(losses).sum()

        dice = Dice(self.device)
        loss = self.micro.run(count, attempt, dice.restore)
        bad = torch.zeros((), dtype=torch.bool, device=self.device)
        norm, bad = descend(self, self.optimizer, [loss], bad)
        self.scaler.update()
        sums = [x.flatten(1).sum(1) for x in (batch.mel, batch.units, batch.f0, batch.volume)]
        sound = torch.isfinite(torch.stack(sums)).all(0)
        values = {"loss": loss, "gradient norm g": norm}
        self.guard.watch(step, batch.names, values, bad, sound)
        return DiffusionDetail(loss, norm) if detailed else None

    def _teach(self, batch: DiffusionBatch, times: Tensor, noise: Tensor, weight: float) -> Tensor:
        """Add the gradients of some clips; returns their share of the loss."""
        mel = at_least_float32(batch.mel)
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            loss = self.model.loss(
                mel.transpose(1, 2),
                at_least_float32(batch.units),
                batch.f0,
                batch.volume,
                batch.speaker,
                aug_shift=batch.aug_shift,
                times=times,
                noise=noise.to(mel.dtype),
            )
        loss = loss * weight
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()
