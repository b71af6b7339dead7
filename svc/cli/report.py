"""Words of the summaries that several sub-commands print, and where they go."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from unicodedata import category, combining, east_asian_width


def count(number: int, noun: str) -> str:
    """Return "1 clip", "2 clips"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """Return a text whose control characters are escapes: names of files may hold any."""
    return "".join(
        sign if sign.isprintable() or category(sign) == "Zs" else ascii(sign)[1:-1] for sign in text
    )


def one_line(text: str) -> str:
    """Return a message on one line; names out of a foreign file may hold control characters."""
    return printable(" ".join(text.split()))


def print_any_name() -> None:
    """Let stdout and stderr take names of files that are no Unicode: as escapes, whatever prints them."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # streams put in their place may lack it
        if reconfigure is not None:
            with contextlib.suppress(OSError, ValueError):  # closed
                reconfigure(errors="backslashreplace")


def silence_stdout() -> None:
    """Let stdout lead nowhere: its reader went away, or its disk is full.

    What is still buffered goes there, too, so that Python has nothing to complain of at its end.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError):  # no file of the system
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    finally:
        os.close(nowhere)


def left_out(path: Path | str, reason: str) -> str:
    """Return the line for a file that was left out; a reason that begins with its path says it once."""
    words = " ".join(reason.split())
    about = words.removeprefix(str(path)).removeprefix(":").strip()
    return f"left out: {path}: {about}"


def table(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> list[str]:
    """Return rows as lines whose columns stand below each other.

    Args:
        rows: cells of every row, the headings first; as many in each.
        right: columns of numbers, counted from 0, which end below each other.
    """
    widths = [max(map(_width, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = []
        for index, (cell, width) in enumerate(zip(row, widths)):
            gap = " " * (width - _width(cell))
            cells.append(gap + cell if index in right else cell + gap)
        lines.append("  ".join(cells).rstrip())
    return lines


def _width(text: str) -> int:
    """Columns of a terminal that a text takes: Chinese and Japanese signs take two."""
    return sum(0 if combining(sign) else 1 + (east_asian_width(sign) in "WF") for sign in text)
