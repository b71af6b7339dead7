"""What `svc infer` says of its results: lines and a table for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from svc.cli.report import one_line, printable, silence_stdout, table

if TYPE_CHECKING:
    from svc.conversion.jobs import Outcome


class InferReport:
    """Tells what becomes of each file, and of all.

    A stdout that takes no more, because its reader went away or its disk is full, stops no song.

    Args:
        as_json: on stdout nothing but one line of JSON per result; what is for people goes to stderr.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self._as_json = as_json
        self._heard = True  # stdout takes what is printed

    def tell(self, text: str) -> None:
        """Print a line about a song."""
        _wipe_bar()
        self._print(printable(text), to_stderr=self._as_json)

    def show(self, outcome: Outcome) -> None:
        """Print one result, failures on stderr."""
        _wipe_bar()
        if self._as_json:
            self._print(json.dumps(_facts(outcome)))
        elif outcome.skipped:
            self._print(printable(f"{outcome.name} -> {outcome.output}  (there already)"))
        elif outcome.output is not None:
            text = f"{outcome.audio_seconds:.1f} s of audio in {outcome.wall_seconds:.1f} s"
            self._print(printable(f"{outcome.name} -> {outcome.output}  ({text})"))
        if outcome.error:
            who = f" for {outcome.speaker}" if outcome.speaker else ""
            text = one_line(outcome.error).removeprefix(f"{one_line(outcome.name)}: ")
            print(f"svc: failed: {printable(outcome.name + who)}: {text}", file=sys.stderr)

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
            for line in [*_table(outcomes), printable(text)]:
                self._print(line, to_stderr=bool(failed) or self._as_json)
        return exit_code(outcomes)

    def _print(self, text: str, *, to_stderr: bool = False) -> None:
        if to_stderr:
            print(text, file=sys.stderr)
        elif self._heard:
            try:
                print(text, flush=True)
            except OSError as error:
                self._heard = False
                silence_stdout()
                if not isinstance(error, BrokenPipeError):
                    note = f"svc: note: cannot print any more ({error.strerror}); the songs go on"
                    print(note, file=sys.stderr)


def _table(outcomes: list[Outcome]) -> list[str]:
    """Rows of file, voice, length, speed and result."""
    rows = [("file", "voice", "seconds", "RTF", "result")]
    for outcome in outcomes:
        factor = outcome.real_time_factor
        done = printable(f"{outcome.output}{' (there already)' if outcome.skipped else ''}")
        if outcome.worker:
            done += f"  by {outcome.worker}"
        rows.append((
            printable(outcome.name),
            printable(outcome.speaker),
            f"{outcome.audio_seconds:.1f}" if outcome.audio_seconds else "",
            "" if factor is None else f"{factor:.2f}",
            f"failed: {one_line(outcome.error)}" if outcome.error else done,
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
        "error": one_line(outcome.error) or None,
        "audio_seconds": round(outcome.audio_seconds, 3),
        "wall_seconds": round(outcome.wall_seconds, 3),
        "rtf": None if factor is None else round(factor, 4),
        "worker": outcome.worker or None,
    }


def _text(path: object) -> str | None:
    return None if path is None else str(path)


def _wipe_bar() -> None:
    """Make room for a line: the progress bar is drawn again below it."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
