"""What a run writes down: a log file, numbers for programs, and TensorBoard events of training and of
evaluations.

Nothing here can end a run: a disk that is full costs lines, not work. That is said once.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from svc.atomic import make_folder, output_error
from svc.training.events import EventFile

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
"""One JSON object a line, see `Journal.record`."""
_BLOCK = 4096  # bytes


class Journal:
    """The log file, the metrics and the two event writers of a run.

    Args:
        run_dir: folder of the run; it is created.
        first_step: first step this call will train. Earlier events from that step on are hidden
            by TensorBoard: they belong to work that a kill took with it and that is done again. The
            metrics get a line of kind "event" that says so.
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
        make_folder(run_dir)
        self._run_dir, self._troubled = run_dir, False
        try:
            self._log = (run_dir / log_name).open("a", encoding="utf-8")
            self._metrics = open_lines(run_dir / METRICS)
            folder = run_dir / events
            self._train = self._eval = EventFile(folder, first_step)
            if evaluation is not None:
                self._eval = EventFile(folder / evaluation, first_step)
        except OSError as error:
            raise output_error(run_dir, error) from error
        self.event("resume" if first_step > 1 else "start", first_step - 1)

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

    # ---- text ------------------------------------------------------------------------------------

    def note(self, text: str, *, level: int = logging.INFO) -> None:
        """Write one line to the log file and to the logger."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._put(_line, self._log, f"{stamp}\t{logging.getLevelName(level)}\t{text}")
        logger.log(level, "%s", text)

    def record(self, kind: str, step: int, **facts: Any) -> None:
        """Append a line to `METRICS`.

        Every line has "kind", "step" (steps done) and "time" (seconds since 1970). A kill can cost
        the last line, never an earlier one.

        Args:
            kind: "train", "validation" or "event".
            step: steps that are done.
            facts: numbers, texts, and lists and dictionaries of them. What is not a finite number
                becomes null, which JSON can say.
        """
        content = {"kind": kind, "step": step, "time": round(time.time(), 3), **facts}
        text = json.dumps(_plain(content), ensure_ascii=False, allow_nan=False)
        self._put(_line, self._metrics, text)

    def event(self, name: str, step: int, **facts: Any) -> None:
        """Append a line of kind "event": start, resume, best, patience ..."""
        self.record("event", step, event=name, **facts)

    # ---- TensorBoard -----------------------------------------------------------------------------

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers of the training writer."""
        for tag, value in values.items():
            self._put(self._train.add_scalar, tag, value, step)

    def images(self, images: Mapping[str, npt.NDArray[np.uint8]], step: int) -> None:
        """Write pictures (H, W, 3) of the training writer."""
        for tag, image in images.items():
            self._put(self._train.add_image, tag, image, step)

    def eval_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers of the evaluation writer."""
        for tag, value in values.items():
            self._put(self._eval.add_scalar, tag, value, step)

    def eval_images(self, images: Mapping[str, npt.NDArray[np.uint8]], step: int) -> None:
        """Write pictures (H, W, 3) of the evaluation writer."""
        for tag, image in images.items():
            self._put(self._eval.add_image, tag, image, step)

    def eval_audio(
        self, audio: Mapping[str, npt.NDArray[np.float32]], step: int, sampling_rate: int
    ) -> None:
        """Write sound, each (T,) in [-1, 1], of the evaluation writer."""
        for tag, wav in audio.items():
            self._put(self._eval.add_audio, tag, wav, step, sampling_rate)

    # ---- files -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Close all files."""
        for closing in (self._train.close, self._eval.close, self._metrics.close, self._log.close):
            self._put(closing)

    def _put(self, write: Callable[..., object], *what: Any, **how: Any) -> None:
        """Write; a disk that does not take it is told of once and changes nothing else."""
        try:
            write(*what, **how)
        except OSError as error:
            if not self._troubled:
                self._troubled = True
                logger.warning(
                    "%s; training goes on, and the log of this run has gaps from here on",
                    output_error(self._run_dir, error),
                )


def open_lines(path: Path) -> IO[str]:
    """Open a file of lines to append to; half a line that a kill left at its end is cut off."""
    if path.is_file():
        with path.open("rb+") as file:
            end = start = file.seek(0, 2)
            block = b""
            while start > 0 and b"\n" not in block:
                start = max(0, start - _BLOCK)
                file.seek(start)
                block = file.read(_BLOCK)
            whole = start + block.rfind(b"\n") + 1
            if whole != end:
                file.truncate(whole)
    return path.open("a", encoding="utf-8")


def _line(file: IO[str], text: str) -> None:
    file.write(text + "\n")
    file.flush()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
