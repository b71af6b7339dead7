"""A trained generator laid out for inference: the same numbers faster, or nearly the same in half precision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svc.vocoder.convolution import use_channels_last
from svc.vocoder.generator import EXACT_STAGES, Generator
from svc.vocoder.weight_norm import WeightNormConv


class SourceConv(nn.Module):
    """A convolution of the excitation, (B, 1, T) -> (B, C, N), as one matrix product over windows.

    oneDNN compiles a kernel for every length that a convolution meets, and for those of one channel
    this takes longer than the whole small generator; a product needs none.

    Args:
        conv: the convolution, whose parameters it takes.
    """

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.stride, self.padding = conv.stride[0], int(conv.padding[0])

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (B, 1, T); the channels of every frame lie side by side in the result."""
        windows = F.pad(x[:, 0], (self.padding, self.padding)).unfold(
            1, self.weight.shape[2], self.stride
        )
        return F.linear(windows, self.weight[:, 0], self.bias).transpose(1, 2)


def settle_generator(generator: Generator, dtype: torch.dtype = torch.float32) -> None:
    """Lay a generator out for inference, in place; it cannot be trained or exported any more.

    Args:
        generator: on its device, weight norm folded.
        dtype: of its convolutions, but the first, the last and those of the last `EXACT_STAGES`
            stages. Harmonic source, Snake activations and the wave itself stay float32.
    """
    device = next(generator.parameters()).device
    if device.type == "cpu" or dtype != torch.float32:
        use_channels_last(generator)
    sources: list[nn.Module] = []
    if hasattr(generator, "noise_convs"):  # a mini-NSF vocoder has none
        sources = [SourceConv(cast("nn.Conv1d", conv)) for conv in generator.noise_convs]
        generator.noise_convs = nn.ModuleList(sources)
    if dtype == torch.float32:
        return
    exact: set[nn.Module] = {generator.conv_pre, generator.conv_post}
    exact |= {*generator.ups[-EXACT_STAGES:], *sources[-EXACT_STAGES:]}
    for block in generator.resblocks[-EXACT_STAGES * generator.n_kernels :]:
        exact |= set(block.modules())
    for module in _convolutions(generator):
        if module not in exact:
            module.to(dtype)
        module.register_forward_pre_hook(_cast)


def _convolutions(net: nn.Module) -> Iterator[nn.Module]:
    for module in net.modules():
        if isinstance(module, WeightNormConv | nn.Conv1d | SourceConv):
            yield module


def _cast(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Bring the input of a convolution to the precision of its weights."""
    x, *others = given
    return x.to(module.bias.dtype), *others
