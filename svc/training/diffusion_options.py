"""What training a diffusion model is asked to do, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from svc.errors import ConfigError
from svc.training.options import check_numbers, clips_asked


@dataclass(frozen=True)
class DiffusionTrainOptions:
    """Everything ``svc train-diff`` can be told. ``None`` leaves the value of the config file."""

    config: Path = Path("configs/diffusion.yaml")
    """The config file; what it means is written into the run folder as ``config.yaml``."""
    expdir: Path | None = None
    """Folder of the run, instead of ``env.expdir``."""
    device: str | None = None
    """``cpu``, ``cuda``, ``cuda:1`` ...; None takes the config's, or the best there is."""
    threads: int | None = None
    """Threads of the CPU's maths; None leaves torch's choice."""
    max_steps: int | None = None
    """Optimiser steps to reach, counted over the whole run, resumed parts included."""
    max_minutes: float | None = None
    """Wall-clock limit of this call; the run is saved when it is reached."""
    epochs: int | None = None
    """Last epoch, inclusive."""
    seed: int = 1234
    """Seed of initial weights, shuffling, crops, augmentation, and the noise of every step."""
    resume: str = "auto"
    """``auto`` (newest model of the run folder), ``never``, or the path of a model_*.pt."""
    num_workers: int | None = None
    """Loader processes."""
    batch_size: int | Literal["auto"] | None = None
    """Clips per step; ``auto`` finds it out, and a run that goes on keeps it."""
    max_bad_steps: int = 10
    """Steps in a row without a finite loss after which the run goes back to its newest checkpoint."""
    learning_rate: float | None = None
    """AdamW learning rate before it decays."""
    log_interval: int | None = None
    """Steps between two log lines."""
    eval_interval: int | None = None
    """Steps between two validations, each with a save."""
    patience: int | None = None
    """Validations without a lower loss after which the run ends; None goes on."""
    keep: int = 1
    """Newest saves to keep, besides those of ``train.interval_force_save``; 0 keeps all."""
    val_samples: int = 4
    """Held-out clips that are sung at each validation; all count for the loss."""

    def __post_init__(self) -> None:
        """Check every value that does not depend on a file."""
        whole = (
            "threads", "max_steps", "epochs", "log_interval", "eval_interval", "max_bad_steps", "patience",
        )  # fmt: skip
        check_numbers(
            {**{name: getattr(self, name) for name in whole}, **clips_asked(self.batch_size)},
            {name: getattr(self, name) for name in ("learning_rate", "max_minutes")},
            self.seed,
        )
        for name in ("num_workers", "keep", "val_samples"):
            count = getattr(self, name)
            if count is not None and count < 0:
                raise ConfigError(f"--{name} is {count}, and must be 0 or more")


@dataclass(frozen=True)
class DiffusionTrainResult:
    """Where a run stands when it ends."""

    run_dir: Path
    """Folder of the run."""
    step: int
    """Optimiser steps done over the whole run."""
    epoch: int
    """Epoch of the last step, counted from 1."""
    steps_run: int
    """Steps done by this call."""
    seconds: float
    """Wall time of this call's training, without loading."""
    reason: str
    """Why it ended: ``max_steps``, ``epochs``, ``max_minutes``, ``patience``, ``SIGINT`` or
    ``SIGTERM``.
    """
    model: Path | None
    """The newest model."""
    best: Path | None
    """The one with the lowest loss on held-out clips."""
    losses: dict[str, float]
    """"loss" of the last logged step, "validation" of the last validation."""
    trouble: str | None = None
    """A line about steps that were skipped; None where there was none."""
