"""docs/diffusion.md is true: its commands parse, its keys and files exist."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from svc.cli.main import build_parser
from svc.config.diffusion import DiffusionTrain

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "diffusion.md").read_text(encoding="utf-8")
LINES = [
    line
    for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.S)
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]


@pytest.mark.parametrize("line", LINES)
def test_commands_parse(line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "svc":
        assert build_parser(words[1]).parse_args(words[1:]).command == words[1]
    elif words[:2] == ["python", "scripts/diffusion_run.py"]:
        assert script().arguments(words[2:]).diffusion_minutes == 25
    else:
        assert (ROOT / words[1]).is_file(), line


def test_keys_and_flags_exist() -> None:
    text = TEXT.split("## Training\n")[1].split("\n## ")[0]
    keys = {item.name for item in dataclasses.fields(DiffusionTrain)}
    assert set(re.findall(r"`train\.(\w+)`", text)) <= keys
    bullets = {
        "save_opt",
        "cache_all_data",
        "cache_device",
        "cache_fp16",
        "num_workers",
        "amp_dtype",
    }
    assert bullets <= keys
    assert all(f"`{key}" in text for key in bullets)
    helps = "".join(build_parser(name).format_help() for name in ("train-diff", "preprocess"))
    known = {
        flag
        for name in ("train-diff", "preprocess")
        for action in subparser(name)._actions
        for flag in action.option_strings
    }
    assert "train-diff" in helps
    assert set(re.findall(r"`(--\w+)", text)) <= known


def test_the_measured_tables_are_there() -> None:
    methods = ("ddim", "pndm", "dpm-solver", "dpm-solver++", "unipc")
    tables = {
        "diffusion speed cpu 1": ("ddpm", *methods),
        "diffusion batches cpu 1": ("fp32", "bf16"),
        "vocoder speed cpu 1": ("template_vocoder", "template_vocoder_small"),
        "diffusion quality": methods,
        "diffusion precision": ("bf16", "fp16"),
    }
    for name, names in tables.items():
        found = re.search(f"<!-- {name}: begin -->(.*)<!-- {name}: end -->", TEXT, flags=re.S)
        assert found is not None
        rows = [line.split("|")[1].strip() for line in found[1].splitlines() if line[:2] == "| "]
        assert set(names) <= set(rows), name


def test_the_flags_of_precision_and_vocoder_exist() -> None:
    text = TEXT.split("## Speed and quality\n")[1].split("\n## ")[0]
    known = {flag for action in subparser("infer")._actions for flag in action.option_strings}
    named = set(re.findall(r"`(--\w+)", text))
    assert named == {"--diffusion_precision", "--diffusion_speedup", "--compat"}
    assert named <= known
    assert (ROOT / "scripts/bench/diffusion.py").is_file()


def subparser(name: str) -> Any:
    actions = build_parser(name)._subparsers
    assert actions is not None
    return actions._group_actions[0].choices[name]  # type: ignore[index]


def script() -> Any:
    spec = importlib.util.spec_from_file_location("run", ROOT / "scripts" / "diffusion_run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
