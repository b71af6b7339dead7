"""What a run writes down survives kills, and a disk that is full."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svc.training.journal import METRICS, Journal


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / METRICS).read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_metrics_are_a_line_of_json_each(tmp_path: Path) -> None:
    with Journal(tmp_path, 1) as journal:
        journal.record("train", 5, losses={"mel": 1.5, "kl": float("nan")}, rates=[1, np.inf])
        journal.event("best", 5, path="歌/G_best.pth")
    start, train, best = lines(tmp_path)
    assert (start["kind"], start["event"], start["step"]) == ("event", "start", 0)
    assert train["losses"] == {"mel": 1.5, "kl": None}  # JSON has no numbers that are none
    assert train["rates"] == [1, None]
    assert abs(train["time"] - start["time"]) < 60
    assert (best["kind"], best["event"], best["path"]) == ("event", "best", "歌/G_best.pth")


def test_a_line_is_there_when_the_process_is_killed(tmp_path: Path) -> None:
    """Nothing waits for the end: what was recorded can be read at once."""
    journal = Journal(tmp_path, 1)
    journal.record("train", 1, losses={})
    assert len(lines(tmp_path)) == 2
    journal.close()


@pytest.mark.parametrize("whole", [0, 1, 200])
def test_half_a_line_is_cut_off(tmp_path: Path, whole: int) -> None:
    line = json.dumps({"kind": "train", "step": 1, "text": "x" * 100}) + "\n"
    half = json.dumps({"kind": "train", "step": 2, "text": "歌" * 3000}, ensure_ascii=False)
    (tmp_path / METRICS).write_bytes((whole * line + half).encode()[:-20])
    with Journal(tmp_path, 2):
        pass
    found = lines(tmp_path)
    assert [entry["kind"] for entry in found] == ["train"] * whole + ["event"]
    assert (found[-1]["event"], found[-1]["step"]) == ("resume", 1)


def test_a_resume_tells_which_lines_are_done_again(tmp_path: Path) -> None:
    """Readers take the last: of steps above that of a resume, earlier lines count no more."""
    for first, last in ((1, 6), (5, 7)):
        with Journal(tmp_path, first) as journal:
            for step in range(first, last + 1):
                journal.record("train", step, call=first)
    known: dict[int, int] = {}
    for entry in lines(tmp_path):
        if entry["kind"] == "event":
            known = {step: call for step, call in known.items() if step <= entry["step"]}
        else:
            known[entry["step"]] = entry["call"]
    assert known == {1: 1, 2: 1, 3: 1, 4: 1, 5: 5, 6: 5, 7: 5}


def test_the_documented_way_to_read_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Path(__file__).parents[2].joinpath("docs/training.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text.split("### metrics.jsonl")[1], flags=re.S)
    folder = tmp_path / "logs/44k"
    for first, distance in ((1, 3.0), (5, 2.0)):  # killed after step 8, and on from 4
        with Journal(folder, first) as journal:
            for step in (4, 8):
                if step >= first:
                    journal.record("train", step)
                    journal.record("validation", step, scores={"mel": distance})
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(code, found)  # noqa: S102 - the lines of our own page
    assert found["mel"] == [(4, 3.0), (8, 2.0)]


def test_a_full_disk_costs_lines_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path, 1)
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with full.open("a") as sink, full.open("a") as other:
        kept = journal._log, journal._metrics
        journal._log, journal._metrics = sink, other
        with caplog.at_level(logging.INFO, logger="svc.training"):
            for step in range(3):
                journal.note(f"step {step}")
                journal.record("train", step)
        journal._log, journal._metrics = kept
        for file in (sink, other):
            with pytest.raises(OSError, match="space"):
                file.close()
    told = [message for message in caplog.messages if "no space left" in message]
    assert len(told) == 1
    assert "training goes on" in told[0]
    assert "step 2" in caplog.messages  # the screen still has it
    journal.note("room again")
    journal.close()
    assert "room again" in (tmp_path / "train.log").read_text()


def test_events_that_cannot_be_written_cost_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer of TensorBoard reports what its thread met at a later call."""
    journal = Journal(tmp_path, 1)
    monkeypatch.setattr(
        journal._train.file_writer.event_writer._async_writer._worker, "exception",
        OSError(28, "No space left on device"),
    )  # fmt: skip
    journal.scalars({"loss": 1.0}, 1)
    journal.images({"picture": np.zeros((2, 2, 3), np.uint8)}, 1)
    journal.flush()
    journal.record("train", 1)
    assert len(lines(tmp_path)) == 2
    monkeypatch.undo()
    journal.close()
