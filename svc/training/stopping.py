"""Signals that end a run, which saves first."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any


def never() -> bool:
    """Return False: nobody wants the evaluation to stop."""
    return False


class StoppedError(BaseException):
    """A signal has cut a wait short. No `Exception`: nothing on its way may take it for a fault."""


SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl-C, the end of a rented machine, of a terminal
PATIENCE = "patience"
"""Why a run stops that has not got better for long, in the place of a signal's name."""


class StopSignal(AbstractContextManager["StopSignal"]):
    """Turn SIGINT, SIGTERM and SIGHUP into a wish to stop after the running step, which is looked at
    before each step and in evaluations, and cuts waiting for data short.

    A second SIGINT stops at once. A signal that is ignored, as SIGHUP is under nohup, stays ignored.

    Args:
        cut_waits: False where other processes would wait for the step that is left out.
    """

    def __init__(self, *, cut_waits: bool = True) -> None:
        self.name: str | None = None
        self._cut_waits, self._waiting = cut_waits, False
        self._before: dict[int, Any] = {}

    def wished(self) -> bool:
        """Return whether a signal has come."""
        return self.name is not None

    @contextlib.contextmanager
    def cut_short(self) -> Iterator[None]:
        """Within it a signal, also one that came before, raises StoppedError: for what can be left
        at any point.
        """
        try:
            self._waiting = self._cut_waits
            if self._waiting and self.wished():
                raise StoppedError
            yield
        finally:
            self._waiting = False

    def __enter__(self) -> StopSignal:
        # Only the main thread may set handlers; elsewhere the caller's own handling stays.
        if threading.current_thread() is threading.main_thread():
            for name in SIGNALS:
                number = getattr(signal, name, None)  # SIGHUP: not everywhere
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.name in SIGNALS and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
        if self._waiting:
            self._waiting = False
            raise StoppedError
