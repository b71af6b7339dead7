"""docs/encoders.md is true: its table is that of the program, its commands parse."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from svc.cli.main import build_parser
from svc.config import SPEECH_ENCODER_DIMS
from svc.pretrained import file_of

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "encoders.md").read_text(encoding="utf-8")
LINES = [
    line
    for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.S)
    for line in block.splitlines()
]


def table() -> dict[str, list[str]]:
    """Cells by encoder; a row may stand for two."""
    rows: dict[str, list[str]] = {}
    for line in TEXT.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if line.startswith("| `") and len(cells) == 6:
            rows.update(dict.fromkeys(re.findall(r"`([^`]+)`", cells[0]), cells[1:]))
    return rows


def test_the_table_lists_every_encoder_as_the_program_knows_it():
    rows = table()
    assert set(rows) == set(SPEECH_ENCODER_DIMS)
    for name, (width, file, licence, *_) in rows.items():
        assert int(width) == SPEECH_ENCODER_DIMS[name], name
        assert licence == file_of(name).licence, name
        if "same" not in file and "`-" not in file:
            assert f"`{file_of(name).name}`" in file, name


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("svc ")])
def test_svc_commands_parse(line: str) -> None:
    words = shlex.split(line, comments=True)
    assert build_parser(words[1]).parse_args(words[1:]).command == words[1]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "bench"))
    yield {name: __import__(name) for name in ("content", "encoders")}
    for name in set(sys.modules) - before:
        if str(ROOT / "scripts") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_bench_commands_parse(bench: dict[str, ModuleType]) -> None:
    lines = [shlex.split(line, comments=True) for line in LINES if line.startswith("python ")]
    assert len(lines) >= 5
    for _, script, *arguments in lines:
        assert (ROOT / script).is_file()
        bench[Path(script).stem].build_parser().parse_args(arguments)


def test_every_table_has_its_place(bench: dict[str, ModuleType]) -> None:
    for name in (bench["content"].SECTION, "speed cpu", "deviation cpu", "hour cpu"):
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        assert TEXT.count(begin) == TEXT.count(end) == 1
        assert TEXT.index(begin) < TEXT.index(end)
