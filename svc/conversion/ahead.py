"""The pitch of coming windows is found in a thread of its own while the nets sing the present one.

    thread     f0 of 1 | f0 of 2     | f0 of 3     |
    nets               | sing 1      | sing 2      | sing 3

Methods with nets are left to the voice: they would compete with it for the device, and torch's
inference mode belongs to a thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from svc.audio.pitch import F0Track
from svc.conversion.windows import Passage
from svc.f0.base import F0Predictor

_SHARES_LOCK = frozenset({"dio", "harvest", "swift"})
"""Methods without nets that leave the interpreter to other threads while they compute."""
_KEEPS_LOCK = frozenset({"pm"})
"""One that does not: it is of use while the nets' thread waits for a device, and stands in its way where
that one computes itself."""


def runs_beside(predictor: F0Predictor | None, where: str) -> bool:
    """Whether a predictor gains by working beside the nets.

    Args:
        predictor: the one; an ensemble does if all its members do.
        where: the nets' device, as `Backend.where`.
    """
    if predictor is None:
        return False
    members = set(predictor.name.removeprefix("ensemble:").split("+"))
    on_device = not where.startswith("cpu")
    return members <= (_SHARES_LOCK | _KEEPS_LOCK if on_device else _SHARES_LOCK)


def with_tracks(
    stretches: Iterator[Passage], predictor: F0Predictor, limit: Callable[[], int]
) -> Generator[Passage, None, None]:
    """Give windows without a melody theirs, some windows ahead of the one that is wanted.

    Args:
        stretches: in order; taken in this thread.
        predictor: asked in one other thread, one window after the other. It lives as long as the
            iterator: close it where not all of it is wanted.
        limit: samples to be ahead, and at least one window; asked for again each time.

    Yields:
        The stretches, their windows with tracks.

    Raises:
        SvcError: what the predictor raises for a window, in the place of its stretch.
    """
    waiting: deque[tuple[Passage, Future[F0Track] | None]] = deque()
    n_ahead = 0  # samples of all that wait, apart from the first

    def wanted() -> bool:
        return len(waiting) < 2 or n_ahead < limit()

    with ThreadPoolExecutor(1, thread_name_prefix="svc-f0") as thread:
        try:
            more = True
            while more or waiting:
                while more and wanted():
                    stretch = next(stretches, None)
                    if stretch is None:
                        more = False
                        continue
                    window, future = stretch.window, None
                    if window.track is None:
                        future = thread.submit(predictor, window.wav)
                    n_ahead += window.wav.size if waiting else 0
                    waiting.append((stretch, future))
                if not waiting:
                    return
                stretch, future = waiting.popleft()
                n_ahead -= waiting[0][0].window.wav.size if waiting else 0
                if future is not None:
                    stretch = replace(
                        stretch, window=replace(stretch.window, track=future.result())
                    )
                yield stretch
        finally:
            thread.shutdown(cancel_futures=True)
