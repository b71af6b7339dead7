"""Event files of TensorBoard, written where they are asked for and not by a thread of their own.

torch's `SummaryWriter` hands everything to a thread; where the disk is full that prints a traceback in the
middle of the progress bar and is gone, and nothing is written any more when there is room again. Here a write
that fails raises at once, and the next one begins a new file: TensorBoard reads all files of a folder, and the
half record at the end of the old one as its end.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from svc.atomic import make_folder


class EventFile:
    """Events of one folder, in the format of TensorBoard; every record is handed to the system at once.

    Args:
        folder: it is created.
        purge_step: TensorBoard hides earlier events from that step on.

    Raises:
        OSError: the folder or the file cannot be written; so do all methods, and can be called again.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        self._folder, self._count = folder, 0
        self._file: FileIO | None = None
        make_folder(folder)
        self._open(purge_step)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Write a number."""
        from torch.utils.tensorboard import summary

        self._add(summary.scalar(tag, value), step)

    def add_image(self, tag: str, image: npt.NDArray[np.uint8], step: int) -> None:
        """Write a picture (H, W, 3)."""
        from torch.utils.tensorboard import summary

        self._add(summary.image(tag, image, dataformats="HWC"), step)

    def add_audio(self, tag: str, wav: npt.NDArray[np.float32], step: int, rate: int) -> None:
        """Write sound (T,) in [-1, 1]."""
        from torch.utils.tensorboard import summary

        self._add(summary.audio(tag, wav[None], sample_rate=rate), step)

    def close(self) -> None:
        """Close the file; a later call of the others begins a new one."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _add(self, content: Any, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        if self._file is None:
            self._open()
        self._write(Event(wall_time=time.time(), step=step, summary=content))

    def _open(self, purge_step: int | None = None) -> None:
        """Begin a file with what TensorBoard expects at the beginning."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        now, path = time.time(), Path()
        while self._file is None:
            self._count += 1
            # Read in the order of their names: the time comes first, and files of one second are counted.
            owner = f"{socket.gethostname()}.{os.getpid()}.{self._count}"
            path = self._folder / f"events.out.tfevents.{int(now):010d}.{owner}"
            with contextlib.suppress(FileExistsError):  # of an earlier run in this second
                self._file = FileIO(path, "x")
        try:
            self._write(Event(wall_time=now, file_version="brain.Event:2"))
            if purge_step is not None:
                start = SessionLog(status=SessionLog.START)
                self._write(Event(wall_time=now, step=purge_step, session_log=start))
        except OSError:
            path.unlink(missing_ok=True)  # or a disk that stays full would fill with names
            raise

    def _write(self, event: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        file = self._file
        if file is None:
            raise ValueError("no file is open")
        try:
            RecordWriter(_Whole(file)).write(event.SerializeToString())
        except OSError:
            with contextlib.suppress(OSError):
                self.close()
            raise


class _Whole:
    """Writes all of something: what an unbuffered file takes at once may be less."""

    def __init__(self, file: FileIO) -> None:
        self._file = file

    def write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
