"""What driving two adversaries means to the loop, whatever they make: epochs, steps, log lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from svc.config import TrainConfig
from svc.errors import SvcError
from svc.training import figures
from svc.training.journal import Journal
from svc.training.numerics import FiniteGuard

_ORDER = ("disc", "gen", "fm", "mel", "kl")  # of the log line, spec_core 7.3
_JUDGED = ("total", "disc", "gen")  # losses with a scalar of another name, or none


@dataclass(frozen=True)
class StepDetail:
    """What a logged step shows; tensors on the device."""

    losses: dict[str, Tensor]
    """Weighted losses of the generator step, and "total" and "disc"; 0-dimensional."""
    gradient_norms: dict[str, Tensor]
    """"g" and "d"."""
    mels: dict[str, Tensor] = field(default_factory=dict)
    """Log-mels (M, N) of the first clip by picture, such as "slice/mel_org", "slice/mel_gen"."""
    curves: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """Pitch curves (N,) of the first clip by picture and label."""


Batch_contra = TypeVar("Batch_contra", contravariant=True)


class Learners(Protocol[Batch_contra]):
    """Two nets that take a step together."""

    guard: FiniteGuard

    @property
    def learning_rate(self) -> float:
        """Learning rate of the generator now."""

    def set_learning_rate(self, value: float) -> None:
        """Set the learning rate of both nets."""

    def decay_learning_rate(self, gamma: float) -> None:
        """Multiply both learning rates."""

    def step(self, batch: Batch_contra, step: int, *, detailed: bool) -> StepDetail | None:
        """Train on one batch."""


class AdversarialTask(Generic[Batch_contra]):
    """The part of a `loop.Task` that does not know what is generated.

    Args:
        nets: what learns.
        train: its rates and its batch size.
        journal: where to log.
        shown: losses of the progress line, with their digits.
    """

    def __init__(
        self,
        nets: Learners[Batch_contra],
        train: TrainConfig,
        journal: Journal,
        *,
        shown: Mapping[str, int],
    ) -> None:
        self._nets, self._train, self.journal, self._shown = nets, train, journal, dict(shown)
        self.losses: dict[str, float] = {}
        self._detail: StepDetail | None = None

    def start_epoch(self, epoch: int) -> None:
        """Set the learning rate while it warms up."""
        warmup = self._train.warmup_epochs
        if epoch <= warmup:
            self._nets.set_learning_rate(self._train.learning_rate * epoch / warmup)

    def finish_epoch(self, epoch: int, seconds: float) -> None:
        """Decay the learning rate (ExponentialLR, spec_core 7.1)."""
        self._nets.decay_learning_rate(self._train.lr_decay)
        self.journal.note(f"epoch {epoch} done in {seconds:.1f} s")

    def step(self, batch: Batch_contra, step: int, *, detailed: bool) -> None:
        """Train on one batch."""
        try:
            detail = self._nets.step(batch, step, detailed=detailed)
        except torch.cuda.OutOfMemoryError as error:
            raise SvcError(
                f"the GPU ran out of memory at step {step} with batch_size "
                f"{self._train.batch_size}; lower "
                '--batch_size, or set "train.fp16_run" to true; go on with the same command'
            ) from error
        self._detail = detail or self._detail

    def log(self, step: int, rate: float, waiting: float) -> str:
        """Write scalars and pictures of the last detailed step."""
        detail = self._detail
        if detail is None:
            return ""
        losses = {name: float(value) for name, value in detail.losses.items()}
        self.losses = losses
        lr = self._nets.learning_rate
        scalars = {"loss/g/total": losses["total"], "learning_rate": lr}
        if "disc" in losses:
            scalars["loss/d/total"] = losses["disc"]
        for name in ("g", "d"):
            if name in detail.gradient_norms:
                scalars[f"grad_norm_{name}"] = float(detail.gradient_norms[name])
        scalars |= {
            f"loss/g/{name}": value for name, value in losses.items() if name not in _JUDGED
        }
        self.journal.scalars(scalars, step)
        images = {
            tag: figures.spectrogram_image(mel.cpu().numpy()) for tag, mel in detail.mels.items()
        }
        for tag, curves in detail.curves.items():
            plain = {label: values.float().cpu().numpy() for label, values in curves.items()}
            images[tag] = figures.curves_image(plain)
        self.journal.images(images, step)
        self._detail = None
        shown = [f"{name} {losses[name]:.4g}" for name in _ORDER if name in losses]
        reference = sum(losses[name] for name in _ORDER if name in losses)
        self.journal.note(
            f"step {step}: {', '.join(shown)}, lr {lr:.6g}, reference_loss {reference:.4g}; "
            f"{rate:.2f} steps/s, {waiting:.0%} of the time waiting for data"
        )
        short = [
            f"{name} {losses[name]:.{digits}g}"
            for name, digits in self._shown.items()
            if name in losses
        ]
        return " ".join([f"{rate:.2g}/s", *short])
