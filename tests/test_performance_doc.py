"""docs/performance.md is true: its commands and flags exist, its figures stand in tables that a script writes."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from svc.cli.main import build_parser

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"<!-- (.+?): begin -->\n(.*?)<!-- \1: end -->", TEXT, flags=re.S))
PROSE = re.sub(r"<!-- (.+?): begin -->.*?<!-- \1: end -->|```bash\n.*?```", "", TEXT, flags=re.S)
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.S)
    for line in block.splitlines()
]
UNMEASURED = "Not measured yet."


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """scripts/bench/infer.py."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "bench"))
    yield importlib.import_module("infer")
    for name in set(sys.modules) - before:
        if str(ROOT / "scripts") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def flags_of(parser: Any) -> set[str]:
    return {flag for action in parser._actions for flag in action.option_strings}


def flags_of_infer() -> set[str]:
    actions: Any = build_parser("infer")._subparsers
    return flags_of(actions._group_actions[0].choices["infer"])


def test_commands_parse(bench: ModuleType) -> None:
    assert COMMANDS
    for line in COMMANDS:
        words = shlex.split(line)
        assert words[:2] == ["python", "scripts/bench/infer.py"], line
        args = bench.build_parser().parse_args(words[2:])
        assert args.out == Path("docs/performance.md")


def test_flags_and_files_exist(bench: ModuleType) -> None:
    known = flags_of(bench.build_parser()) | flags_of_infer()
    assert set(re.findall(r"`(--\w+)", PROSE)) <= known
    for name in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / "docs" / name).is_file(), name


def test_every_section_has_a_table_or_says_that_it_was_not_measured() -> None:
    names = set(re.findall(r"<!-- (.+?): (?:begin|end) -->", TEXT))
    assert names == set(SECTIONS)
    wanted = {f"{what} cpu {n}" for what in ("song 10", "song 240", "nets") for n in (1, 2)}
    assert wanted | {"song 3600 cpu 2", "song 240 cuda", "nets cuda"} <= names
    for name, body in SECTIONS.items():
        if body.strip() == UNMEASURED:
            continue
        rows = re.findall(r"^\| (?!---)(.+?) \|", body, flags=re.M)
        assert "plain" in body, name
        assert len(rows) >= 2, name


def test_the_rows_of_the_tables_are_those_of_the_script(bench: ModuleType) -> None:
    """A row that was renamed has to be measured again."""
    rows = importlib.import_module("infer_rows")
    known = {
        row.label
        for device in ("cpu", "cuda")
        for make in (rows.rows, rows.net_rows)
        for row in every_row(rows, make, device)
    }
    for name, body in SECTIONS.items():
        label = r"^\| [a-z ]+ \| (\w[^|]*) \|" if name.startswith("nets") else r"^\| (\w[^|]*) \|"
        found = set(re.findall(label, body, flags=re.M))
        assert found <= known, name
        assert found or body.strip() == UNMEASURED, name


def every_row(rows: Any, make: Any, device: str) -> list[Any]:
    """Rows as on a machine where everything is installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "best_precision", lambda device: "bf16")
        patch.setattr(rows, "find_spec", lambda name: True)
        found: list[Any] = make(device, compiled=True)
    return found


def test_figures_stand_in_tables_only() -> None:
    """No sentence can contradict what is measured."""
    sentences = re.sub(r"`[^`]*`|\[[^\]]*\]\([^)]*\)|^#.*$|^\|.*$", "", PROSE, flags=re.M)
    sentences = sentences.replace("4.1", "").replace("1-D", "")
    assert re.findall(r"\d+(?:\.\d+)?\s*(?:%|times|x\b|×|s\b|ms\b|MB|GB|GFLOP)", sentences) == []
