from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from svc.errors import ConfigError, MissingDependencyError
from svc.vocoder.backends.choose import check_backend, choose_backend, make_decoder
from svc.vocoder.backends.compiled import CompiledGenerator
from svc.vocoder.convolution import LayoutSwitch
from svc.vocoder.generator import Generator

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def make() -> Generator:
    torch.manual_seed(0)
    net = Generator(
        5,
        initial_channels=16,
        upsample_rates=(4, 2, 2),
        upsample_kernel_sizes=(8, 4, 4),
        resblock="2",
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1, 3),),
        sampling_rate=8000,
        gin_channels=6,
    )
    net.eval().requires_grad_(False).fold()
    net.conv_post.weight.mul_(20)
    return net


def told(net: Generator, n_frames: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Any]:
    torch.manual_seed(1)
    f0 = torch.full((1, n_frames), 200.0)
    random = net.m_source.draw(1, n_frames, generator=None, device=CPU)
    return torch.randn(1, 5, n_frames), f0, torch.randn(1, 6, 1), random


def test_torch_is_what_auto_takes() -> None:
    for device in (CPU, CUDA, torch.device("mps")):
        assert choose_backend("auto", device) == "torch"
        assert choose_backend("torch", device) == "torch"
    for name in ("onnx", "openvino"):
        assert choose_backend(name, CPU) == name
        with pytest.raises(ConfigError, match=f"--backend {name} sings a checkpoint on the CPU"):
            choose_backend(name, CUDA)
    with pytest.raises(ConfigError, match='"tensorrt" is unknown: choose auto, torch, onnx, op'):
        choose_backend("tensorrt", CPU)


def test_what_cannot_be_is_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    check_backend("onnx", "fp32", CPU)
    check_backend("openvino", "fp32", CPU)
    check_backend("torch", "bf16", CPU)
    with pytest.raises(ConfigError, match="--precision bf16 and --backend onnx"):
        check_backend("onnx", "bf16", CPU)
    with pytest.raises(ConfigError, match="--precision fp16 needs an accelerator"):
        check_backend("torch", "fp16", CPU)
    monkeypatch.setitem(sys.modules, "onnx", None)
    for backend in ("onnx", "openvino"):
        with pytest.raises(MissingDependencyError, match=rf"svc\[{backend}\]"):
            check_backend(backend, "fp32", CPU)


def test_torch_settles_the_net_itself() -> None:
    net = make()
    x, f0, g, random = told(net, 20)
    expected = net(x, f0, g, random=random)
    assert make_decoder(net, "torch", "fp32") is net
    assert all(part.channels_last for part in net.modules() if isinstance(part, LayoutSwitch))
    found = net(x, f0, g, random=random)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    assert not torch.equal(make_decoder(make(), "torch", "bf16")(x, f0, g, random=random), expected)


def test_other_engines_leave_the_net_as_it_is() -> None:
    net = make()
    x, f0, g, random = told(net, 20)
    expected = net(x, f0, g, random=random)
    for backend in ("onnx", "openvino"):
        decoder = make_decoder(net, backend, "fp32")
        torch.testing.assert_close(decoder(x, f0, g, random=random), expected, atol=2e-6, rtol=0)
        assert (decoder.hop_length, decoder.m_source) == (net.hop_length, net.m_source)
        assert torch.equal(net(x, f0, g, random=random), expected)


def test_a_compiled_generator_keeps_its_source_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, bool]] = []

    def compile_(part: Any, *, dynamic: bool) -> Any:
        asked.append((part, dynamic))
        return part

    monkeypatch.setattr(torch, "compile", compile_)
    net = make()
    x, f0, g, random = told(net, 20)
    expected = net(x, f0, g, random=random)
    decoder = make_decoder(net, "torch", "fp32", compiled=True)
    assert isinstance(decoder, CompiledGenerator)
    torch.testing.assert_close(decoder(x, f0, g, random=random), expected, atol=2e-6, rtol=0)
    ((part, dynamic),) = asked
    assert dynamic  # one set of kernels for all lengths
    with pytest.raises(TypeError):  # it takes the excitation, not the pitch
        part(x, f0, g, random=random)
