"""Choosing the compute device: what is asked for is used, or it is an error that says so."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
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
    if precision == "bf16" and device.type == "cuda" and not _has_bf16(device):
        name = torch.cuda.get_device_name(device)
        raise ConfigError(f"{flag} bf16: {name} has no bfloat16; use fp16")
    return dtype


def best_precision(device: torch.device, *, fp16: bool = False) -> str:
    """Return the precision that nets are fastest with: bf16 where there are matrix units for it (a GPU
    that has bfloat16, a CPU with AMX), else fp32.

    Args:
        device: where the nets are.
        fp16: take fp16 on GPUs with matrix units for it, but without bfloat16; training does not, for
            its losses would have to be scaled.
    """
    if device.type == "cuda":
        if _has_bf16(device):
            return "bf16"
        # Before Volta half precision is emulated, or slower than float32.
        fast = fp16 and torch.cuda.get_device_capability(device) >= (7, 0)
        return "fp16" if fast else "fp32"
    return "bf16" if device.type == "cpu" and _has_amx() else "fp32"


def _has_bf16(device: torch.device) -> bool:
    """Whether a CUDA device itself computes in bfloat16."""
    # torch tells it of the current device only.
    with nullcontext() if device.index is None else torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


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


def exact_device(device: torch.device) -> torch.device:
    """Return where float64 is computed for what is on a device: there, or on the CPU where it has no
    float64 (mps, and some xpu).
    """
    if device.type == "mps":
        return torch.device("cpu")
    if device.type == "xpu":
        found = torch.xpu.get_device_properties(device)
        return device if getattr(found, "has_fp64", False) else torch.device("cpu")
    return device


_Setting = tuple[Callable[[], Any], Callable[[Any], None], Any]  # get, set, the value for exactness


class _ExactKernels:
    """torch's settings of CUDA kernels, which belong to the process, while anybody needs them exact."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = ExitStack()  # puts back what was set before the first of the users

    def enter(self) -> None:
        """Make the settings exact, if nobody has yet."""
        with self._lock:
            if self._users == 0:
                with ExitStack() as undo, warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # torch 2.9 calls its older settings outdated
                    for setting in _exact_settings():
                        _make_exact(undo, *setting)
                    self._before = undo.pop_all()
            self._users += 1

    def leave(self) -> None:
        """Put the settings back, if nobody needs them any more."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._before.close()


def _exact_settings() -> list[_Setting]:
    """List the settings, in the order in which they are made.

    Since torch 2.9 there are two families, and torch refuses to read an older setting that contradicts
    a newer one. The older ones set both alike, so they come first; the newer ones, where they still
    say otherwise, were made by the program that this runs in.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    settings: list[_Setting] = [
        _attribute(cudnn, "benchmark", False),  # the fastest kernel is not always the same one
        _attribute(cudnn, "deterministic", True),
        _attribute(cudnn, "allow_tf32", False),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
    ]
    for newer in (getattr(cudnn, "conv", None), getattr(cudnn, "rnn", None), matmul):
        if getattr(newer, "fp32_precision", None) is not None:
            settings.append(_attribute(newer, "fp32_precision", "ieee"))
    return settings


def _attribute(owner: object, name: str, exact: object) -> _Setting:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value), exact


def _make_exact(
    undo: ExitStack, get: Callable[[], Any], put: Callable[[Any], None], exact: object
) -> None:
    try:
        before = get()
    except RuntimeError:  # contradicts a newer setting, which then is the one that counts
        return
    if before not in (exact, "none"):
        undo.callback(put, before)
        put(exact)


_exact_kernels = _ExactKernels()


@contextmanager
def exact_arithmetic(device: torch.device) -> Iterator[None]:
    """Compute float32 in float32, and the same every time, on a CUDA device.

    By itself torch computes float32 convolutions in TF32 there (10 bits of mantissa instead of 23), and
    cuDNN may choose kernels whose sums depend on chance. The settings are the process's: they are put
    back at the end, that of the last one if several threads are inside. On other devices nothing changes.

    Args:
        device: where the nets are.
    """
    if device.type != "cuda":
        yield
        return
    _exact_kernels.enter()
    try:
        yield
    finally:
        _exact_kernels.leave()
