"""Progress on the screen."""

from __future__ import annotations

import sys

import pytest

from svc.cli import progress
from svc.cli.progress import progress_bar


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_are_few_and_say_how_long(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar("resample") as show:
        for done in range(1, 101):
            clock[0] = float(done)
            show(done, 100, f"{done}.wav")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "resample: 10/100 10.wav (0:10, 1:30 left)"
    assert lines[-1] == "resample: 100/100 100.wav (1:40)"


def test_the_end_is_told_once(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("infer") as show:
        for done in (0, 1, 2, 2):
            show(done, 2, "song")
    assert capsys.readouterr().err == "infer: 2/2 song (0:00)\n"


def test_the_estimate_starts_where_resumed_work_starts(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar("train") as show:
        for done in range(5001, 5021):
            clock[0] = float(done - 5000)
            show(done, 5100, "")
    assert "train: 5010/5100  (0:10, 1:30 left)" in capsys.readouterr().err


def test_a_terminal_gets_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_bar("train") as show:
        for done in range(41, 51):
            show(done, 50, "mel 20")
    err = capsys.readouterr().err
    assert "50/50" in err
    assert "mel 20" in err
    assert "/s, mel 20" in err  # its own rate


def test_a_bar_without_its_own_rate_rests_on_the_whole_call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a training says in its text is not said twice, and is not cut off."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    text = "0.52/s wait 12% mel 20.1 kl 1.25 gen 2.5 disc 2.51"
    with progress_bar("train", rate=False) as show:
        for done in range(5001, 5011):
            show(done, 5100, text)
    last = capsys.readouterr().err.split("\r")[-1]
    assert last.count("/s") == 1
    assert text in last
    assert "5010/5100 [00:0" in last
    assert last.split("<")[1][:2] == "00"  # and the time that is left


def test_lines_say_what_the_bar_says(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar("train", rate=False) as show:
        for done in range(1, 31):
            clock[0] = 2.0 * done
            show(done, 100, "0.5/s wait 3% mel 20.1")
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "train: 10/100 0.5/s wait 3% mel 20.1 (0:20, 3:00 left)"
