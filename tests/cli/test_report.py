"""Words of the summaries."""

from __future__ import annotations

from pathlib import Path

from svc.cli.report import count, left_out, table


def test_count() -> None:
    assert [count(n, "clip") for n in (0, 1, 2)] == ["0 clips", "1 clip", "2 clips"]


def test_a_path_is_said_once() -> None:
    assert left_out(Path("a/b.wav"), "a/b.wav: is\n empty") == "left out: a/b.wav: is empty"
    assert left_out(Path("a/b.wav"), "a/b.wav is empty") == "left out: a/b.wav: is empty"
    assert left_out("a/b.wav", "too short") == "left out: a/b.wav: too short"


def test_columns_stand_below_each_other() -> None:
    rows = [("file", "s", "result"), ("歌.wav", "1.5", "x"), ("e\u0301", "10.0", "")]
    assert table(rows, right={1}) == [
        "file       s  result",
        "歌.wav   1.5  x",
        "e\u0301       10.0",
    ]
    assert table([]) == []
