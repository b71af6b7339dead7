"""What training a mel vocoder is asked to do, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from svc.devices import precision_dtype
from svc.errors import ConfigError
from svc.training.options import TrainResult, check_numbers, clips_asked
from svc.training.vocoder_files import Best


@dataclass(frozen=True)
class VocoderTrainOptions:
    """Everything ``svc train-vocoder`` can be told. ``None`` leaves the value of the config file."""

    dataset: Path = Path("dataset/44k")
    """Clips with the feature files of svc preprocess: a folder with one sub-folder per voice, the
    folder of one voice, or a file list.
    """
    output: Path = Path("logs/vocoder")
    """Folder of the run."""
    config: Path | None = None
    """``config.json`` of a vocoder; None takes the run's own where it goes on, else that of
    `base`, else the template.
    """
    base: Path | None = None
    """A vocoder to begin from: its folder or weights. Not read where a run goes on."""
    validation: Path | None = None
    """List or folder of clips to hold out; None holds out the last `val_clips`."""
    val_clips: int = 2
    """See `validation`."""
    device: str | None = None
    """``cpu``, ``cuda``, ``cuda:1`` ...; None takes the best there is."""
    precision: str | None = None
    """``fp32``, ``bf16`` or ``fp16`` (a CUDA device): of the nets; losses are float32."""
    threads: int | None = None
    """Threads of the CPU's maths; None leaves torch's choice."""
    max_steps: int | None = None
    """Optimiser steps to reach, counted over the whole run, resumed parts included."""
    max_minutes: float | None = None
    """Wall-clock limit of this call; the run is saved when it is reached."""
    epochs: int | None = None
    """Last epoch, inclusive."""
    seed: int | None = None
    """Seed of initial weights, shuffling, crops, gains and the source's noise."""
    resume: str = "auto"
    """``auto`` (newest checkpoint of the run), ``never``, or the path of a V_*.pth."""
    log_interval: int | None = None
    """Steps between two log lines."""
    eval_interval: int | None = None
    """Steps between two evaluations, each with a save and an export."""
    batch_size: int | Literal["auto"] | None = None
    """Crops per step; ``auto`` finds it out, and a run that goes on keeps it."""
    max_bad_steps: int | None = None
    """Steps in a row without a finite loss after which the run goes back to its newest checkpoint."""
    segment_frames: int | None = None
    """Frames of a crop."""
    learning_rate: float | None = None
    """AdamW learning rate of both nets at epoch 1."""
    patience: int | None = None
    """Evaluations without a better score after which the run ends; None goes on."""
    keep: int | None = None
    """Newest pairs of V and D to keep; 0 keeps all."""

    def __post_init__(self) -> None:
        """Check every value that does not depend on a file."""
        names = (
            "threads", "max_steps", "epochs", "log_interval", "eval_interval", "max_bad_steps",
            "segment_frames", "patience",
        )  # fmt: skip
        check_numbers(
            {**{name: getattr(self, name) for name in names}, **clips_asked(self.batch_size)},
            {"lr": self.learning_rate, "max_minutes": self.max_minutes},
            self.seed,
        )
        for name in ("val_clips", "keep"):
            count = getattr(self, name)
            if count is not None and count < 0:
                raise ConfigError(f"--{name} is {count}, and must be 0 or more")
        if self.precision is not None:
            precision_dtype(self.precision)


@dataclass(frozen=True)
class VocoderTrainResult(TrainResult):
    """Where a run stands when it ends; `generator` is the newest ``V_<step>.pth``."""

    exported: Path | None
    """The newest vocoder to sing with."""
    best: Path | None
    """The one with the smallest distance on held-out clips."""
    best_score: Best | None
    """How good that is."""
