"""Words of the summaries that several sub-commands print."""

from __future__ import annotations

from pathlib import Path


def count(number: int, noun: str) -> str:
    """Return "1 clip", "2 clips"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def left_out(path: Path | str, reason: str) -> str:
    """Return the line for a file that was left out; a reason that begins with its path says it once."""
    words = " ".join(reason.split())
    about = words.removeprefix(str(path)).removeprefix(":").strip()
    return f"left out: {path}: {about}"
