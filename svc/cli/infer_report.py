"""What `svc infer` says of its results: lines and a table for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from svc.cli.report import table

if TYPE_CHECKING:
    from svc.conversion.jobs import Outcome


class InferReport:
    """Tells what becomes of each file, and of all.

    Args:
        as_json: on stdout nothing but one line of JSON per result; what is for people goes to stderr.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self._as_json = as_json

    def tell(self, text: str) -> None:
        """Print a line about a song."""
        _wipe_bar()
        print(text, file=sys.stderr if self._as_json else sys.stdout, flush=True)

    def show(self, outcome: Outcome) -> None:
        """Print one result, failures on stderr."""
        _wipe_bar()
        if self._as_json:
            print(json.dumps(_facts(outcome)), flush=True)
        elif outcome.skipped:
            print(f"{outcome.name} -> {outcome.output}  (there already)", flush=True)
        elif outcome.output is not None:
            print(
                f"{outcome.name} -> {outcome.output}  "
                f"({outcome.audio_seconds:.1f} s of audio in {outcome.wall_seconds:.1f} s)",
                flush=True,
            )
        if outcome.error:
            who = f" for {outcome.speaker}" if outcome.speaker else ""
            text = _one_line(outcome.error).removeprefix(f"{outcome.name}: ")
            print(f"svc: failed: {outcome.name}{who}: {text}", file=sys.stderr)

    def finish(self, outcomes: list[Outcome]) -> int:
        """Print the summary of a batch and return the exit code."""
        from svc.conversion.jobs import exit_code

        failed = [outcome.name for outcome in outcomes if outcome.error]
        n_skipped = sum(outcome.skipped for outcome in outcomes)
        if len(outcomes) > 1:
            text = f"{len(outcomes) - len(failed)} of {len(outcomes)} done"
            if n_skipped:
                text += f", {n_skipped} of them there already"
            if failed:
                text += f", {len(failed)} failed: {', '.join(dict.fromkeys(failed))}"
            stream = sys.stderr if failed or self._as_json else sys.stdout
            for line in [*_table(outcomes), text]:
                print(line, file=stream)
        return exit_code(outcomes)


def _table(outcomes: list[Outcome]) -> list[str]:
    """Rows of file, voice, length, speed and result."""
    rows = [("file", "voice", "seconds", "RTF", "result")]
    for outcome in outcomes:
        factor = outcome.real_time_factor
        done = f"{outcome.output}{' (there already)' if outcome.skipped else ''}"
        if outcome.worker:
            done += f"  by {outcome.worker}"
        rows.append((
            outcome.name,
            outcome.speaker,
            f"{outcome.audio_seconds:.1f}" if outcome.audio_seconds else "",
            "" if factor is None else f"{factor:.2f}",
            f"failed: {_one_line(outcome.error)}" if outcome.error else done,
        ))  # fmt: skip
    return table(rows, right={2, 3})


def _facts(outcome: Outcome) -> dict[str, Any]:
    status = "failed" if outcome.error else "skipped" if outcome.skipped else "done"
    factor = outcome.real_time_factor
    return {
        "status": status,
        "file": outcome.name,
        "source": _text(outcome.source),
        "speaker": outcome.speaker,
        "output": _text(outcome.output),
        "manifest": _text(outcome.manifest),
        "error": _one_line(outcome.error) or None,
        "audio_seconds": round(outcome.audio_seconds, 3),
        "wall_seconds": round(outcome.wall_seconds, 3),
        "rtf": None if factor is None else round(factor, 4),
        "worker": outcome.worker or None,
    }


def _text(path: object) -> str | None:
    return None if path is None else str(path)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _wipe_bar() -> None:
    """Make room for a line: the progress bar is drawn again below it."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
