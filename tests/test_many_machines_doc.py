"""docs/many_machines.md is true: its commands parse, its flags exist, its figures are those of the program."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from svc.cli import infer_sharing
from svc.cli.main import build_parser
from svc.conversion.claims import STALE_SECONDS

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "many_machines.md").read_text(encoding="utf-8")
LINES = [
    line
    for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.S)
    for line in block.splitlines()
]


@pytest.mark.parametrize("line", LINES)
def test_commands_parse(line: str) -> None:
    words = shlex.split(line, comments=True)
    words = words[words.index("svc") + 1 :]
    assert words[0] == "infer"
    assert build_parser("infer").parse_args(words).clean_names == ["album"]


def test_flags_exist() -> None:
    parser = build_parser("infer")
    actions = parser._subparsers._group_actions[0].choices["infer"]._actions  # type: ignore
    known = {flag for action in actions for flag in action.option_strings}
    known |= {"--max-restarts", "--rdzv-id", "-v"}  # of torchrun; of svc
    prose = re.sub(r"```.*?```", "", TEXT, flags=re.S)
    assert set(re.findall(r"`(--?[a-z]\w*(?:-\w+)*)", prose)) <= known


def test_the_time_is_that_of_the_program() -> None:
    assert STALE_SECONDS == infer_sharing.STALE_SECONDS
    assert f"`--share_timeout` seconds ({STALE_SECONDS:g})" in TEXT
