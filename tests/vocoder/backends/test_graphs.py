"""Generators on onnxruntime and OpenVINO: the same samples, whatever the lengths and the company."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from svc.errors import DeviceError, ExportError, MissingDependencyError, SvcError
from svc.vocoder.backends import openvino, recording
from svc.vocoder.backends.base import GraphGenerator
from svc.vocoder.backends.onnx import OnnxGenerator
from svc.vocoder.backends.openvino import OpenvinoGenerator
from svc.vocoder.generator import Generator

Make = Callable[[Generator], GraphGenerator]
ENGINES: list[Make] = [OnnxGenerator, OpenvinoGenerator]
SIZES = ((1, 30, 1), (2, 17, 17), (2, 1, 1), (1, 75, 75), (3, 9, 1))  # clips, frames, speaker's


def make(**changes: Any) -> Generator:
    torch.manual_seed(0)
    net = Generator(
        5,
        **{
            "initial_channels": 32,
            "upsample_rates": (8, 4, 2, 2),
            "upsample_kernel_sizes": (16, 8, 4, 4),
            "resblock": "1",
            "resblock_kernel_sizes": (3, 5),
            "resblock_dilation_sizes": ((1, 3, 5), (1, 3, 5)),
            "sampling_rate": 16000,
            "gin_channels": 6,
            **changes,
        },
    )
    net.eval().requires_grad_(False).fold()
    net.conv_post.weight.mul_(20)  # an untrained net whispers
    return net


def told(net: Generator, batch: int, n_frames: int, speaker_frames: int) -> dict[str, Any]:
    torch.manual_seed(batch + n_frames)
    f0 = torch.linspace(100, 300, n_frames).repeat(batch, 1)
    f0[:, ::7] = 0
    random = net.m_source.draw(batch, n_frames, generator=None, device=f0.device)
    g = torch.randn(batch, 6, speaker_frames)
    return {"x": torch.randn(batch, 5, n_frames), "f0": f0, "g": g, "random": random}


@torch.inference_mode()
def sing(net: Any, given: dict[str, Any]) -> Tensor:
    wav: Tensor = net(given["x"], given["f0"], given["g"], random=given["random"])
    return wav


def decibels(expected: Tensor, found: Tensor) -> float:
    return float(10 * torch.log10(expected.square().sum() / (found - expected).square().sum()))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "changes",
    [{}, {"resblock": "2", "upsample_kernel_sizes": (17, 8, 5, 4)}],  # the second: odd surplus
)
def test_graphs_sing_what_the_net_sings(engine: Make, changes: dict[str, Any]) -> None:
    """Measured: 6e-7."""
    net = make(**changes)
    graph = engine(net)
    for size in SIZES:
        given = told(net, *size)
        expected = sing(net, given)
        found = sing(graph, given)
        assert found.shape == expected.shape
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(found, expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_results_belong_to_the_caller(engine: Make) -> None:
    """They are not overwritten by the next song, and two threads do not disturb each other."""
    net = make()
    graph = engine(net)
    songs = [told(net, 1, n_frames, 1) for n_frames in (30, 30, 12, 55)]
    alone = [sing(graph, song) for song in songs]
    kept = [wav.clone() for wav in alone]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda song: sing(graph, song), songs * 3))
    assert all(torch.equal(*pair) for pair in zip(alone, kept))
    assert all(torch.equal(*pair) for pair in zip(together, kept * 3))


@pytest.mark.parametrize(("precision", "capability"), [("bf16", "BF16"), ("fp16", "FP16")])
def test_openvino_in_half_precision(precision: str, capability: str) -> None:
    """Nearly the same; the last stages are exact, so what is rounded is rounded before them."""
    try:
        openvino.open_core(precision)
    except DeviceError as error:
        pytest.skip(str(error))
    net = make()
    graph = OpenvinoGenerator(net, precision)
    given = told(net, 1, 40, 1)
    expected, found = sing(net, given), sing(graph, given)
    assert not torch.equal(found, sing(OpenvinoGenerator(net), given))
    assert decibels(expected, found) > 50
    silent = copy.deepcopy(net)  # nothing but the last two stages sings
    silent.ups[2].weight.zero_()
    expected, found = sing(silent, given), sing(OpenvinoGenerator(silent, precision), given)
    torch.testing.assert_close(found, expected, atol=5e-6, rtol=0)


def test_a_precision_that_the_cpu_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
            return ["FP32", "INT8"]

    class Package:
        @staticmethod
        def Core() -> Core:
            return Core()

    monkeypatch.setitem(sys.modules, "openvino", Package)
    with pytest.raises(DeviceError, match="--precision bf16 and --backend openvino: this CPU has"):
        OpenvinoGenerator(make(), "bf16")


@pytest.mark.parametrize(
    ("engine", "package", "extra"),
    [
        (OnnxGenerator, "onnxruntime", "onnx"),
        (OnnxGenerator, "onnx", "onnx"),
        (OpenvinoGenerator, "openvino", "openvino"),
        (OpenvinoGenerator, "onnx", "openvino"),
    ],
)
def test_a_missing_package(
    monkeypatch: pytest.MonkeyPatch, engine: Make, package: str, extra: str
) -> None:
    net = make()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf'"{package}" is not.*"svc\[{extra}\]"'):
        engine(net)


def test_what_cannot_be_recorded_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such operator\nand much more")

    monkeypatch.setattr(recording.torch.onnx, "export", fail)
    with pytest.raises(ExportError, match=r"generator as a graph: no such operator; use --backend"):
        OnnxGenerator(make())


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_that_stops_is_one_line(engine: Make) -> None:
    net = make()
    graph = engine(net)
    given = told(net, 1, 8, 1)
    given["x"] = given["x"][:, :3]  # not the net's width
    with pytest.raises(SvcError, match=r"^(onnxruntime|OpenVINO) stopped: .*; use --backend torch"):
        sing(graph, given)
