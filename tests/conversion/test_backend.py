"""Errors that say that a memory is full, in the words of those who raise them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from svc.conversion import voice
from svc.conversion.backend import out_of_memory
from svc.conversion.converter import Converter
from svc.errors import DeviceError

OF_A_GPU = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.10 GB, other allocations: 1 MB)"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    RuntimeError("HIP out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
    RuntimeError("level_zero backend failed with error: 40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)"),
]
OF_THE_MACHINE = [
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes"),
]


@pytest.mark.parametrize("error", [*OF_A_GPU, *OF_THE_MACHINE])
def test_a_full_memory_is_known(error: Exception) -> None:
    assert out_of_memory(error)


@pytest.mark.parametrize(
    "text",
    ["shape mismatch", "CUDA error: device-side assert triggered", "CUDNN_STATUS_EXECUTION_FAILED"],
)
def test_other_faults_are_not(text: str) -> None:
    assert not out_of_memory(RuntimeError(text))


def load(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(voice, "load_voice", fail)
    Converter.from_files(Path("G.pth"))


@pytest.mark.parametrize("error", OF_A_GPU)
def test_a_gpu_that_is_full_at_loading(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="use -d cpu, or free the GPU's memory"):
        load(monkeypatch, error)


@pytest.mark.parametrize("error", OF_THE_MACHINE)
def test_a_machine_that_is_full_at_loading(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DeviceError, match="close other programs"):
        load(monkeypatch, error)


def test_other_faults_of_loading_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="shape mismatch"):
        load(monkeypatch, RuntimeError("shape mismatch"))
