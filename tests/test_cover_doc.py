"""docs/cover.md is true: its commands parse, its plan is read, its table lists all keys."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from svc.audio.limiter import AHEAD_SECONDS, CEILING_DB, RELEASE_SECONDS
from svc.cli.main import build_parser
from svc.conversion import InferOptions
from svc.conversion.cover_plan import _OPTION_KEYS, _OWN_KEYS, Defaults, make_stems, read_plan
from svc.conversion.separators import CommandSeparator, sort_stems

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "cover.md").read_text(encoding="utf-8")
LINES = [
    line
    for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.S)
    for line in block.splitlines()
]


@pytest.mark.parametrize("line", LINES)
def test_commands_parse(line: str) -> None:
    words = shlex.split(line, comments=True)
    assert words[:2] == ["svc", "cover"]
    args = build_parser("cover").parse_args(words[1:])
    if args.separator is not None:
        assert CommandSeparator(args.separator).command == args.separator


def test_flags_exist() -> None:
    parser = build_parser("cover")
    actions = parser._subparsers._group_actions[0].choices["cover"]._actions  # type: ignore
    known = {flag for action in actions for flag in action.option_strings}
    prose = re.sub(r"```.*?```", "", TEXT, flags=re.S)
    assert set(re.findall(r"`(--?[a-z]\w*)", prose)) <= known


def test_the_plan_is_read(tmp_path: Path) -> None:
    plan = tmp_path / "cover.json"
    plan.write_text(re.findall(r"```json\n(.*?)```", TEXT, flags=re.S)[0])
    stems = make_stems(read_plan(plan), Defaults("alice", InferOptions()))
    assert [stem.name for stem in stems] == ["lead", "backing", "instrumental"]


def test_the_table_lists_all_keys() -> None:
    section = TEXT.split("## Plan\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", "".join(rows))) == {*_OWN_KEYS, *_OPTION_KEYS}


def test_the_limiter_is_as_described() -> None:
    assert (CEILING_DB, AHEAD_SECONDS, RELEASE_SECONDS) == (-1.0, 0.005, 0.05)
    assert "ceiling -1 dBTP, look-ahead 5 ms, release 50 ms" in TEXT


def test_the_names_of_stems_are_known() -> None:
    sentence = TEXT.split("the song's own name: ")[1].split("stay.")[0]
    sung, kept = sentence.split(" too; ")
    others = [Path(f"{name}.wav") for name in re.findall(r"`(\w+)`", kept)]
    assert len(others) == 9
    for name in ("lead", "vocals"):
        assert f"`{name}`" in sung
        stems = sort_stems([Path(f"{name}.wav"), Path("backing.wav"), *others], "x")
        assert (len(stems.lead), len(stems.backing), list(stems.rest)) == (1, 1, others)
