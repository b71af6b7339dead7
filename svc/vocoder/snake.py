"""Anti-aliased Snake activation of the 'nsf-snake-hifigan' decoder (spec_core 3.3).

Snake: Ziyin, Hartwig and Ueda 2020, arXiv:2006.08195; used between a 2x upsampling and a 2x
    downsampling filter to keep
the new harmonics below the Nyquist frequency, as in BigVGAN (Lee et al. 2022, arXiv:2206.04658).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_TAPS = 12
_CUTOFF = 0.25  # of the oversampled rate
_HALF_WIDTH = 0.3


def kaiser_sinc_filter() -> Tensor:
    """Return the low-pass filter of both resamplers: (1, 1, 12) float32, Kaiser-windowed sinc of
    unit sum.
    """
    attenuation = 2.285 * (_TAPS // 2 - 1) * math.pi * 4 * _HALF_WIDTH + 7.95
    beta = 0.1102 * (attenuation - 8.7)  # Kaiser's rule above 50 dB; here 51
    window = torch.kaiser_window(_TAPS, periodic=False, beta=beta, dtype=torch.float32)
    time = torch.arange(-_TAPS // 2, _TAPS // 2, dtype=torch.float32) + 0.5
    taps = 2 * _CUTOFF * window * torch.sinc(2 * _CUTOFF * time)
    return (taps / taps.sum()).view(1, 1, _TAPS)


class _Snake(nn.Module):
    """x + sin²(x · e^alpha) / (e^beta + 1e-9), alpha and beta per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        alpha, beta = self.alpha.exp()[:, None], self.beta.exp()[:, None]
        sine = torch.sin(x * alpha)
        return x + sine * sine / (beta + 1e-9)


class _Filter(nn.Module):
    """Holds the filter under the name that checkpoints use."""

    filter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", kaiser_sinc_filter())


class _Downsample(nn.Module):
    """Holds the filter one level deeper, again for the names in checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.lowpass = _Filter()


class SnakeAlias(nn.Module):
    """Snake at twice the rate: up, activate, down. (B, C, T) -> (B, C, T).

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.act = _Snake(channels)
        self.upsample = _Filter()
        self.downsample = _Downsample()

    def forward(self, x: Tensor) -> Tensor:
        """Activate x (B, C, T)."""
        channels = self.channels  # not x.shape[1]: an exported graph needs it as a constant
        # The filter spreads over twice the samples, hence the gain of 2; the padding cuts 15
        # samples at both ends.
        taps = (2 * self.upsample.filter).expand(channels, 1, _TAPS)
        # Half-precision convolutions before it are no reason to filter and square in half precision.
        x = F.pad(x.to(taps.dtype), (5, 5), mode="replicate")
        x = self.act(F.conv_transpose1d(x, taps, stride=2, padding=15, groups=channels))
        taps = self.downsample.lowpass.filter.expand(channels, 1, _TAPS)
        return F.conv1d(F.pad(x, (5, 6), mode="replicate"), taps, stride=2, groups=channels)
