"""What driving two adversaries means to the loop, whatever they make: epochs, steps, log lines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from svc.config import TrainConfig
from svc.training import figures
from svc.training.journal import Journal
from svc.training.trouble import Trouble, Watched

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


class Learners(Watched, Protocol[Batch_contra]):
    """Two nets that take a step together."""

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
        train: its rates, and how much trouble it takes to go back.
        run_dir: folder of the run.
        journal: where to log.
        advice: what the user can change where losses are not finite.
        shown: losses of the progress line, with their digits.
    """

    def __init__(
        self,
        nets: Learners[Batch_contra],
        train: TrainConfig,
        run_dir: Path,
        journal: Journal,
        *,
        advice: str,
        shown: Mapping[str, int],
    ) -> None:
        self._nets, self._train, self.journal, self._shown = nets, train, journal, dict(shown)
        self.losses: dict[str, float] = {}
        self.epoch = 1
        self._detail: StepDetail | None = None
        self.trouble = Trouble(
            nets, run_dir, journal, self.roll_back, max_bad=train.max_bad_steps, advice=advice
        )

    def start_epoch(self, epoch: int) -> None:
        """Set the learning rate while it warms up."""
        self.epoch = epoch
        warmup = self._train.warmup_epochs
        if epoch <= warmup:
            self._nets.set_learning_rate(self._train.learning_rate * epoch / warmup)

    def finish_epoch(self, epoch: int, seconds: float) -> None:
        """Decay the learning rate (ExponentialLR, spec_core 7.1)."""
        self._nets.decay_learning_rate(self._train.lr_decay)
        self.journal.note(f"epoch {epoch} done in {seconds:.1f} s")

    def step(self, batch: Batch_contra, step: int, *, detailed: bool) -> None:
        """Train on one batch."""
        detail = self._nets.step(batch, step, detailed=detailed)
        self._detail = detail or self._detail
        self.trouble.look(step, self.epoch)

    def roll_back(self, back: int) -> Path | None:
        """Fill everything from a checkpoint of the run, see `rollback`; returns its path, or None."""
        raise NotImplementedError

    # ---- log lines -------------------------------------------------------------------------------

    def log(self, step: int, rate: float, waiting: float) -> str:
        """Write scalars and pictures of the last detailed step."""
        detail = self._detail
        if detail is None:
            return ""
        losses = {name: float(value) for name, value in detail.losses.items()}
        self._detail = None
        if not all(map(math.isfinite, losses.values())):
            return f"{rate:.2g}/s wait {waiting:.0%} skipped"
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
        norms = {name: float(value) for name, value in detail.gradient_norms.items()}
        self.journal.record(
            "train", step, epoch=self.epoch, losses=losses, learning_rate=lr, gradient_norms=norms,
            steps_per_second=rate, data_wait=waiting,
        )  # fmt: skip
        images = {
            tag: figures.spectrogram_image(mel.cpu().numpy()) for tag, mel in detail.mels.items()
        }
        for tag, curves in detail.curves.items():
            plain = {label: values.float().cpu().numpy() for label, values in curves.items()}
            images[tag] = figures.curves_image(plain)
        self.journal.images(images, step)
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
        return " ".join([f"{rate:.2g}/s wait {waiting:.0%}", *short])
