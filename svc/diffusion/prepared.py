"""A denoiser ready for sampling: what does not depend on the noisy mel is computed once, and what is
left are matrix products over rows of frames.

A convolution of three taps is the product of each row with its neighbours beside it. In this form
bfloat16 runs at the speed of the CPU's matrix unit, several times that of torch's convolutions, and
several chunks can stand in one row after the other without hearing each other:

    rows      a a a a a | b b b | c c c c c c
              chunk       chunk   chunk          | = a wall: one row that every layer sees as zero,
                                                     just as it sees the frames before and after a chunk
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from svc.diffusion.denoiser import Denoiser


class _Layer(NamedTuple):
    """The constants of a residual layer; R = B · N rows."""

    taps: Tensor
    """(3C, 2C): frame before, frame itself, frame after."""
    condition: Tensor
    """(R, 2C), the biases of both convolutions included."""
    steps: Tensor
    """(n, C), one row for each time."""
    weight: Tensor
    """(2C, C)."""
    bias: Tensor | None
    """(2C,)."""


class PreparedDenoiser:
    """A denoiser with its condition and its times; see `Denoiser.prepare`.

    It holds L · 2C numbers per frame, 7 MB per second of audio at the usual size, half of it in half
    precision.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        condition: Tensor,
        times: Sequence[float],
        walls: Tensor | None = None,
    ) -> None:
        self.denoiser = denoiser
        self._walls = walls
        batch, _, n_frames = condition.shape
        rows = condition.transpose(1, 2).flatten(0, 1)
        dtype = denoiser.layers[0].dilated_conv.weight.dtype
        embedded = denoiser.embed_times(
            torch.tensor(times, dtype=torch.float32, device=condition.device)
        )
        self._layers = []
        for layer in denoiser.layers:
            conv, known, last = (
                layer.dilated_conv,
                layer.conditioner_projection,
                layer.output_projection,
            )
            constant = F.linear(rows.to(dtype), _matrix(known), _sum(known.bias, conv.bias))
            self._layers.append(
                _Layer(
                    conv.weight.transpose(1, 2).flatten(1).t(),
                    constant,
                    layer.diffusion_projection(embedded),
                    _matrix(last),
                    last.bias,
                )
            )
        n_chans = denoiser.input_projection.out_channels
        # Its first and last row stay zero.
        self._padded = rows.new_zeros(batch, n_frames + 2, n_chans, dtype=dtype)

    @torch.no_grad()
    def __call__(self, x: Tensor, index: int) -> Tensor:
        """Tell the noise in x (B, 1, M, N) at the time of this index; returns (B, 1, M, N)."""
        net, padded = self.denoiser, self._padded
        inner = padded[:, 1:-1]
        y = F.relu(_product(net.input_projection, x[:, 0].transpose(1, 2)))  # (B, N, C)
        total = torch.zeros_like(y)
        for layer in self._layers:
            torch.add(y, layer.steps[index], out=inner)
            if self._walls is not None:
                inner.index_fill_(1, self._walls, 0)
            near = torch.cat((padded[:, :-2], inner, padded[:, 2:]), dim=2).flatten(0, 1)
            told = torch.addmm(layer.condition, near, layer.taps)
            gate, filtered = (half.to(y.dtype) for half in told.chunk(2, dim=1))
            gated = torch.sigmoid(gate).mul_(torch.tanh(filtered)).to(padded.dtype)
            said = F.linear(gated, layer.weight, layer.bias).view(*y.shape[:2], -1)
            residual, skip = said.chunk(2, dim=2)
            y = y.add_(residual).mul_(math.sqrt(0.5))
            total.add_(skip)
        total = total.mul_(1 / math.sqrt(len(self._layers)))
        noise = _product(net.output_projection, F.relu(_product(net.skip_projection, total)))
        return noise.transpose(1, 2)[:, None]


def _matrix(conv: nn.Conv1d) -> Tensor:
    """Return the weights of a convolution of one tap: (out, in)."""
    return conv.weight[:, :, 0]


def _product(conv: nn.Conv1d, rows: Tensor) -> Tensor:
    """Apply a convolution of one tap to rows (..., C)."""
    return F.linear(rows, _matrix(conv), conv.bias)


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return other if one is None else one if other is None else one + other
