"""A generator that sings in blocks makes the samples that it makes of the whole window."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from svc.config import load_config
from svc.synthesizer.ends import generator_reach
from svc.synthesizer.model import Synthesizer
from svc.vocoder.backends.base import GeneratorPart
from svc.vocoder.backends.blocks import BlockGenerator
from svc.vocoder.backends.choose import make_decoder
from svc.vocoder.source import SourceNoise

ROOT = Path(__file__).resolve().parents[3]


def _reference() -> ModuleType:
    path = ROOT / "scripts" / "reference_nets.py"
    spec = importlib.util.spec_from_file_location("svc_reference_nets_of_blocks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def voice(**model: Any) -> Synthesizer:
    """The default voice's kernels, rates and dilations on few channels, in float64."""
    config = load_config(ROOT / "configs" / "template.json")
    small = dataclasses.replace(
        config.model, inter_channels=16, hidden_channels=16, filter_channels=32, n_layers=2,
        upsample_initial_channel=32, gin_channels=8, n_speakers=2, **model,
    )  # fmt: skip
    net = Synthesizer.from_config(dataclasses.replace(config, model=small))
    net.eval().requires_grad_(False).double()
    _reference().fill_weights(net)  # fresh nets whisper: everything is to be heard
    net.dec.fold()
    return net


def song(net: Synthesizer, n: int, *, mixed: bool) -> tuple[Tensor, Tensor, Tensor, SourceNoise]:
    draw = torch.Generator().manual_seed(1)
    z = torch.randn(2, 16, n, dtype=torch.double, generator=draw)
    f0 = torch.full((2, n), 220.0)
    f0[:, n // 2 :] = 300.0
    g = torch.randn(2, 8, n if mixed else 1, dtype=torch.double, generator=draw)
    return z, f0, g, net.dec.m_source.draw(2, n, generator=draw, device=z.device)


def in_blocks(net: Synthesizer, reach: int) -> BlockGenerator:
    return BlockGenerator(
        GeneratorPart(net.dec, "whole"), net.dec.m_source, hop_length=512, reach=reach, frames=64
    )


@pytest.mark.parametrize(
    "model", [{}, {"vocoder_name": "nsf-snake-hifigan"}, {"resblock": "2"}],
    ids=["default", "snake", "type 2"],
)  # fmt: skip
@pytest.mark.parametrize("mixed", [False, True], ids=["one speaker", "a mix"])
def test_the_same_samples(model: dict[str, Any], mixed: bool) -> None:
    net = voice(**model)
    blocks = in_blocks(net, generator_reach(net.config))
    for n in (10, 64, 65, 150):
        z, f0, g, random = song(net, n, mixed=mixed)
        expected = net.dec(z, f0, g, random=random)
        assert (blocks(z, f0, g, random=random) - expected).abs().max() < 1e-6  # made float32


def test_a_shorter_reach_would_be_heard() -> None:
    net = voice()
    z, f0, g, random = song(net, 150, mixed=False)
    expected = net.dec(z, f0, g, random=random)
    found = in_blocks(net, generator_reach(net.config) - 6)(z, f0, g, random=random)
    assert (found - expected).abs().max() > 1e-6


def test_blocks_hold_their_overlaps() -> None:
    net = voice()
    with pytest.raises(ValueError, match="do not hold"):
        in_blocks(net, 32)


def test_blocks_are_for_cpus_and_for_whom_the_reach_is_known() -> None:
    net = voice().float()
    assert make_decoder(net.dec, "torch", "fp32") is net.dec
    again = voice().float()
    assert isinstance(make_decoder(again.dec, "torch", "fp32", reach=14), BlockGenerator)
