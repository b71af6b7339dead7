"""docs/inspect.md is true: its commands parse, what it quotes is what is printed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from svc.cli.main import build_parser
from svc.inspection.readers import _recognise
from svc.inspection.weights import Weights

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "inspect.md").read_text(encoding="utf-8")
(BLOCK,) = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.S)


@pytest.mark.parametrize("line", BLOCK.splitlines())
def test_svc_commands_parse(line: str) -> None:
    words = shlex.split(line, comments=True)
    assert build_parser(words[1]).parse_args(words[1:]).command == "inspect"


def test_the_example_is_what_a_voice_prints(table: Callable[..., Weights]) -> None:
    finding = _recognise(table("G_default_vec768l12"))
    assert f"G_12000.pth: {finding.what}\n" in TEXT
    assert f"note                        {finding.notes[0]}\n" in TEXT
    for key in ("ssl_dim", "gin_channels"):
        assert re.search(rf"^ +{key} +{finding.facts[key]}$", TEXT, flags=re.M), key
    start = finding.fits[0].partition(", filter")[0]
    assert f"fits                        {start}, ...\n" in TEXT
    assert f"{finding.fits[1].partition(', vec768l12-onnx')[0]}, ...\n" in TEXT
