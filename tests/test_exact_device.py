"""Inference on devices without float64 (mps, some xpu): float64 is computed elsewhere, and the result is the same.

On the CPU that shows that the choice of the place is asked for and changes nothing; on a CUDA device, which then
counts as one without float64, that nothing of it is there and that tensors of two places never meet.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from svc.f0.high_register import choose, whistle_spectrum
from svc.speech.frontend import FrontEnd, WaveMoments
from svc.synthesizer import ends
from svc.vocoder.mini_nsf import MiniNsfGenerator
from svc.vocoder.source import HarmonicSource

PLACES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]


class _NoFloat64(TorchDispatchMode):
    """Fails where an operation leaves a float64 tensor on an accelerator."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, Tensor) and one.device.type != "cpu":
                assert one.dtype != torch.float64, func
        return made


def front_end(device: str) -> Tensor:
    torch.manual_seed(1)
    net = FrontEnd((8,) * 7, bias=False, layer_norm=False).to(device)
    wav = torch.randn(2, 4000).to(device)
    return net(wav, WaveMoments.of(list(wav)))


def source(device: str) -> Tensor:
    torch.manual_seed(1)
    net = HarmonicSource(sampling_rate=8000, hop_length=16).to(device)
    f0 = torch.tensor([[220.0, 221.0, 0.0, 230.0]], device=device)
    draws = torch.Generator().manual_seed(3)
    return net(f0, net.draw(1, 4, generator=draws, device=f0.device))


def mini_nsf(device: str) -> Tensor:
    torch.manual_seed(1)
    net = MiniNsfGenerator(
        4,
        sampling_rate=8000,
        upsample_rates=(4, 2, 2),
        upsample_kernel_sizes=(8, 4, 4),
        initial_channels=8,
        resblock="1",
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1, 3, 5),),
    ).to(device)
    return net.excitation(torch.tensor([[220.0, 221.0, 0.0, 230.0]], device=device))


def phase(device: str) -> Tensor:
    net = HarmonicSource(sampling_rate=8000, hop_length=16)
    f0, start = torch.tensor([220.0, 221.0, 0.0]), torch.linspace(0, 0.9, 9)
    return ends._phase_at(net, f0.to(device), start.to(device))


def register(device: str) -> Tensor:
    wave = torch.sin(torch.arange(8000) * (2 * torch.pi * 1200 / 16000))[None].to(device)
    power = whistle_spectrum(wave)
    f0 = torch.full((power.shape[1],), 600.0, device=device)
    return torch.from_numpy(choose(power, f0, 2 * f0, 1500.0))


USERS: list[tuple[str, Callable[[str], Tensor]]] = [
    ("svc.speech.frontend", front_end),
    ("svc.vocoder.source", source),
    ("svc.vocoder.mini_nsf", mini_nsf),
    ("svc.synthesizer.ends", phase),
    ("svc.f0.high_register", register),
]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("device", PLACES)
@pytest.mark.parametrize(("module", "compute"), USERS)
def test_where_float64_is_computed_changes_nothing(
    module: str, compute: Callable[[str], Tensor], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = compute("cpu")
    asked: list[torch.device] = []

    def elsewhere(place: torch.device) -> torch.device:
        asked.append(place)
        return torch.device("cpu")

    monkeypatch.setattr(importlib.import_module(module), "exact_device", elsewhere)
    with _NoFloat64():
        found = compute(device)
    assert asked
    assert asked[0].type == device
    if device == "cpu":
        assert torch.equal(found, expected)
    else:
        torch.testing.assert_close(found.cpu(), expected, atol=1e-5, rtol=0)
