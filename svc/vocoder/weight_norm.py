"""Convolutions with a normalised weight: weight norm (everywhere) and spectral norm (one
discriminator option).

Weight norm (Salimans and Kingma 2016, arXiv:1602.07868, eq. 2): w = g · v / ‖v‖, the norm over all
axes but axis 0, which for a transposed convolution is the *input* channel axis. The parameters are
called ``bias, weight_g, weight_v`` in this order because checkpoints of so-vits-svc 4.1 are
(spec_core 2.2). Own modules, not the deprecated hooks of torch: a hook recomputes the weight into
an attribute, this calls one fused kernel, and `fold` is explicit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svc.vocoder.convolution import (
    LayoutSwitch,
    convolve,
    convolve_columns,
    convolve_transposed,
)

Norm = Literal["weight", "spectral"]

_CONV = {1: F.conv1d, 2: F.conv2d}
_CHANNELS_LAST = {1: convolve, 2: convolve_columns}
_SPELLINGS = ("weight", "parametrizations.weight.original0", "parametrizations.weight.original1")


def _norm_but_first(v: Tensor) -> Tensor:
    """Norm over all axes but the first, shape (dim0, 1, ...)."""
    norm: Tensor = torch.linalg.vector_norm(v, dim=tuple(range(1, v.dim())), keepdim=True)
    return norm


def _fresh_weight(weight_shape: tuple[int, ...], bias_size: int) -> tuple[Tensor, Tensor]:
    """Draw a weight and a bias the way torch initialises a convolution (spec_core 2.10)."""
    weight, bias = torch.empty(weight_shape), torch.empty(bias_size)
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
    bound = 1 / math.sqrt(math.prod(weight_shape[1:]))
    nn.init.uniform_(bias, -bound, bound)
    return weight, bias


def _respell(state: dict[str, Any], prefix: str, *, folded: bool) -> None:
    """Turn the spelling of one weight in `state` into the wanted one, in place.

    Three are in circulation: ``weight_g/weight_v``, the parametrised names, and folded files with a
    plain ``weight``.
    """
    plain, g, v = (state.pop(prefix + name, None) for name in _SPELLINGS)
    if g is None or v is None:
        g, v = state.pop(prefix + "weight_g", None), state.pop(prefix + "weight_v", None)
    if plain is None and (g is None or v is None):
        return  # absent: the loader says so
    if folded:
        weight = plain if plain is not None else v * (g / _norm_but_first(v))
        state[prefix + "weight"] = weight
    else:
        state[prefix + "weight_g"] = _norm_but_first(plain.float()) if plain is not None else g
        state[prefix + "weight_v"] = plain if plain is not None else v


class WeightNormConv(LayoutSwitch, nn.Module):
    """Base of the weight-normalised convolutions: owns the parameters; subclasses say how they are
    applied.

    Args:
        weight_shape: shape of the plain weight.
        bias_size: number of output channels.
    """

    bias: nn.Parameter
    weight_g: nn.Parameter
    weight_v: nn.Parameter
    weight: nn.Parameter  # only there once folded

    def __init__(self, weight_shape: tuple[int, ...], bias_size: int) -> None:
        super().__init__()
        weight, bias = _fresh_weight(weight_shape, bias_size)
        self.bias = nn.Parameter(bias)
        self.weight_g = nn.Parameter(_norm_but_first(weight))
        self.weight_v = nn.Parameter(weight)

    @property
    def is_folded(self) -> bool:
        """Whether the plain weight is kept instead of gain and direction."""
        return "weight" in self._parameters

    def plain_weight(self) -> Tensor:
        """Weight to convolve with: g · v / ‖v‖, or the folded one."""
        if self.is_folded:
            return self.weight
        return torch._weight_norm(self.weight_v, self.weight_g, 0)

    @torch.no_grad()
    def fold(self) -> None:
        """Keep the plain weight only: for inference. Outputs do not change; the weight no longer
        trains.
        """
        if self.is_folded:
            return
        weight = self.plain_weight().detach().clone()
        del self.weight_g, self.weight_v
        self.weight = nn.Parameter(weight, requires_grad=False)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        _respell(state_dict, prefix, folded=self.is_folded)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class WeightNormConv1d(WeightNormConv):
    """Weight-normalised 1-D convolution, (B, in, T) -> (B, out, T'). Arguments as torch's."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__((out_channels, in_channels // groups, kernel_size), out_channels)
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (B, in, T)."""
        conv = convolve if self.channels_last else F.conv1d
        return conv(
            x,
            self.plain_weight(),
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )


class WeightNormConvTranspose1d(WeightNormConv):
    """Weight-normalised transposed 1-D convolution, (B, in, T) -> (B, out, T · stride). Arguments
    as torch's.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        output_padding: int = 0,
    ) -> None:
        super().__init__((in_channels, out_channels, kernel_size), out_channels)
        self.stride, self.padding, self.output_padding = stride, padding, output_padding

    def forward(self, x: Tensor) -> Tensor:
        """Upsample x (B, in, T)."""
        conv = convolve_transposed if self.channels_last else F.conv_transpose1d
        return conv(
            x,
            self.plain_weight(),
            self.bias,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
        )


