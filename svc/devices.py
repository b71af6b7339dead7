"""Choosing the compute device: what is asked for is used, or it is an error that says so."""

from __future__ import annotations

import logging
from typing import Any

import torch

from svc.errors import ConfigError, DeviceError

logger = logging.getLogger(__name__)

PRECISIONS = ("fp32", "bf16", "fp16")
"""How the large matrix products of a net are computed; norms and residual sums stay float32."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def precision_dtype(precision: str) -> torch.dtype:
    """Return torch's type for a name of `PRECISIONS`. Raises ConfigError for another name."""
    if precision not in _DTYPES:
        raise ConfigError(f'precision "{precision}" is unknown; use {", ".join(PRECISIONS)}')
    return _DTYPES[precision]


def inference_dtype(precision: str, device: torch.device, *, flag: str) -> torch.dtype:
    """Return torch's type for a precision that a device computes in.

    Args:
        precision: a name of `PRECISIONS`.
        device: where the nets are.
        flag: of the command line, for the message.

    Raises:
        ConfigError: an unknown name, or the device cannot do it; says what it can.
    """
    dtype = precision_dtype(precision)
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError(f"{flag} fp16 needs an accelerator, and this runs on the CPU: use bf16")
    if (
        precision == "bf16"
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        name = torch.cuda.get_device_name(device)
        raise ConfigError(f"{flag} bf16: {name} has no bfloat16; use fp16")
    return dtype


def best_precision(device: torch.device, *, fp16: bool = False) -> str:
    """Return the precision that nets are fastest with: bf16 where there are matrix units for it (a GPU
    that has bfloat16, a CPU with AMX), else fp32.

    Args:
        device: where the nets are.
        fp16: take fp16 on GPUs without bfloat16; training does not, for its losses would have to be
            scaled.
    """
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16"
        return "fp16" if fp16 else "fp32"
    return "bf16" if device.type == "cpu" and _has_amx() else "fp32"


def _has_amx() -> bool:
    # An old torch cannot tell; without these units bfloat16 is not faster on a CPU.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16")) and has_onednn()


def has_onednn() -> bool:
    """Return whether this torch has oneDNN's kernels for the CPU."""
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def available_devices() -> list[str]:
    """Return the names `resolve_device` accepts on this machine, best first."""
    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if names:
        names.insert(0, "cuda")
    if torch.backends.mps.is_available():
        names.append("mps")
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        names.append("xpu")
    return [*names, "cpu"]


def resolve_device(name: str | None) -> torch.device:
    """Return the device for a name.

    Args:
        name: None or "auto" (the best one: cuda, mps, xpu, else cpu), or cpu, cuda, cuda:1, mps, xpu.

    Returns:
        The device.

    Raises:
        DeviceError: this machine or this build of torch does not have it; lists the ones there are.
    """
    names = available_devices()
    if name is None or name.lower() == "auto":
        logger.info("device: %s", names[0])
        return torch.device(names[0])
    wanted = name.lower()
    if wanted not in names:
        why = ""
        if wanted.startswith("cuda") and torch.version.cuda is None and torch.version.hip is None:
            why = " (the installed torch is a build without CUDA)"
        raise DeviceError(
            f'the device "{name}" is not available{why}; here there is: {", ".join(names)}'
        )
    return torch.device(wanted)
