"""One data set, prepared by several processes: each takes some of the clips, and all learn what has become of the
others. What there is only one of (configs, lists, the pack) is written by the first process.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from svc.dataset.clips import MIN_SECONDS, LeftOut, read_clip
from svc.dataset.extraction import ExtractReport
from svc.dataset.filelist import unlistable
from svc.dataset.pool import run_jobs
from svc.errors import DatasetError
from svc.progress import Progress, silent


class Processes(Protocol):
    """The processes that work on the same command."""

    @property
    def rank(self) -> int:
        """Number of this one, from 0."""

    @property
    def world(self) -> int:
        """How many there are."""

    def gather(self, text: str) -> list[str]:
        """Return the texts of all of them, in their order."""


@dataclasses.dataclass(frozen=True)
class Alone:
    """The one process of a command."""

    rank: int = 0
    world: int = 1

    def gather(self, text: str) -> list[str]:
        """Return the text."""
        return [text]


def share_of(files: Sequence[Path], processes: Processes) -> list[Path]:
    """Return this process' part of some files."""
    return list(files[processes.rank :: processes.world])


def check_clips(
    files: Sequence[Path], sampling_rate: int, processes: Processes, progress: Progress | None
) -> tuple[dict[Path, float], list[LeftOut]]:
    """Read every clip once.

    Args:
        files: all of them.
        sampling_rate: Hz they must have.
        processes: that do it together.
        progress: called after each clip of this process.

    Returns:
        Length in seconds of the usable ones, and why the others are not.
    """

    def length(file: Path) -> float:
        reason = unlistable(file)
        if reason is not None:
            raise DatasetError(reason)
        return len(read_clip(file, sampling_rate, min_seconds=MIN_SECONDS)) / sampling_rate

    own, tell, found = share_of(files, processes), progress or silent, dict[str, float | str]()
    for done, outcome in enumerate(run_jobs(lambda _: length, own, jobs=1), start=1):
        bad = outcome.result is None
        found[str(outcome.task)] = (outcome.error or "unknown") if bad else outcome.result or 0.0
        tell(done, len(own), outcome.task.name)
    everything: dict[str, float | str] = {}
    for part in _gather(found, processes):
        everything |= part
    seconds, left_out = dict[Path, float](), list[LeftOut]()
    for file in files:
        value = everything[str(file)]
        if isinstance(value, str):
            left_out.append(LeftOut(file, value))
        else:
            seconds[file] = value
    return seconds, left_out


def sum_up(report: ExtractReport, processes: Processes) -> ExtractReport:
    """Return what all processes have extracted together, from what this one has."""
    own = {
        "computed": report.computed,
        "fresh": report.fresh,
        "left_out": [(str(item.path), item.reason) for item in report.left_out],
    }
    parts = _gather(own, processes)
    left_out = [LeftOut(Path(path), why) for part in parts for path, why in part["left_out"]]
    return ExtractReport(
        computed=sum(part["computed"] for part in parts),
        fresh=sum(part["fresh"] for part in parts),
        left_out=sorted(left_out, key=lambda item: item.path),
    )


def _gather(content: Mapping[str, Any], processes: Processes) -> list[dict[str, Any]]:
    return [json.loads(text) for text in processes.gather(json.dumps(content))]
