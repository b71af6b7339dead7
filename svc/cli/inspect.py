"""`svc inspect`: what a file is, what it fits, whether it is safe to load. It never loads it."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svc.cli.options import add_argument
from svc.errors import MissingFileError

if TYPE_CHECKING:
    from svc.inspection import Report

NAME = "inspect"
HELP = "what a file is, what it fits, whether it is safe to load"

_LABEL = 28  # columns of the names of facts
_WIDTH = 110  # columns of a line
_COUNTS = ("values", "optimizer_bytes", "vectors", "samples")  # numbers that are read by people


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    flag = partial(add_argument, parser)
    text = (
        "voices, other weights, indexes, graphs, configs, features, recordings; of a folder what is "
        "in it"
    )
    flag("files", metavar="FILE", nargs="+", type=Path, help=text)
    text = "compare with this config.json or diffusion.yaml (default: the one beside the file)"
    flag("-c", "--config", metavar="FILE", type=Path, help=text)
    text = "compute the SHA-256 of files above 100 MB too, and compare it with what was published"
    flag("--hash", action="store_true", help=text)
    flag("--json", action="store_true", help="print one JSON object per file, each on a line")


def run(args: argparse.Namespace) -> int:
    """Print a report on each file; 1 if one of them is unsafe or damaged."""
    for path in args.files:
        if not path.exists():
            raise MissingFileError(f"{path} is not there; check the path")

    from svc.inspection import inspect, load_settings

    config = None if args.config is None else load_settings(args.config)
    good = True
    for number, path in enumerate(args.files):
        report = inspect(path, config=config, hash_large=args.hash)
        good = good and report.good
        if args.json:
            print(json.dumps(report.to_plain()), flush=True)
            continue
        if number:
            print()
        for line in _lines(report):
            print(line, flush=True)
    return 0 if good else 1


def _lines(report: Report) -> Iterator[str]:
    """Yield a report for people."""
    finding, safety, known = report.finding, report.safety, report.known
    yield _safe_text(f"{report.path}: {finding.what}")
    if report.damage is not None:
        yield from _row("DAMAGED", report.damage)
    yield from _row("size", _size(report.size))
    if report.sha256 is not None:
        yield from _row("sha256", report.sha256)
    if known is not None:
        as_what = "the content is" if known.checked else "by its size"
        yield from _row(
            "published",
            f"{as_what} {known.name}: {known.what}; {known.source}; licence: {known.licence}",
        )
    verdict = {True: "yes", False: "NOT SAFE", None: "not known"}[safety.safe]
    yield from _row("safe", f"{verdict}: {safety.how}")
    for name, value in finding.facts.items():
        yield from _row(name, _words(value, counted=name in _COUNTS))
    yield from _rows("fits", finding.fits)
    if report.match is not None:
        match = report.match
        fits = "yes" if match.fits else f"NO: {'; '.join(match.differences)}"
        yield from _row("fits the config", f"{match.path}: {fits}")
    yield from _rows("note", (*finding.notes, *report.notes))


def _rows(name: str, texts: tuple[str, ...]) -> Iterator[str]:
    for index, text in enumerate(texts):
        yield from _row("" if index else name, text)


def _row(name: str, text: str) -> Iterator[str]:
    """One aligned fact; what is longer than a line goes on under itself."""
    label = name if len(name) < _LABEL else f"{name}  "
    lines = textwrap.wrap(_safe_text(text), _WIDTH - _LABEL, break_on_hyphens=False) or [""]
    for index, line in enumerate(lines):
        yield f"  {'' if index else label:<{_LABEL}}{line}".rstrip()


def _safe_text(text: str) -> str:
    """Escape what a terminal would obey: names and texts come out of foreign files."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def _size(size: int) -> str:
    from svc.pretrained import size_text

    return f"{size:,} bytes" if size < 1_000_000 else f"{size_text(size)} ({size:,} bytes)"


def _words(value: Any, *, counted: bool = False) -> str:
    """Return a fact for people."""
    if value is None:
        return "cannot be told"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_words(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(_words(item) for item in value) or "none"
    return f"{value:,}" if counted and isinstance(value, int) else str(value)
