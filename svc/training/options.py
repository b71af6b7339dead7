"""What a training run is asked to do, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from svc.errors import ConfigError
from svc.training.best import Record


def check_numbers(
    whole: Mapping[str, int | None], positive: Mapping[str, float | None], seed: int | None
) -> None:
    """Check the numbers of a command line; None was not given.

    Args:
        whole: flags that must be 1 or more.
        positive: flags that must be above 0.
        seed: must not be negative.

    Raises:
        ConfigError: names the flag and its value.
    """
    for name, count in whole.items():
        if count is not None and count < 1:
            raise ConfigError(f"--{name} is {count}, and must be 1 or more")
    for name, value in positive.items():
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"--{name} is {value}, and must be above 0")
    if seed is not None and not 0 <= seed < 2**63:
        raise ConfigError(f"--seed is {seed}, and must be 0 or more")


def clips_asked(batch_size: int | str | None) -> dict[str, int | None]:
    """Return ``--batch_size`` as a number to check; ``auto`` is none. Raises ConfigError."""
    if isinstance(batch_size, str) and batch_size != "auto":
        raise ConfigError(f"--batch_size is {batch_size!r}, and must be a number or auto")
    return {"batch_size": batch_size if isinstance(batch_size, int) else None}


@dataclass(frozen=True)
class TrainOptions:
    """Everything ``svc train`` can be told. ``None`` leaves the value of the config file."""

    model: str
    """Name of the run; its folder is ``run_root/model``."""
    config: Path = Path("configs/config.json")
    """The config file; it is copied into the run folder."""
    device: str | None = None
    """``cpu``, ``cuda``, ``cuda:1`` ...; None takes the best there is."""
    threads: int | None = None
    """Threads of the CPU's maths; None leaves torch's choice. Networks as small as the quick
    template's have no work for a second one: waiting for each other costs more than it brings.
    """
    max_steps: int | None = None
    """Optimiser steps to reach, counted over the whole run, resumed parts included."""
    max_minutes: float | None = None
    """Wall-clock limit of this call; the run is saved when it is reached."""
    epochs: int | None = None
    """Last epoch, inclusive."""
    seed: int | None = None
    """Seed of initial weights, shuffling, dropout and crops."""
    resume: str = "auto"
    """``auto`` (newest checkpoint of the run folder), ``never``, or the path of a G_*.pth."""
    log_interval: int | None = None
    """Steps between two log lines."""
    eval_interval: int | None = None
    """Steps between two evaluations with a save."""
    batch_size: int | Literal["auto"] | None = None
    """Clips per step; ``auto`` finds it out, and a run that goes on keeps it."""
    max_bad_steps: int | None = None
    """Steps in a row without a finite loss after which the run goes back to its newest checkpoint."""
    learning_rate: float | None = None
    """AdamW learning rate of both nets at epoch 1."""
    patience: int | None = None
    """Evaluations without a better score after which the run ends; None goes on."""
    ema: bool = True
    """Keep an average of the weights, as `train.ema_decay` says; False: none."""
    keep: int | None = None
    """Newest pairs of G and D to keep; 0 keeps all."""
    precision: str | None = None
    """``auto``, ``fp32``, ``bf16`` or ``fp16`` instead of `train.fp16_run` and `train.half_type`."""
    compile: bool = False
    """Compile decoder and discriminator (torch.compile); takes minutes at the start."""
    force: bool = False
    """Go on where tensors, speakers or the model section differ from the checkpoint."""
    run_root: Path = Path("logs")
    """Folder of all runs."""

    def __post_init__(self) -> None:
        """Check every value that does not depend on a file."""
        if not self.model or Path(self.model).name != self.model or self.model in {".", ".."}:
            raise ConfigError(
                f"--model {self.model!r} is not a name: give one folder name without slashes; "
                "the folder above it is --run_root"
            )
        whole = (
            "threads", "max_steps", "epochs", "log_interval", "eval_interval", "max_bad_steps", "patience",
        )  # fmt: skip
        check_numbers(
            {**{name: getattr(self, name) for name in whole}, **clips_asked(self.batch_size)},
            {name: getattr(self, name) for name in ("learning_rate", "max_minutes")},
            self.seed,
        )
        if self.keep is not None and self.keep < 0:
            raise ConfigError(f"--keep is {self.keep}, and must be 0 or more")

    @property
    def run_dir(self) -> Path:
        """Folder of the run."""
        return Path(self.run_root) / self.model


@dataclass(frozen=True)
class TrainResult:
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
    generator: Path | None
    """The newest G checkpoint."""
    discriminator: Path | None
    """The newest D checkpoint."""
    losses: dict[str, float]
    """Losses at the last logged step."""
    scores: dict[str, float]
    """Of this call's last evaluation."""
    best: Path | None
    """What scored best on held-out clips."""
    record: Record | None
    """What it scored."""
    trouble: str | None = field(default=None, kw_only=True)
    """A line about steps that were skipped; None where there was none."""
