"""State-dict names, order, shapes and dtypes, and the order of unique parameters (spec_core 13)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from svc.config import load_config
from svc.synthesizer import Synthesizer
from svc.vocoder import Discriminator, Generator

VARIANTS = (
    "default_vec768l12",
    "depthwise",
    "flow_share_parameter",
    "no_auto_f0",
    "resblock2",
    "snake",
    "tiny",
    "tiny_snake",
    "tiny_vec256l9",
    "transformer_flow",
    "transformer_flow_shared",
    "vec256l9",
    "vol_embedding",
    "whisper1024",
    "whisperlarge1280",
)


def assert_tables(net: nn.Module, tables: Path, name: str) -> None:
    state = [
        [key, list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
        for key, tensor in net.state_dict().items()
    ]
    assert state == json.loads((tables / f"statedict_{name}.json").read_text())
    order = [[key, list(p.shape), p.requires_grad] for key, p in net.named_parameters()]
    assert order == json.loads((tables / f"paramorder_{name}.json").read_text())


@pytest.mark.parametrize("variant", VARIANTS)
def test_synthesizer_equals_its_tables(shared: Path, variant: str) -> None:
    tables = shared / "spec" / "tables"
    with torch.device("meta"):
        net = Synthesizer.from_config(load_config(tables / f"config_{variant}.json"))
    assert_tables(net, tables, f"G_{variant}")


def test_every_table_is_compared(shared: Path) -> None:
    files = (shared / "spec" / "tables").glob("statedict_G_*.json")
    assert sorted(VARIANTS) == sorted(file.stem.removeprefix("statedict_G_") for file in files)


@pytest.mark.parametrize(("spectral", "name"), [(False, "D"), (True, "D_spectral")])
def test_discriminator_equals_its_tables(shared: Path, spectral: bool, name: str) -> None:
    with torch.device("meta"):
        net = Discriminator(use_spectral_norm=spectral)
    assert_tables(net, shared / "spec" / "tables", name)


def test_the_generator_serves_as_mel_vocoder(
    shared: Path, mel_vocoder: Callable[[], Generator]
) -> None:
    with torch.device("meta"):
        net = mel_vocoder()
    state = [(key, list(tensor.shape)) for key, tensor in net.state_dict().items()]
    table = json.loads((shared / "spec" / "tables" / "statedict_nsf_hifigan.json").read_text())
    assert state == [(row["key"], row["shape"]) for row in table["state_dict"]]
