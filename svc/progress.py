"""How long work reports itself: a callback that the command line turns into a bar or plain lines."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called as ``progress(done, total, what)`` after each unit of work; ``what`` is a short label such as a file name."""


def silent(done: int, total: int, what: str) -> None:
    """Report nothing: the default where a caller passes no progress."""
