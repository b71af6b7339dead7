"""What a run writes down: a log file, and TensorBoard events of training and of evaluations."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from svc.atomic import make_folder, output_error

logger = logging.getLogger(__name__)


class Journal:
    """The log file and the two event writers of a run.

    Args:
        run_dir: folder of the run; it is created.
        first_step: first step this call will train. Earlier events from that step on are hidden
            by TensorBoard: they belong to work that a kill took with it and that is done again.
        log_name: the text file.
        events: sub-folder of the event files.
        evaluation: sub-folder of that for the events of evaluations; None = no writer of their own.

    Raises:
        OutputError: the folder cannot be written.
    """

    def __init__(
        self,
        run_dir: Path,
        first_step: int,
        *,
        log_name: str = "train.log",
        events: str = "",
        evaluation: str | None = "eval",
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        make_folder(run_dir)
        try:
            self._log = (run_dir / log_name).open("a", encoding="utf-8")
            folder = run_dir / events
            self._train: Any = SummaryWriter(str(folder), purge_step=first_step)
            self._eval: Any = self._train
            if evaluation is not None:
                self._eval = SummaryWriter(str(folder / evaluation), purge_step=first_step)
        except OSError as error:
            raise output_error(run_dir, error) from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.note(f"ended by {type(error).__name__}: {error}")
        self.close()

    def note(self, text: str, *, level: int = logging.INFO) -> None:
        """Write one line to the log file and to the logger."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._log.write(f"{stamp}\t{logging.getLevelName(level)}\t{text}\n")
        self._log.flush()
        logger.log(level, "%s", text)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers of the training writer."""
        for tag, value in values.items():
            self._train.add_scalar(tag, value, step)

    def images(self, images: Mapping[str, npt.NDArray[np.uint8]], step: int) -> None:
        """Write pictures (H, W, 3) of the training writer."""
        for tag, image in images.items():
            self._train.add_image(tag, image, step, dataformats="HWC")

    def eval_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers of the evaluation writer."""
        for tag, value in values.items():
            self._eval.add_scalar(tag, value, step)

    def eval_images(self, images: Mapping[str, npt.NDArray[np.uint8]], step: int) -> None:
        """Write pictures (H, W, 3) of the evaluation writer."""
        for tag, image in images.items():
            self._eval.add_image(tag, image, step, dataformats="HWC")

    def eval_audio(
        self, audio: Mapping[str, npt.NDArray[np.float32]], step: int, sampling_rate: int
    ) -> None:
        """Write sound, each (T,) in [-1, 1], of the evaluation writer."""
        for tag, wav in audio.items():
            self._eval.add_audio(tag, wav[None], step, sample_rate=sampling_rate)

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self._train.flush()
        self._eval.flush()

    def close(self) -> None:
        """Close all files."""
        self._train.close()
        self._eval.close()
        self._log.close()
