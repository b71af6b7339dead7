"""Generator of the mini-NSF vocoders (PC-NSF-HiFiGAN): one sine at F0 enters once, after the second
upsampling, instead of nine with noise at every stage (spec_vocoder 3.4).

The facts are third-party ones and no reference output is at hand: names, shapes and the phase are
tested against their description, the sound of a published file is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svc.devices import exact_device
from svc.errors import ConfigError
from svc.vocoder.generator import Generator
from svc.vocoder.source import SourceNoise

_STAGES = 2  # upsamplings before the sine enters


def glided_turns(f0: Tensor, rate: float, per_frame: int) -> Tensor:
    """Phase of a sine whose frequency glides from each frame's F0 to the next one's.

    Args:
        f0: (B, N) Hz.
        rate: samples per second.
        per_frame: u, samples per frame.

    Returns:
        float64 (B, N · u) in turns, [0, 1).
    """
    step = f0.double() / rate
    # Not torch.diff, which has no form in ONNX.
    rise = torch.cat((step[:, 1:], step[:, -1:]), dim=1) - step
    count = torch.arange(1, per_frame + 1, device=f0.device, dtype=torch.float64)
    glide = count * (count - 1) / (2 * per_frame)
    local = step[..., None] * count + rise[..., None] * glide  # (B, N, u)
    last = torch.remainder(local[..., -1], 1.0)
    before = torch.cumsum(last, dim=1) - last
    return torch.remainder(local + before[..., None], 1.0).flatten(1)


class MiniNsfGenerator(Generator):
    """Mel and F0 -> waveform.

    Args:
        in_channels: mel bands.
        sampling_rate: Hz.
        upsample_rates: at least two.
        options: as `Generator`, without speakers and snake.

    Raises:
        ConfigError: see `Generator`; or a single upsampling.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        sampling_rate: int,
        upsample_rates: Sequence[int],
        **options: Any,
    ) -> None:
        if len(upsample_rates) < _STAGES:
            raise ConfigError(f"upsample_rates: a mini-NSF vocoder has {_STAGES} or more")
        super().__init__(
            in_channels, sampling_rate=sampling_rate, upsample_rates=upsample_rates, **options
        )
        del self.m_source, self.noise_convs
        self.source_rate = sampling_rate / math.prod(upsample_rates[_STAGES:])  # Hz
        self.source_hop = math.prod(upsample_rates[:_STAGES])  # samples per frame
        self.source_conv = nn.Conv1d(1, options["initial_channels"] // 2**_STAGES, 1)

    @torch.no_grad()
    def excitation(self, f0: Tensor) -> Tensor:
        """Sine (B, 1, N · source_hop) of f0 (B, N) Hz, float32."""
        turns = glided_turns(
            f0.to(exact_device(f0.device)), self.source_rate, self.source_hop
        ).float()
        return torch.sin(turns * (2 * math.pi))[:, None].to(f0.device)

    def forward(
        self,
        x: Tensor,
        f0: Tensor,
        g: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        random: SourceNoise | None = None,
    ) -> Tensor:
        """Generate the waveform; nothing in it is random.

        Args:
            x: (B, C, N) log-mel.
            f0: (B, N) Hz.
            g: not used.
            generator: not used.
            random: not used.

        Returns:
            wav (B, 1, N · hop_length) in (-1, 1).
        """
        x = self.conv_pre(x)
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, 0.1))
            if i == _STAGES - 1:
                x = x + self.source_conv(self.excitation(f0).to(x.dtype))
            blocks = self.resblocks[i * self.n_kernels : (i + 1) * self.n_kernels]
            x = sum(block(x) for block in blocks) / self.n_kernels
        return torch.tanh(self.conv_post(F.leaky_relu(x, 0.01)))
