"""The convolutional front end of the wav2vec 2.0 family: a wave becomes 50 frames per second.

The base models normalise the first layer's output over the whole time axis (GroupNorm with one
group per channel). Here the statistics come first: the output of a convolution without padding is
linear in the wave, so its mean and variance per channel follow from the mean m and the second
moments R of the wave's stretches x of kernel length (`WaveMoments`)::

    y = w.x     mean(y) = w.m     var(y) = w R w' - mean(y)**2

With them the first convolution and its norm are one convolution, three things are exact that are
not with a GroupNorm layer: clips of different lengths in one batch, windows of a long wave that are
normalised by the whole wave's statistics, and the sums themselves (float64).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svc.devices import exact_device

CONV_STRIDES = (5, 2, 2, 2, 2, 2, 2)
"""Strides, not stored in most checkpoints: 320 samples per frame in all released models."""
CONV_KERNELS = (10, 3, 3, 3, 3, 2, 2)
"""With these kernels a frame hears 400 samples."""

_BLOCK = 1 << 18  # stretches summed at a time: bounds the float64 copies to about 50 MB


@dataclass(frozen=True)
class WaveMoments:
    """First and second moments of all stretches of `CONV_KERNELS[0]` samples that the first layer
    sees, float64, on the `exact_device` of the waves.
    """

    mean: Tensor  # (B, K)
    second: Tensor  # (B, K, K)

    @classmethod
    def of(cls, wavs: Sequence[Tensor]) -> WaveMoments:
        """Sum over whole waves.

        Args:
            wavs: (T,) each, T >= K; the stretches that reach beyond a wave are not counted.
        """
        means, seconds = [], []
        for wav in wavs:
            wave = wav.to(exact_device(wav.device))
            stretches = wave.unfold(0, CONV_KERNELS[0], CONV_STRIDES[0])  # (frames, K), a view
            total = torch.zeros(CONV_KERNELS[0], dtype=torch.float64, device=wave.device)
            products = torch.zeros(
                CONV_KERNELS[0], CONV_KERNELS[0], dtype=torch.float64, device=wave.device
            )
            for block in torch.split(stretches, _BLOCK):
                exact = block.double()
                total += exact.sum(0)
                products += exact.T @ exact
            means.append(total / len(stretches))
            seconds.append(products / len(stretches))
        return cls(torch.stack(means), torch.stack(seconds))

    def expand(self, batch: int) -> WaveMoments:
        """Repeat the moments of one wave for a batch of its windows."""
        return WaveMoments(
            self.mean.expand(batch, *self.mean.shape[1:]),
            self.second.expand(batch, *self.second.shape[1:]),
        )


def frame_count(n_samples: int) -> int:
    """Frames that the front end makes of a wave (spec_encoders 1, formula A); negative or 0 when
    it is shorter than 400 samples.
    """
    return (n_samples - 400) // 320 + 1


class ConvLayer(nn.Module):
    """Convolution, optional norm, GELU, on (B, T, C): channels last.

    In this layout a kernel's stretch of samples is one run of memory, so a convolution of stride 2
    is one matrix product for the first two taps, whose stretches tile the input, and another for
    the third::

        x      | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 |       row t of the products:
        taps 0, 1  [ 0   1 ] [ 2   3 ] [ 4   5 ] ...   x[2t] and x[2t + 1] side by side
        tap  2             [ 2 ]     [ 4 ]     ...     x[2t + 2]

    On a CPU that is 1.5 times as fast as torch's Conv1d in float32 and 4 times in bfloat16.
    """

    def __init__(
        self, in_channels: int, channels: int, kernel: int, stride: int, *, bias: bool, norm: str
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, channels, kernel, stride, bias=bias)
        # Same shape, but in memory the taps come before the input channels, as the products need.
        weight = self.conv.weight.detach().transpose(1, 2).contiguous().transpose(1, 2)
        self.conv.weight = nn.Parameter(weight)
        self.norm: nn.GroupNorm | nn.LayerNorm | None = None
        if norm == "group":
            self.norm = nn.GroupNorm(channels, channels)
        elif norm == "layer":
            self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the number of frames.

        Args:
            x: (B, T, C), T even.

        Returns:
            (B, T / 2, channels). With three taps the last frame of an item, which would need a
            frame beyond its end, holds no meaning.
        """
        weight = self.conv.weight.transpose(1, 2).flatten(1)  # (channels, taps * C), a view
        pairs = x.to(weight.dtype).reshape(-1, 2 * x.shape[2])
        y = F.linear(pairs, weight[:, : pairs.shape[1]], self.conv.bias)
        if weight.shape[1] > pairs.shape[1]:
            y[:-1].addmm_(pairs[1:, : x.shape[2]], weight[:, pairs.shape[1] :].T)
        return self._activate(y.view(x.shape[0], x.shape[1] // 2, -1))

    def first(self, wav: Tensor, moments: WaveMoments | None) -> Tensor:
        """The layer that hears the wave: (B, T) -> (B, frames, channels), float32.

        Args:
            wav: samples.
            moments: of the waves that the items are, or are windows of; a GroupNorm becomes a
                part of the convolution with them.
        """
        stretches = wav.unfold(-1, self.conv.kernel_size[0], self.conv.stride[0])
        kernels = self.conv.weight[:, 0]  # (C, K)
        if moments is None:
            return self._activate(F.linear(stretches, kernels, self.conv.bias))
        norm = self.norm
        assert isinstance(norm, nn.GroupNorm)  # noqa: S101 - for the type checker
        where = exact_device(wav.device)  # that of the moments
        exact = kernels.to(where).double()
        mean = moments.mean @ exact.T  # (B, C)
        power = torch.einsum("ck,bkl,cl->bc", exact, moments.second, exact)
        scale = norm.weight.to(where).double()
        gain = scale / (power - mean**2).clamp(min=0).add(norm.eps).sqrt()
        # A bias of the convolution shifts mean and output alike, so it drops out.
        shift = norm.bias.to(where).double() - mean * gain
        # Rounded first: where there is no float64, none can be sent.
        weight = (gain[:, None] * exact.T).to(wav.dtype).to(wav.device)  # (B, K, C)
        offset = shift[:, None].to(wav.dtype).to(wav.device)
        return F.gelu(torch.baddbmm(offset, stretches, weight))

    def _activate(self, y: Tensor) -> Tensor:
        if isinstance(self.norm, nn.LayerNorm):
            y = self.norm(y.to(self.norm.weight.dtype))
        return F.gelu(y)


class FrontEnd(nn.ModuleList):
    """Seven convolutions over the wave.

    Args:
        channels: output channels of each layer.
        bias: convolutions have a bias.
        layer_norm: LayerNorm in every layer (large models) instead of GroupNorm in the first.
    """

    def __init__(self, channels: Sequence[int], *, bias: bool, layer_norm: bool) -> None:
        inputs = (1, *channels)
        super().__init__(
            ConvLayer(
                inputs[index],
                inputs[index + 1],
                kernel,
                stride,
                bias=bias,
                norm="layer" if layer_norm else "group" if index == 0 else "none",
            )
            for index, (kernel, stride) in enumerate(zip(CONV_KERNELS, CONV_STRIDES))
        )
        self.needs_moments = not layer_norm

    @property
    def first(self) -> nn.Conv1d:
        """The convolution that hears the wave itself."""
        return self._layers()[0].conv

    def _layers(self) -> list[ConvLayer]:
        return [layer for layer in self if isinstance(layer, ConvLayer)]

    def forward(self, wav: Tensor, moments: WaveMoments | None) -> Tensor:
        """(B, T) -> (B, S, C), T >= 400; `moments` are needed by base models only."""
        if self.needs_moments and moments is None:
            raise ValueError("this front end normalises over time and needs the moments")
        first, *others = self._layers()
        n_frames = frame_count(wav.shape[1])
        # Whole pairs in all six layers that halve: 64 frames of the first for each of the last,
        # and one more for the ends without meaning.
        needed = (64 * (n_frames + 1) - 1) * CONV_STRIDES[0] + CONV_KERNELS[0]
        x = first.first(F.pad(wav, (0, max(0, needed - wav.shape[1])))[:, :needed], moments)
        for layer in others:
            x = layer(x)
        return x[:, :n_frames]
