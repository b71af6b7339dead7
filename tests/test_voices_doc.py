"""docs/voices.md is true: its commands parse, its keys exist, its links and tests are there."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from svc.cli.main import build_parser
from svc.config import SvcConfig
from svc.config.synthesizer import VOCODER_NAMES, DataConfig, ModelConfig

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "voices.md").read_text(encoding="utf-8")
LINES = [
    line
    for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.S)
    for line in block.splitlines()
]


@pytest.mark.parametrize("line", LINES)
def test_commands_parse(line: str) -> None:
    words = shlex.split(line, comments=True)
    assert build_parser(words[1]).parse_args(words[1:]).command == words[1]


def test_keys_of_the_config_exist() -> None:
    keys = {
        item.name
        for part in (ModelConfig, DataConfig, SvcConfig)
        for item in dataclasses.fields(part)
    }
    table = TEXT.split("Two things")[0]
    cells = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")]
    named = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    assert len(named) > 8
    assert named <= keys | set(VOCODER_NAMES)


def test_what_it_points_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / "docs" / target).is_file(), target
    for path in re.findall(r"`(tests/[^`]+)`", TEXT):
        assert (ROOT / path).exists(), path
