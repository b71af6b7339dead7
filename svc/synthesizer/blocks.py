"""Small parts shared by the encoders and the flow: channel layer norm and the gated convolution
stack.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svc.vocoder.weight_norm import WeightNormConv1d


def at_least_float32(x: Tensor) -> Tensor:
    """Leave half precision: distributions and losses need float32 under autocast too; float64
    stays.
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class LayerNorm(nn.Module):
    """Layer norm over the channels of every frame, (B, C, T) -> (B, C, T) (spec_core 2.2).

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, T)."""
        x = F.layer_norm(x.transpose(1, 2), self.gamma.shape, self.gamma, self.beta, eps=1e-5)
        return x.transpose(1, 2)


def gate(a: Tensor) -> Tensor:
    """Tanh of the first half of the channels times sigmoid of the second: (B, 2H, T) -> (B, H,
    T).
    """
    signal, opening = a.chunk(2, dim=1)
    return torch.tanh(signal) * torch.sigmoid(opening)


class DepthwiseSeparableConv(nn.Module):
    """A convolution per channel, then one across channels; both weight-normed. (B, in, T) -> (B,
    out, T).

    Args:
        in_channels: channels in.
        out_channels: channels out.
        kernel_size: odd.
        dilation: of the first.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, dilation: int = 1
    ) -> None:
        super().__init__()
        self.depth_conv = WeightNormConv1d(
            in_channels,
            in_channels,
            kernel_size,
            padding=(kernel_size * dilation - dilation) // 2,
            dilation=dilation,
            groups=in_channels,
        )
        self.point_conv = WeightNormConv1d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (B, in, T)."""
        y: Tensor = self.point_conv(self.depth_conv(x))
        return y


class WN(nn.Module):
    """Gated convolution stack of WaveNet, without dilation (van den Oord et al. 2016,
    arXiv:1609.03499; spec_core 2.2).

    Args:
        channels: H.
        kernel_size: odd.
        n_layers: L.
        gin_channels: width of the speaker embedding; 0 = no conditioning.
        depthwise: depthwise-separable gated convolutions (`model.use_depthwise_conv`).
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int,
        n_layers: int,
        gin_channels: int,
        depthwise: bool,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.in_layers = nn.ModuleList(
            DepthwiseSeparableConv(channels, 2 * channels, kernel_size)
            if depthwise
            else WeightNormConv1d(channels, 2 * channels, kernel_size, padding=kernel_size // 2)
            for _ in range(n_layers)
        )
        # The last layer has nothing to pass on, only its contribution to the output.
        self.res_skip_layers = nn.ModuleList(
            WeightNormConv1d(channels, 2 * channels if i < n_layers - 1 else channels, 1)
            for i in range(n_layers)
        )
        self.cond_layer = (
            WeightNormConv1d(gin_channels, 2 * channels * n_layers, 1) if gin_channels else None
        )

    def forward(self, x: Tensor, mask: Tensor, g: Tensor | None = None) -> Tensor:
        """Run the stack.

        Args:
            x: (B, H, T).
            mask: (B, 1, T), 1 inside the clip.
            g: (B, G, 1) or (B, G, T).

        Returns:
            (B, H, T), zero outside the mask.
        """
        size = 2 * self.channels
        cond = None if g is None or self.cond_layer is None else self.cond_layer(g)
        output: Tensor | None = None
        last = len(self.in_layers) - 1
        for i, (in_layer, res_skip) in enumerate(zip(self.in_layers, self.res_skip_layers)):
            a = in_layer(x)
            if cond is not None:
                a = a + cond[:, size * i : size * (i + 1)]
            skip = res_skip(gate(a))
            if i < last:
                residual, skip = skip.chunk(2, dim=1)
                x = (x + residual) * mask
            output = skip if output is None else output + skip
        return x * mask if output is None else output * mask
