"""What a run writes down survives kills, and a disk that is full."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svc.training import events
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
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The disk is full for two steps, after half of a record; then there is room again."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    journal = Journal(tmp_path, 1)
    journal.scalars({"loss": 0.0}, 0)
    true = events.FileIO.write

    def full(file: events.FileIO, data: memoryview) -> int:
        if len(data) < 10:
            raise OSError(28, "No space left on device")
        return true(file, data[: len(data) // 2])

    with (
        monkeypatch.context() as disk,
        caplog.at_level(logging.WARNING, logger="svc.training"),
    ):
        disk.setattr("svc.training.events.FileIO", type("Full", (events.FileIO,), {"write": full}))
        assert journal._train._file is not None
        journal._train._file = events.FileIO(journal._train._file.name, "ab")
        for step in (1, 2):
            journal.scalars({"loss": 1.0}, step)
            journal.images({"picture": np.zeros((2, 2, 3), np.uint8)}, step)
            journal.record("train", step)
    journal.scalars({"loss": 3.0}, 3)
    journal.images({"picture": np.zeros((2, 2, 3), np.uint8)}, 3)
    journal.close()
    assert len(lines(tmp_path)) == 3
    assert len([message for message in caplog.messages if "no space left" in message]) == 1
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2  # none of the attempts is left
    assert "Exception in thread" not in capfd.readouterr().err
    seen = EventAccumulator(str(tmp_path), size_guidance={"images": 0})
    seen.Reload()
    assert [(event.step, event.value) for event in seen.Scalars("loss")] == [(0, 0.0), (3, 3.0)]
    assert [event.step for event in seen.Images("picture")] == [3]


def test_events_of_steps_that_are_done_again_are_hidden(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, value in ((1, 1.0), (3, 2.0)):
        with Journal(tmp_path, first) as journal:
            for step in range(first, 5):
                journal.scalars({"loss": value}, step)
                journal.eval_audio({"sound": np.zeros(100, np.float32)}, step, 8000)
    seen = EventAccumulator(str(tmp_path))
    seen.Reload()
    found = [(event.step, event.value) for event in seen.Scalars("loss")]
    assert found == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]
    assert seen.Tags()["audio"] == []
    seen = EventAccumulator(str(tmp_path / "eval"), size_guidance={"audio": 0})
    seen.Reload()
    assert [event.sample_rate for event in seen.Audio("sound")] == [8000] * 4
