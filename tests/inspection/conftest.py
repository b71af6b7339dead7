from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from svc.checkpoint import save_checkpoint
from svc.config import SvcConfig, parse_config, save_config
from svc.inspection import Report, inspect
from svc.inspection.weights import Weights
from svc.synthesizer import Synthesizer

TESTS = Path(__file__).resolve().parents[1]


def _module(path: Path) -> Any:
    """A module of other tests: pytest's way of importing tests knows no neighbours."""
    name = f"svc_tests_of_inspection_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def hostile() -> Any:
    """The attacks on the encoders' loaders, and what watches that nothing runs."""
    return _module(TESTS / "speech" / "test_hostile.py")


@pytest.fixture(scope="session")
def wave_formats() -> Any:
    """Small nets in the formats of the big ones."""
    return _module(TESTS / "speech" / "wave_formats.py")


@pytest.fixture(scope="session")
def tables(shared: Path) -> Path:
    return shared / "spec" / "tables"


def _without_data(rows: Any) -> dict[str, Tensor]:
    if isinstance(rows, dict):
        return {name: torch.empty(shape, device="meta") for name, shape in rows.items()}
    state = {}
    for row in rows:
        name, shape, dtype = (
            (row["key"], row["shape"], row["dtype"]) if isinstance(row, dict) else row
        )
        state[name] = torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
    return state


@pytest.fixture(scope="session")
def table(tables: Path) -> Callable[..., Weights]:
    """A function ``table(name, **content)``: the weights that a table of the spec lists, without values."""

    def read(name: str, key: str = "model", **content: Any) -> Weights:
        raw = json.loads((tables / f"statedict_{name}.json").read_text())
        rows = raw
        if isinstance(raw, dict):
            rows = raw.get("state_dict") or raw.get("shapes") or raw
        state = _without_data(rows)
        return Weights(Path(f"{name}.pth"), {key: state, **content}, "torch")

    return read


RAW: dict[str, Any] = {
    "train": {"segment_size": 4096},
    "data": {
        "sampling_rate": 44100,
        "filter_length": 2048,
        "hop_length": 512,
        "win_length": 2048,
        "unit_interpolate_mode": "nearest",
    },
    "model": {
        "inter_channels": 8,
        "hidden_channels": 8,
        "filter_channels": 12,
        "n_heads": 2,
        "n_layers": 1,
        "kernel_size": 3,
        "p_dropout": 0.1,
        "resblock": "1",
        "resblock_kernel_sizes": [3],
        "resblock_dilation_sizes": [[1, 3, 5]],
        "upsample_rates": [8, 8, 2, 2, 2],
        "upsample_initial_channel": 32,
        "upsample_kernel_sizes": [16, 16, 4, 4, 4],
        "gin_channels": 4,
        "ssl_dim": 384,
        "n_speakers": 2,
        "n_flow_layer": 1,
        "speech_encoder": "whisper-ppg-tiny",
    },
    "spk": {"alice": 0, "bob": 1},
}


@pytest.fixture
def make_config() -> Callable[..., SvcConfig]:
    """A function that makes the config of a small net; keyword arguments change its section model."""

    def make(**model: Any) -> SvcConfig:
        raw = {**RAW, "model": {**RAW["model"], **model}}
        return parse_config(raw, where="test")

    return make


@pytest.fixture
def save_voice(make_config: Callable[..., SvcConfig], tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a voice in the original's format, with its config beside it."""

    def save(
        name: str = "G_100.pth",
        *,
        change: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
        beside: bool = True,
        **model: Any,
    ) -> Path:
        config = make_config(**model)
        torch.manual_seed(0)
        state = change(Synthesizer.from_config(config).state_dict())
        path = tmp_path / name
        save_checkpoint(
            {"model": state, "iteration": 7, "optimizer": None, "learning_rate": 1e-4}, path
        )
        if beside:
            save_config(config, tmp_path / "config.json")
        return path

    return save


@pytest.fixture
def look() -> Callable[..., Report]:
    """A function that inspects a path and checks what holds for every report."""

    def check(path: Path, **options: Any) -> Report:
        report = inspect(path, **options)
        plain = json.loads(json.dumps(report.to_plain()))
        assert plain["path"] == str(path)
        assert plain["good"] == (report.damage is None and report.safety.safe is not False)
        texts = [report.finding.what, report.safety.how, report.damage or "", *report.finding.fits]
        assert all(text.isprintable() for text in [*texts, *plain["notes"]]), texts
        return report

    return check
