"""docs/mixing.md is true: its commands parse, its table of weights is the program's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from svc.cli.main import build_parser
from svc.export.mix import MODES, weights_of

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "mixing.md").read_text(encoding="utf-8")
LINES = [
    line
    for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.S)
    for line in block.splitlines()
    if line.startswith("svc ")
]


@pytest.mark.parametrize("line", LINES)
def test_commands_parse(line: str) -> None:
    words = shlex.split(line, comments=True)
    assert build_parser(words[1]).parse_args(words[1:]).command == words[1]


def test_the_table_of_weights() -> None:
    lines = [line for line in TEXT.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    head = next(row for row in rows if row[0] == "`--mode`")
    found = {mode: row for row in rows for mode in MODES if row[0].startswith(f"`{mode}`")}
    assert set(found) == set(MODES)
    for mode, row in found.items():
        for title, cell in zip(head[2:], row[2:], strict=True):
            percents = [float(word) for word in title.strip("`").split()[1:]]
            assert cell == ", ".join(f"{weight:.2f}" for weight in weights_of(percents, mode))
