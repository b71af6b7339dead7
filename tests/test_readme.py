"""The README is true: its commands parse, its files exist, it names every sub-command."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from svc.cli.main import COMMANDS, build_parser

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.S)
LINES = [line for block in BLOCKS for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("svc ")])
def test_svc_commands_parse(line: str) -> None:
    words = shlex.split(line, comments=True)
    args = build_parser(words[1]).parse_args(words[1:])
    assert args.command == words[1]


def test_scripts_exist() -> None:
    scripts = [shlex.split(line, comments=True)[1] for line in LINES if line.startswith("bash ")]
    assert {"scripts/quickstart.sh", "scripts/test.sh"} <= set(scripts)
    for script in scripts:
        assert (ROOT / script).is_file(), script


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_named_and_has_help(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command in README
    with pytest.raises(SystemExit) as caught:
        build_parser(command).parse_args([command, "--help"])
    assert caught.value.code == 0
    assert command in capsys.readouterr().out


def test_the_nine_original_commands_are_there() -> None:
    nine = {
        "resample",
        "preprocess",
        "train",
        "train-diff",
        "train-cluster",
        "train-index",
        "infer",
        "compress",
        "onnx-export",
    }
    assert nine <= set(COMMANDS)
