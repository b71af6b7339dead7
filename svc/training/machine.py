"""What the machine at hand trains fastest with: number format, memory layout, choice of kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import nn

from svc.config import TrainConfig
from svc.devices import PRECISIONS, best_precision, has_onednn, inference_dtype
from svc.errors import ConfigError
from svc.vocoder.convolution import use_channels_last

PRECISION_CHOICES = ("auto", *PRECISIONS)


def with_precision(train: TrainConfig, wanted: str | None, device: torch.device) -> TrainConfig:
    """Return a config with the precision of the command line.

    Args:
        train: `fp16_run` and `half_type` are replaced.
        wanted: one of `PRECISION_CHOICES`; None leaves the config as it is.
        device: where the nets will be.

    Raises:
        ConfigError: an unknown name, or the device cannot do it.
    """
    if wanted is None:
        return train
    if wanted not in PRECISION_CHOICES:
        raise ConfigError(f"--precision {wanted} is unknown; use {', '.join(PRECISION_CHOICES)}")
    precision = best_precision(device) if wanted == "auto" else wanted
    inference_dtype(precision, device, flag="--precision")
    if precision == "fp32":
        return dataclasses.replace(train, fp16_run=False)
    return dataclasses.replace(train, fp16_run=True, half_type=precision)


def prefers_channels_last(device: torch.device, dtype: torch.dtype | None) -> bool:
    """Return whether convolutions are faster with the channels of a frame side by side.

    On a CPU with oneDNN they are (measured on AVX-512: 1.2 times as fast in float32, twice and more
    with AMX in bfloat16). On a GPU the tensor cores' half-precision kernels work on that layout;
    for float32 torch's own layout stays.

    Args:
        device: where the nets are.
        dtype: their reduced precision, None for float32.
    """
    if device.type == "cpu":
        return has_onednn()
    return device.type == "cuda" and dtype is not None


def arrange(nets: Iterable[nn.Module], device: torch.device, dtype: torch.dtype | None) -> None:
    """Give the convolutions of nets the layout that suits the machine, in place."""
    wanted = prefers_channels_last(device, dtype)
    for net in nets:
        use_channels_last(net, wanted)


def choose_kernels(device: torch.device) -> None:
    """Let cuDNN try which of its kernels is the fastest for a shape, as the original does.

    The decoder and the discriminator see one shape of window only. Float32 convolutions run in TF32
    where the GPU has it, which is torch's own default; matrix products (attention, mel bands) in
    full float32.
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