class WeightNormConv2d(WeightNormConv):
    """Weight-normalised 2-D convolution with a (k, 1) kernel, (B, in, H, W) -> (B, out, H', W)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
    ) -> None:
        super().__init__((out_channels, in_channels // groups, kernel_size, 1), out_channels)
        self.stride, self.padding, self.groups = stride, padding, groups

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (B, in, H, W) along H."""
        if self.channels_last:
            return convolve_columns(
                x,
                self.plain_weight(),
                self.bias,
                stride=self.stride,
                padding=self.padding,
                groups=self.groups,
            )
        return F.conv2d(
            x,
            self.plain_weight(),
            self.bias,
            stride=(self.stride, 1),
            padding=(self.padding, 0),
            groups=self.groups,
        )


class SpectralNormConv(LayoutSwitch, nn.Module):
    """Convolution divided by its largest singular value (Miyato et al. 2018, arXiv:1802.05957,
    algorithm 1).

    One power iteration per forward while training. State: ``bias, weight_orig, weight_u, weight_v``
    (spec_core 4); here ``weight_v`` is the right singular vector, not a weight.

    Args:
        in_channels: channels in.
        out_channels: channels out.
        kernel_size: taps along time.
        ndim: 1 for (B, C, T), 2 for (B, C, H, W) with a (k, 1) kernel.
        stride: along time.
        padding: along time, both sides.
        groups: channel groups.
    """

    weight_u: Tensor
    weight_v: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        ndim: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
    ) -> None:
        super().__init__()
        tail = (1,) * (ndim - 1)
        shape = (out_channels, in_channels // groups, kernel_size, *tail)
        weight, bias = _fresh_weight(shape, out_channels)
        self.bias = nn.Parameter(bias)
        self.weight_orig = nn.Parameter(weight)
        self.register_buffer("weight_u", F.normalize(torch.randn(shape[0]), dim=0, eps=1e-12))
        width = math.prod(shape[1:])
        self.register_buffer("weight_v", F.normalize(torch.randn(width), dim=0, eps=1e-12))
        self.ndim, self.groups = ndim, groups
        self.stride, self.padding = (stride, *tail), (padding, *(0 for _ in tail))

    def plain_weight(self) -> Tensor:
        """Weight divided by its spectral norm estimate; advances the estimate while training."""
        matrix = self.weight_orig.flatten(1)
        if self.training:
            with torch.no_grad():
                v = F.normalize(torch.mv(matrix.t(), self.weight_u), dim=0, eps=1e-12)
                u = F.normalize(torch.mv(matrix, v), dim=0, eps=1e-12)
                self.weight_v.copy_(v)
                self.weight_u.copy_(u)
        # Copies: a second forward before the backward would otherwise change what autograd saved.
        u, v = self.weight_u.clone(), self.weight_v.clone()
        return self.weight_orig / torch.dot(u, torch.mv(matrix, v))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (B, in, T) or (B, in, H, W)."""
        weight = self.plain_weight()
        if self.channels_last:
            return _CHANNELS_LAST[self.ndim](
                x,
                weight,
                self.bias,
                stride=self.stride[0],
                padding=self.padding[0],
                groups=self.groups,
            )
        return _CONV[self.ndim](
            x, weight, self.bias, stride=self.stride, padding=self.padding, groups=self.groups
        )


def fold_weight_norm(module: nn.Module) -> None:
    """Fold every weight-normalised convolution below `module`, in place (outputs do not change)."""
    for part in module.modules():
        if isinstance(part, WeightNormConv):
            part.fold()


def respell_state(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Rename, unfold or fold the weights of a state so that its names are those of `module`.

    Args:
        state: tensors by name; weight norm as ``weight_g/weight_v``, as parametrised names, or
            folded to ``weight``.
        module: module whose names count; each of its weight-normalised convolutions may be folded
            or not.

    Returns:
        A new dictionary, ready for a strict load.
    """
    result = dict(state)
    for name, part in module.named_modules(remove_duplicate=False):
        if isinstance(part, WeightNormConv):
            _respell(result, f"{name}.", folded=part.is_folded)
    return result
