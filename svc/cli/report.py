"""Words of the summaries that several sub-commands print."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from unicodedata import combining, east_asian_width


def count(number: int, noun: str) -> str:
    """Return "1 clip", "2 clips"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


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
