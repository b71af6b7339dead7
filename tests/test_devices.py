"""Devices: what is asked for is used, or it is an error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from svc.devices import (
    available_devices,
    best_precision,
    exact_arithmetic,
    exact_device,
    inference_dtype,
    resolve_device,
)
from svc.errors import ConfigError, DeviceError


def test_cpu_is_always_there() -> None:
    assert available_devices()[-1] == "cpu"
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device(None) == resolve_device("auto") == torch.device(available_devices()[0])


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "gpu", "cuda"])
def test_an_unmet_device_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(DeviceError, match="cpu") as caught:
        resolve_device(name)
    assert f'"{name}"' in str(caught.value)


# ---- precision of a CUDA device ------------------------------------------------------------------


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[object]]:
    """Make up what CUDA devices can do; returns the devices that were made current."""

    def make_up(bf16: dict[int, bool], capability: tuple[int, int]) -> list[object]:
        entered: list[object] = []
        current = [0]

        @contextmanager
        def be_current(device: torch.device) -> Iterator[None]:
            entered.append(device)
            before, current[0] = current[0], device.index
            yield
            current[0] = before

        def supported(including_emulation: bool = True) -> bool:
            return including_emulation or bf16[current[0]]

        monkeypatch.setattr(torch.cuda, "device", be_current)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
        return entered

    return make_up


def test_bfloat16_is_asked_of_the_device_that_computes(cuda: Callable[..., list[object]]) -> None:
    entered = cuda({0: True, 1: False}, (7, 5))
    second = torch.device("cuda:1")
    assert best_precision(torch.device("cuda:0")) == "bf16"
    assert best_precision(torch.device("cuda")) == "bf16"  # the current one
    assert best_precision(second) == "fp32"
    assert best_precision(second, fp16=True) == "fp16"
    assert entered.count(second) == 2
    with pytest.raises(ConfigError, match="GPU has no bfloat16; use fp16"):
        inference_dtype("bf16", second, flag="--precision")
    assert inference_dtype("bf16", torch.device("cuda:0"), flag="--x") == torch.bfloat16


@pytest.mark.parametrize(("capability", "expected"), [((6, 1), "fp32"), ((7, 0), "fp16")])
def test_fp16_is_chosen_where_there_are_units_for_it(
    cuda: Callable[..., list[object]], capability: tuple[int, int], expected: str
) -> None:
    cuda({0: False}, capability)
    assert best_precision(torch.device("cuda:0"), fp16=True) == expected
    assert best_precision(torch.device("cuda:0")) == "fp32"


# ---- float64 -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("properties", "has"),
    [
        (SimpleNamespace(has_fp64=True), True),
        (SimpleNamespace(has_fp64=False), False),
        (SimpleNamespace(), False),
    ],
)
def test_where_float64_is_computed(
    properties: SimpleNamespace, has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda device: properties)
    xpu, processor = torch.device("xpu:0"), torch.device("cpu")
    assert exact_device(xpu) == (xpu if has else processor)
    assert exact_device(torch.device("mps")) == processor
    for own in (processor, torch.device("cuda:1")):
        assert exact_device(own) == own


# ---- exact kernels -------------------------------------------------------------------------------

CUDA = torch.device("cuda")


def kernel_settings() -> dict[str, object]:
    cudnn = torch.backends.cudnn
    return {
        "benchmark": cudnn.benchmark,
        "deterministic": cudnn.deterministic,
        "convolutions": cudnn.allow_tf32,
        "products": torch.get_float32_matmul_precision(),
    }


EXACT = {"benchmark": False, "deterministic": True, "convolutions": False, "products": "highest"}


@pytest.fixture
def inexact() -> Iterator[dict[str, object]]:
    """Settings of a program that wants speed."""
    before = kernel_settings()
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("medium")
    yield kernel_settings()
    torch.backends.cudnn.benchmark = bool(before["benchmark"])
    torch.set_float32_matmul_precision(str(before["products"]))
    assert kernel_settings() == before


def test_a_cuda_device_computes_exactly_within(inexact: dict[str, object]) -> None:
    assert inexact["convolutions"] is True  # torch's default
    with exact_arithmetic(CUDA):
        assert kernel_settings() == EXACT
        with exact_arithmetic(torch.device("cuda:1")):
            assert kernel_settings() == EXACT
        assert kernel_settings() == EXACT
    assert kernel_settings() == inexact
    with pytest.raises(KeyError), exact_arithmetic(CUDA):
        raise KeyError
    assert kernel_settings() == inexact


@pytest.mark.parametrize("device", ["cpu", "mps", "xpu"])
def test_other_devices_are_left_as_they_are(inexact: dict[str, object], device: str) -> None:
    with exact_arithmetic(torch.device(device)):
        assert kernel_settings() == inexact


def test_the_last_of_several_threads_puts_the_settings_back(inexact: dict[str, object]) -> None:
    inside, first_is_out = threading.Event(), threading.Event()
    seen: list[dict[str, object]] = []

    def render() -> None:
        with exact_arithmetic(CUDA):
            inside.set()
            assert first_is_out.wait(10)
            seen.append(kernel_settings())

    other = threading.Thread(target=render)
    with exact_arithmetic(CUDA):
        other.start()
        assert inside.wait(10)
    first_is_out.set()
    other.join()
    assert seen == [EXACT]
    assert kernel_settings() == inexact


@pytest.mark.skipif(
    not hasattr(torch.backends.cudnn, "conv"), reason="this torch has the older settings only"
)
def test_newer_settings_of_a_program_count_too() -> None:
    """They contradict the older ones, which torch then refuses to read."""
    cudnn: Any = torch.backends.cudnn
    parts = (cudnn.conv, torch.backends.cuda.matmul)
    before = [part.fp32_precision for part in parts]
    cudnn.conv.fp32_precision, parts[1].fp32_precision = "ieee", "tf32"
    mixed = [part.fp32_precision for part in (*parts, cudnn.rnn)]
    try:
        with exact_arithmetic(CUDA):
            for part in (*parts, cudnn.rnn):
                assert part.fp32_precision in ("ieee", "none")
        assert (
            [part.fp32_precision for part in (*parts, cudnn.rnn)]
            == mixed
            == ["ieee", "tf32", "tf32"]
        )
    finally:
        for part, value in zip(parts, before, strict=True):
            part.fp32_precision = value
