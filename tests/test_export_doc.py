"""docs/export.md is true: its commands parse, its inputs are the graphs'."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from svc.cli.main import build_parser

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "export.md").read_text(encoding="utf-8")
MOEVS = TEXT.split("## Profile moevs")[1].split("## Profile full")[0]
LINES = [
    line
    for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.S)
    for line in block.splitlines()
    if line.startswith("svc ")
]


def cells(text: str) -> list[list[str]]:
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@pytest.mark.parametrize("line", LINES)
def test_commands_parse(line: str) -> None:
    words = shlex.split(line, comments=True)
    assert build_parser(words[1]).parse_args(words[1:]).command == words[1]


def test_inputs_of_the_voice() -> None:
    import inspect

    from svc.export.moevs_synthesizer import MoevsSynthesizer

    section = MOEVS.split("### The voice")[1].split("### Diffusion")[0]
    names = list(dict.fromkeys(row[0].strip("`") for row in cells(section)[1:]))
    assert names == list(inspect.signature(MoevsSynthesizer.forward).parameters)[1:]


def test_inputs_of_the_diffusion_graphs() -> None:
    import inspect

    from svc.export import moevs_diffusion as graphs

    classes = {
        "encoder": graphs.MoevsEncoder,
        "denoise": graphs.MoevsDenoiser,
        "pred": graphs.MoevsJump,
        "after": graphs.MoevsAfter,
    }
    section = MOEVS.split("### Diffusion")[1].split("### Vocoder")[0]
    rows = cells(section)[1:]
    assert [row[0] for row in rows] == list(graphs.PARTS) == list(classes)
    for name, inputs, _ in rows:
        wanted = list(inspect.signature(classes[name].forward).parameters)[1:]
        assert re.findall(r"`(\w+)`", inputs) == wanted


def test_keys_of_the_description() -> None:
    from svc.config import load_config
    from svc.config.templates import find_template
    from svc.export.moevs_config import voice_config

    listed = re.search(r"has the original's keys: (.*?)\. `Hubert`", MOEVS, flags=re.S)
    assert listed is not None
    config = load_config(find_template("template.json"))
    assert re.findall(r"`(\w+)`", listed[1]) == list(voice_config(config, "x"))
