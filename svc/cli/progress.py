"""Progress on the screen: a bar with ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from svc.progress import Progress

_SECONDS_BETWEEN_LINES = 10.0


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes}:{rest:02d}"
        if minutes < 60
        else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
    )


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Progress]:
    """Yield a `Progress` callback that shows itself on stderr.

    Args:
        label: what is being done, e.g. "resample".

    Yields:
        The callback: ``progress(done, total, what)``.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(desc=label, unit="", dynamic_ncols=True, file=sys.stderr) as bar:

            def show(done: int, total: int, what: str) -> None:
                if bar.total is None:  # work that goes on where it stopped begins above 0
                    bar.initial = bar.n = done - 1
                bar.total = total
                bar.set_postfix_str(what[:40], refresh=False)
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
