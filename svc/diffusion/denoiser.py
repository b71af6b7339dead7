"""The network that tells the noise in a mel: gated residual convolutions of WaveNet without dilation
(DiffSinger, Liu et al. 2021, arXiv:2105.02446; so-vits-svc 4.1 behaviour, spec_diffusion 3).

Letters: B batch, M mel bands, N frames, C channels, H hidden channels of the condition, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svc.diffusion.prepared import PreparedDenoiser


@lru_cache(maxsize=8)
def _frequencies(count: int, device: torch.device) -> Tensor:
    """Radians per step: float32 (count,), from 1 down to 1 / 10000."""
    # At step 999 the last bit of a frequency moves the phase by 3e-5; made on the CPU and rounded
    # from float64, it is the same everywhere.
    exponent = np.arange(count, dtype=np.float32) * np.float32(-math.log(10000) / (count - 1))
    values = np.exp(exponent.astype(np.float64)).astype(np.float32)
    with torch.inference_mode(False):
        return torch.from_numpy(values).to(device)


class ResidualLayer(nn.Module):
    """One gated convolution.

    Args:
        n_chans: C.
        n_hidden: H.
    """

    def __init__(self, n_chans: int, n_hidden: int) -> None:
        super().__init__()
        # The order of the members is the order of the state dict, hence of saved optimizers.
        self.dilated_conv = nn.Conv1d(n_chans, 2 * n_chans, 3, padding=1)
        self.diffusion_projection = nn.Linear(n_chans, n_chans)
        self.conditioner_projection = nn.Conv1d(n_hidden, 2 * n_chans, 1)
        self.output_projection = nn.Conv1d(n_chans, 2 * n_chans, 1)

    def forward(self, x: Tensor, step: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next x and what this layer says, both (B, C, N).

        Args:
            x: (B, C, N).
            step: (B or 1, C) projected time.
            condition: (B, 2C, N) projected condition.
        """
        y = self.dilated_conv(x + step[:, :, None]) + condition
        gate, filtered = y.chunk(2, dim=1)
        y = self.output_projection(torch.sigmoid(gate) * torch.tanh(filtered))
        residual, skip = y.chunk(2, dim=1)
        return (x + residual) / math.sqrt(2.0), skip


class Denoiser(nn.Module):
    """(noisy mel, time, condition) -> the noise in it.

    Args:
        n_mels: M.
        n_layers: L.
        n_chans: C, even, at least 4.
        n_hidden: H.
    """

    def __init__(self, n_mels: int, *, n_layers: int, n_chans: int, n_hidden: int) -> None:
        super().__init__()
        self.input_projection = nn.Conv1d(n_mels, n_chans, 1)
        self.mlp = nn.Sequential(
            nn.Linear(n_chans, 4 * n_chans), nn.Mish(), nn.Linear(4 * n_chans, n_chans)
        )
        self.residual_layers = nn.ModuleList(
            ResidualLayer(n_chans, n_hidden) for _ in range(n_layers)
        )
        self.skip_projection = nn.Conv1d(n_chans, n_chans, 1)
        self.output_projection = nn.Conv1d(n_chans, n_mels, 1)
        for conv in (self.input_projection, self.skip_projection):
            nn.init.kaiming_normal_(conv.weight)
        nn.init.zeros_(self.output_projection.weight)

    @property
    def layers(self) -> list[ResidualLayer]:
        """The residual layers, in order."""
        return cast("list[ResidualLayer]", list(self.residual_layers))

    def embed_times(self, times: Tensor) -> Tensor:
        """Embed times (n,), whole or fractional; returns (n, C)."""
        conv = self.skip_projection
        omega = _frequencies(conv.in_channels // 2, times.device)
        phase = times.float()[:, None] * omega
        waves = torch.cat((phase.sin(), phase.cos()), dim=1)
        embedded: Tensor = self.mlp(waves.to(conv.weight.dtype))
        return embedded

    def forward(self, x: Tensor, times: Tensor, condition: Tensor) -> Tensor:
        """Tell the noise.

        Args:
            x: (B, 1, M, N) normalised mel with noise.
            times: (B,) step numbers, whole or fractional.
            condition: (B, H, N).

        Returns:
            (B, 1, M, N).
        """
        embedded = self.embed_times(times)
        y = F.relu(self.input_projection(x[:, 0]))
        total = torch.zeros_like(y)
        for layer in self.layers:
            step = layer.diffusion_projection(embedded)
            y, skip = layer(y, step, layer.conditioner_projection(condition))
            total += skip
        total = F.relu(self.skip_projection(total / math.sqrt(len(self.residual_layers))))
        noise: Tensor = self.output_projection(total)
        return noise[:, None]

    def settle(self, dtype: torch.dtype) -> None:
        """Lay the weights out for sampling, in place; `forward` still works in float32.

        Args:
            dtype: of the residual layers' matrix products. The sums between the layers, the first
                projection and the last two, and everything about time stay as they are.
        """
        for layer in self.layers:
            for conv in (layer.dilated_conv, layer.conditioner_projection, layer.output_projection):
                conv.to(dtype)
            weight = layer.dilated_conv.weight
            # Tap by tap in memory: the matrix that sampling needs is a view of it, not a copy.
            weight.data = weight.data.transpose(1, 2).contiguous().transpose(1, 2)

    def prepare(
        self, condition: Tensor, times: Sequence[float], walls: Tensor | None = None
    ) -> PreparedDenoiser:
        """Compute ahead what does not depend on x: for sampling, equal to `forward`.

        Args:
            condition: (B, H, N).
            times: every time that will be asked for.
            walls: (K,) int64 frames that belong to no chunk: what is before and what is after one of
                them are different chunks (see `svc.diffusion.prepared`).
        """
        return PreparedDenoiser(self, condition, times, walls)
