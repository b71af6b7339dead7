"""The best evaluation of a run: which it was, the file that keeps the weights that sang it, and when to
stop waiting for a better one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from svc.checkpoint import load_checkpoint, save_checkpoint
from svc.errors import SvcError
from svc.training.journal import Journal
from svc.training.rundir import Start, move_aside
from svc.training.state import EXTRA
from svc.training.stopping import PATIENCE, StopSignal

BEST = "G_best.pth"
"""Beside the checkpoints of a voice; no step in its name, so no start and no pruning takes it for one."""
KEY = "best"
"""Key of the ``svc`` entry: of `BEST`, what it is the best of; of a checkpoint, `Contest.state_dict`."""


@dataclass(frozen=True)
class Record:
    """An evaluation."""

    step: int
    score: float
    """The smaller the better."""
    measure: str
    """Of which clips and how; scores of other measures cannot be compared with it."""

    def beats(self, other: Record | None) -> bool:
        """Return whether it is better than another one, or the only one of its measure."""
        if not math.isfinite(self.score):
            return False
        return other is None or other.measure != self.measure or self.score < other.score


class Contest:
    """The regular evaluations of a run: the best one, and how many have not been better since.

    Args:
        patience: evaluations without a better score after which the run ends; None = it goes on.
    """

    def __init__(self, patience: int | None = None) -> None:
        self.patience = patience
        self.best: Record | None = None
        self.since = 0
        self.missed = False
        """Whether the last one was cut short by the end of the run: it is made up for at the next
        start.
        """

    @property
    def over(self) -> bool:
        """Whether the run has waited long enough."""
        return self.patience is not None and self.since >= self.patience

    def enter(self, record: Record) -> bool:
        """Take in a regular evaluation; returns whether it is the best so far."""
        better = record.beats(self.best)
        if better:
            self.best = record
        self.since = 0 if better else self.since + 1
        self.missed = False
        return better

    def stop_waiting(self, stop: StopSignal, journal: Journal) -> None:
        """End the run as a signal would, once there has been no better evaluation for long enough.

        Called when the state is saved: a signal that comes on top of a wish to stop breaks off what
        is done.
        """
        if self.over and not stop.wished():
            stop.name = PATIENCE
            best = (
                "" if self.best is None else f" than {self.best.score:.4g} at step {self.best.step}"
            )
            journal.note(f"{self.since} evaluations without a better score{best}")

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: plain values."""
        best = None if self.best is None else asdict(self.best)
        return {"best": best, "since": self.since, "missed": self.missed}

    def load_state_dict(self, state: object) -> None:
        """Go on from what a checkpoint kept; anything else changes nothing."""
        if not isinstance(state, Mapping):
            return
        self.best = _record(state.get("best"))
        self.since, self.missed = int(state.get("since", 0)), bool(state.get("missed", False))


class BestFile:
    """``G_best.pth`` of a run.

    What decides is the file alone: it is replaced by what scores better than itself. After a kill it
    may be of a step that is to be done again; it is still the best voice of this run there is, and
    no start may put a worse one in its place.

    Args:
        run_dir: folder of the run.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / BEST
        self.record = read_best(self.path)

    def save(self, content: Mapping[str, Any], record: Record) -> None:
        """Put a voice into its place.

        Args:
            content: a checkpoint; `record` is added to its ``svc`` entry.
            record: what it has scored.

        Raises:
            OutputError: it cannot be written; the earlier one is still there.
        """
        extra = {**content[EXTRA], KEY: {**asdict(record), **content[EXTRA].get(KEY, {})}}
        save_checkpoint({**content, EXTRA: extra}, self.path)
        self.record = record


def read_best(path: Path) -> Record | None:
    """Return what the best voice of a run has scored; None when there is none that says so."""
    if not path.is_file():
        return None
    try:
        extra = load_checkpoint(path, mmap=True).get(EXTRA)
    except SvcError:
        return None  # damaged: the next evaluation takes its place
    return _record(extra.get(KEY)) if isinstance(extra, Mapping) else None


def outdated(run_dir: Path, start: Start) -> list[Path]:
    """Return the best voice where it does not belong to a run that begins so: it is of a later step
    than the start, or of another run.
    """
    path = run_dir / BEST
    if not path.is_file():
        return []
    record = read_best(path)
    stays = start.kind == "resume" and record is not None and record.step <= start.step
    return [] if stays else [path]


def make_room(run_dir: Path, start: Start) -> list[str]:
    """Move the best voice of another run out of the way of one that begins anew.

    One that goes on keeps it, also that of a step which a kill has taken away with it.

    Args:
        run_dir: folder of the run.
        start: what the run begins from.

    Returns:
        A line for the log, or none when nothing had to move.

    Raises:
        OutputError: it cannot be moved.
    """
    files = outdated(run_dir, start) if start.kind != "resume" else []
    aside = move_aside(run_dir, files)
    return [] if aside is None else [f"the best voice of an earlier run moved to {aside}"]


def _record(value: object) -> Record | None:
    if not isinstance(value, Mapping):
        return None
    try:
        return Record(int(value["step"]), float(value["score"]), str(value["measure"]))
    except (KeyError, TypeError, ValueError):
        return None
