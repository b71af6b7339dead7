"""Convolutions over time in either of two memory layouts.

A tensor (B, C, T) lies in memory with the frames of every channel side by side, which is torch's
default, or with the channels of every frame side by side: "channels last". Matrix units (oneDNN's on
a CPU, tensor cores on a GPU) work on the second, but torch's 1-D convolutions copy their input back
to the first; its 2-D ones do not. So a channels-last convolution is a 2-D one of height 1 here, and
one with a kernel of 1 a matrix product. Values are the same but for rounding.

Every convolution of the nets that are trained has a switch, off unless `use_channels_last` turns it
on: trainers do, and generators that sing (`svc.vocoder.settle`); exported graphs and `compat` do not.
Nothing else in the nets needs to know, since elementwise operations keep the layout of their input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayoutSwitch:
    """Mixin of the convolutions that know both layouts."""

    channels_last: bool = False


def use_channels_last(net: nn.Module, wanted: bool = True) -> None:
    """Choose the memory layout in which the convolutions of a net work, in place."""
    for part in net.modules():
        if isinstance(part, LayoutSwitch):
            part.channels_last = wanted


def to_channels_last(x: Tensor) -> Tensor:
    """Return x (B, C, T) with the channels of every frame side by side; copied only if need be."""
    if x.shape[1] == 1:  # the same numbers in the same order: only strides say which layout it is
        return x.reshape(x.shape[0], -1, 1).transpose(1, 2)
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def pad_frames(x: Tensor, left: int, right: int, *, channels_last: bool) -> Tensor:
    """Pad x (B, C, T) with zero frames; `channels_last` keeps that layout, torch's padding does not."""
    if channels_last:
        return F.pad(x.transpose(1, 2), (0, 0, left, right)).transpose(1, 2)
    return F.pad(x, (left, right))


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """Do what `torch.nn.functional.conv1d` does, channels last.

    Args:
        x: (B, in, T), in either layout.
        weight: (out, in / groups, k).
        bias: (out,).
        stride: frames.
        padding: zero frames on each side.
        dilation: frames between taps.
        groups: channel groups.

    Returns:
        (B, out, T'), channels last.
    """
    if weight.shape[2] == stride == groups == 1 and padding == 0 and weight.shape[1] > 1:
        return F.linear(x.transpose(1, 2), weight[:, :, 0], bias).transpose(1, 2)
    y = F.conv2d(
        to_channels_last(x).unsqueeze(2),
        weight.unsqueeze(2),
        bias,
        stride=(1, stride),
        padding=(0, padding),
        dilation=(1, dilation),
        groups=groups,
    )
    return y.squeeze(2)


def convolve_columns(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> Tensor:
    """Do what `torch.nn.functional.conv2d` does with a (k, 1) kernel, channels last.

    The rows of a column lie side by side in memory, too: kernels are fast along the last axis only.

    Args:
        x: (B, in, H, W), in any layout.
        weight: (out, in / groups, k, 1).
        bias: (out,).
        stride: rows.
        padding: zero rows above and below.
        groups: channel groups.

    Returns:
        (B, out, H', W), in memory (B, W, H', out).
    """
    if x.device.type == "cpu" and x.shape[2] < 2 * weight.shape[2]:
        # oneDNN's bfloat16 kernels (torch 2.13, AMX) take up memory that nobody has written where so
        # few rows come that one is left.
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(
                x.to(weight.dtype),
                weight,
                bias,
                stride=(stride, 1),
                padding=(padding, 0),
                groups=groups,
            )
    y = F.conv2d(
        x.transpose(2, 3).contiguous(memory_format=torch.channels_last),
        weight.transpose(2, 3),
        bias,
        stride=(1, stride),
        padding=(0, padding),
        groups=groups,
    )
    return y.transpose(2, 3)


def convolve_transposed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
) -> Tensor:
    """Do what `torch.nn.functional.conv_transpose1d` does, channels last.

    Args:
        x: (B, in, T), in either layout.
        weight: (in, out, k).
        bias: (out,).
        stride: frames of the result per frame of x.
        padding: frames left out on each side of the result.
        output_padding: frames added at its end.

    Returns:
        (B, out, T'), channels last.
    """
    y = F.conv_transpose2d(
        to_channels_last(x).unsqueeze(2),
        weight.unsqueeze(2),
        bias,
        stride=(1, stride),
        padding=(0, padding),
        output_padding=(0, output_padding),
    )
    return y.squeeze(2)


class Conv1d(LayoutSwitch, nn.Conv1d):
    """Torch's 1-D convolution with the switch; zero padding, given as a number of frames."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        conv = convolve if self.channels_last else F.conv1d
        return conv(
            input,
            weight,
            bias,
            stride=self.stride[0],
            padding=int(self.padding[0]),
            dilation=self.dilation[0],
            groups=self.groups,
        )
