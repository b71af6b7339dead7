"""Spectrograms inside graphs: the transform as one convolution, because runtimes differ in what they
offer beyond it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svc.audio.mel import LogMel


class GraphMel(nn.Module):
    """Log-mel spectrogram as `svc.audio.mel.LogMel` measures it, (1, T) -> (1, M, N).

    Only a wave that is no longer than the padding, some hundredths of a second, is padded otherwise:
    LogMel takes zeros, here the last sample is repeated. It must make a frame, T >= hop_length.

    Args:
        mel: what it has to compute.
    """

    kernels: Tensor

    def __init__(self, mel: LogMel) -> None:
        super().__init__()
        config = mel.config
        self.mel = mel
        if config.padding == "center":
            self.pad = (config.n_fft // 2, config.n_fft // 2)
        else:
            span = config.win_length if config.padding == "at_least_one" else config.n_fft
            self.pad = ((span - config.hop_length) // 2, (span - config.hop_length + 1) // 2)
        self.register_buffer("kernels", _fourier_kernels(config.n_fft, config.win_length))

    def forward(self, wav: Tensor) -> Tensor:
        """Measure (1, T) samples."""
        config = self.mel.config
        padded = wav[:, self._reflected(wav.shape[1])]
        real, imaginary = F.conv1d(padded[:, None], self.kernels, stride=config.hop_length).chunk(
            2, dim=1
        )
        spec = real.square() + imaginary.square() + config.eps
        if config.power == 1:
            spec = spec.sqrt()
        if config.last_frame == "drop":
            spec = spec[..., :-1]
        elif config.last_frame == "repeat":
            spec = torch.cat((spec, spec[..., -1:]), dim=-1)
        return self.mel.from_spec(spec)

    def _reflected(self, n_samples: int) -> Tensor:
        """Where each sample of the padded wave comes from: F.pad refuses waves that are too short."""
        left, right = self.pad
        last = n_samples - 1
        index = torch.arange(-left, n_samples + right).abs()
        return (last - (last - index).abs()).clamp(min=0)


def _fourier_kernels(n_fft: int, win_length: int) -> Tensor:
    """Windowed cosines, then sines, of the n_fft // 2 + 1 frequencies: (2 F, 1, n_fft)."""
    time = torch.arange(n_fft, dtype=torch.float64)
    turns = torch.arange(n_fft // 2 + 1, dtype=torch.float64)[:, None] * time / n_fft
    window = torch.hann_window(win_length, periodic=True, dtype=torch.float64)
    left = (n_fft - win_length) // 2
    window = F.pad(window, (left, n_fft - win_length - left))
    # The phase is taken modulo 1 before the sine: exact for whole numbers.
    angle = 2 * math.pi * torch.remainder(turns, 1.0)
    return (torch.cat((angle.cos(), angle.sin())) * window)[:, None].float()
