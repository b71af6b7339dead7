"""Progress on the screen: a bar with ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator

from svc.progress import Progress, silent
from svc.training.launching import is_follower

_SECONDS_BETWEEN_LINES = 10.0
_LONGEST = 60  # characters of the text behind a bar
_WITHOUT_RATE = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes}:{rest:02d}"
        if minutes < 60
        else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
    )


@contextlib.contextmanager
def progress_bar(label: str, *, rate: bool = True) -> Iterator[Progress]:
    """Yield a `Progress` callback that shows itself on stderr.

    Args:
        label: what is being done, e.g. "resample".
        rate: let the bar count units per second by the newest of them; False where the callback's
            text says how fast it goes, and the time left is to rest on the whole call.

    Yields:
        The callback: ``progress(done, total, what)``. Of several processes one shows it.
    """
    if is_follower(os.environ):
        yield silent
        return
    if sys.stderr.isatty():
        from tqdm import tqdm

        shape, smoothing = (None, 0.3) if rate else (_WITHOUT_RATE, 0.0)
        with tqdm(
            desc=label, unit="", dynamic_ncols=True, file=sys.stderr,
            bar_format=shape, smoothing=smoothing,
        ) as bar:  # fmt: skip

            def show(done: int, total: int, what: str) -> None:
                if bar.total is None:  # work that goes on where it stopped begins above 0
                    bar.initial = bar.n = done - 1
                bar.total = total
                bar.set_postfix_str(what[:_LONGEST], refresh=False)
                bar.update(done - bar.n)

            yield show
        return
    start = last = time.monotonic()
    shown = (0, 0)
    first: int | None = None  # work that goes on where it stopped begins above 0

    def line(done: int, total: int, what: str) -> None:
        nonlocal last, first, shown
        now = time.monotonic()
        first = done - 1 if first is None else first
        if (done < total and now - last < _SECONDS_BETWEEN_LINES) or (done, total) == shown:
            return
        shown = done, total
        last = now
        left = (now - start) / (done - first) * (total - done) if done > first else 0.0
        eta = f", {_duration(left)} left" if left > 0 else ""
        sys.stderr.write(f"{label}: {done}/{total} {what} ({_duration(now - start)}{eta})\n")
        sys.stderr.flush()

    yield line
