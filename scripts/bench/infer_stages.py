"""Seconds by stage, measured from outside: callables are wrapped, nothing in svc/ knows of it."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from inspect import isgeneratorfunction
from typing import Any, TypeVar

Work = TypeVar("Work", bound=Callable[..., Any])
Item = TypeVar("Item")

STAGES = (
    "read", "slice", "resample", "encoder", "F0", "retrieval", "prior and flow", "generator", "join",
    "write",
)  # fmt: skip
"""In the order of the way through a song."""
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""Seconds of the clock on the wall, or of the processor in all threads together."""


class Stages:
    """Adds up the seconds of stages; what one does inside another counts for the inner one alone.

    Threads are told apart: a stage that runs beside others has its own seconds, so that the sum may
    exceed the time by the clock.

    Args:
        clock: one of `CLOCKS`.

    Attributes:
        clock: what it is, seconds.
        settle: called before the clock is read; waits for a device.
    """

    def __init__(self, clock: str = "wall") -> None:
        self.clock = CLOCKS[clock]
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.settle: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._thread = threading.local()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens inside."""
        open_stages: list[float] = self._thread.__dict__.setdefault("inner", [])
        open_stages.append(0.0)
        begin = self.clock()
        try:
            yield
        finally:
            self.settle()
            spent = self.clock() - begin
            inner = open_stages.pop()
            if open_stages:
                open_stages[-1] += spent
            with self._lock:
                self.seconds[name] += spent - inner

    def timed(self, name: str, work: Work) -> Work:
        """Wrap a callable."""

        def measured(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return work(*args, **kwargs)

        return measured  # type: ignore[return-value]

    def each(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """Wrap an iterable: the time until the next item counts, that between items does not."""
        iterator = iter(items)
        while True:
            with self.stage(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def wrapped(self, name: str, work: Work) -> Work:
        """As `timed`; of a generator function, the work of its generators counts."""
        if not isgeneratorfunction(work):
            return self.timed(name, work)

        def each(*args: Any, **kwargs: Any) -> Iterator[Any]:
            return self.each(name, work(*args, **kwargs))

        return each  # type: ignore[return-value]

    def method(self, name: str, owner: type, method: str) -> None:
        """Wrap a method of a class, in place."""
        setattr(owner, method, self.wrapped(name, getattr(owner, method)))

    def shares(self, whole: float) -> dict[str, float]:
        """Seconds of every stage that was met, and the rest of `whole` seconds."""
        found = {name: self.seconds[name] for name in STAGES if name in self.seconds}
        return {**found, "rest": max(0.0, whole - sum(found.values()))}
