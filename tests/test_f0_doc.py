"""docs/f0.md is true: its table is that of the program, its commands parse, its tables are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from svc.cli.main import build_parser
from svc.config import ENSEMBLE_MEMBERS, F0_PREDICTORS, SINGLE_PREDICTORS
from svc.f0.base import _AUTO_WITHOUT_SWIFT
from svc.pretrained import file_of

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "f0.md").read_text(encoding="utf-8")
LINES = [
    line
    for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.S)
    for line in block.splitlines()
]


def rows(text: str) -> list[list[str]]:
    """Cells of the lines that are rows of tables."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]


def section(name: str) -> str:
    match = re.search(f"<!-- {name}: begin -->(.*)<!-- {name}: end -->", TEXT, flags=re.S)
    assert match is not None
    return match[1]


def test_the_table_lists_every_predictor() -> None:
    named = {name for row in rows(TEXT) for name in re.findall(r"`([^`]+)`", row[0])}
    assert named == {*F0_PREDICTORS, "ensemble:A+B+..."}
    cells = {row[0]: row for row in rows(TEXT)}
    assert f"`ensemble:{'+'.join(ENSEMBLE_MEMBERS)}`" in cells["`ensemble`"]
    assert f"`{_AUTO_WITHOUT_SWIFT}`" in cells["`auto`"][1]
    sizes = [f"{form.size / 1e6:.0f} MB" for form in file_of("rmvpe").published]
    assert all(size in cells["`rmvpe`"][2] for size in sizes)


@pytest.mark.parametrize("line", LINES)
def test_commands_parse(line: str) -> None:
    words = shlex.split(line, comments=True)
    assert build_parser(words[1]).parse_args(words[1:]).command == words[1]


def test_the_measured_tables_are_there() -> None:
    accuracy = [row[0] for row in rows(section("accuracy"))]
    measured = {name for name in SINGLE_PREDICTORS if name != "rmvpe"} | {"ensemble"}
    assert {name for name in accuracy if accuracy.count(name) == 3} >= measured
    for threads in (1, 2):
        text = section(f"speed cpu {threads}")
        speed = {row[0] for row in rows(text)}
        assert speed >= {*SINGLE_PREDICTORS, "ensemble"}
