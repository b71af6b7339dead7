"""NSF-HiFiGAN generator: the synthesizer's decoder, its snake form, and the mel vocoder are
settings of one class.

HiFi-GAN (Kong, Kim and Bae 2020, arXiv:2010.05646) with a harmonic source added after every
upsampling (so-vits-svc 4.1 behaviour, spec_core 3; spec_vocoder 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svc.errors import ConfigError
from svc.vocoder.convolution import Conv1d
from svc.vocoder.snake import SnakeAlias
from svc.vocoder.source import HarmonicSource, PhaseStart, SourceNoise
from svc.vocoder.weight_norm import (
    WeightNormConv1d,
    WeightNormConvTranspose1d,
    fold_weight_norm,
)

EXACT_STAGES = 2
"""Upsamplings at the end that stay in the weights' own precision, with the last convolution: rounded to
bfloat16 they hiss, and whoever trains on that learns from a mel loss of 58 instead of 36 (measured on
a voice after 800 steps; 37 with two stages exact, 39 with one). A song in which they are rounded, too,
is 23 to 34 dB above its error and not 34 to 45. They are a sixth of the work.
"""

_SLOPE = 0.1
_LAST_SLOPE = 0.01  # torch's default: every trained checkpoint has learned with it (spec_core M15)


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, _SLOPE)


def _same_conv(channels: int, kernel_size: int, dilation: int) -> WeightNormConv1d:
    padding = (kernel_size * dilation - dilation) // 2
    return WeightNormConv1d(channels, channels, kernel_size, padding=padding, dilation=dilation)


class ResBlock1(nn.Module):
    """Type-1 residual block: per dilation, a dilated and a plain convolution. (B, C, T) -> (B, C,
    T).

    Args:
        channels: C.
        kernel_size: odd.
        dilations: the first three are used.
        snake: SnakeAlias before each convolution instead of leaky ReLU.
    """

    def __init__(
        self, channels: int, kernel_size: int, dilations: Sequence[int], *, snake: bool
    ) -> None:
        super().__init__()
        used = dilations[:3]
        self.convs1 = nn.ModuleList(_same_conv(channels, kernel_size, d) for d in used)
        self.convs2 = nn.ModuleList(_same_conv(channels, kernel_size, 1) for _ in used)
        self.activations: nn.ModuleList | None = None
        if snake:
            self.activations = nn.ModuleList(SnakeAlias(channels) for _ in range(2 * len(used)))

    def forward(self, x: Tensor) -> Tensor:
        """Refine x (B, C, T)."""
        for i, (conv1, conv2) in enumerate(zip(self.convs1, self.convs2)):
            if self.activations is None:
                x = x + conv2(_leaky(conv1(_leaky(x))))
            else:
                first, second = self.activations[2 * i], self.activations[2 * i + 1]
                x = x + conv2(second(conv1(first(x))))
        return x


class ResBlock2(nn.Module):
    """Type-2 residual block: one dilated convolution per dilation, the first two dilations only.

    Arguments as `ResBlock1`.
    """

    def __init__(
        self, channels: int, kernel_size: int, dilations: Sequence[int], *, snake: bool
    ) -> None:
        super().__init__()
        used = dilations[:2]
        self.convs = nn.ModuleList(_same_conv(channels, kernel_size, d) for d in used)
        self.activations: nn.ModuleList | None = None
        if snake:
            self.activations = nn.ModuleList(SnakeAlias(channels) for _ in used)

    def forward(self, x: Tensor) -> Tensor:
        """Refine x (B, C, T)."""
        for i, conv in enumerate(self.convs):
            active = _leaky(x) if self.activations is None else self.activations[i](x)
            x = x + conv(active)
        return x


class Generator(nn.Module):
    """Frames -> samples.

    Args:
        in_channels: C of the input: latent width, or mel bands.
        initial_channels: width before the first upsampling; halved (integer division) by each
            stage.
        upsample_rates: per stage; their product is the hop length.
        upsample_kernel_sizes: per stage, at least the rate.
        resblock: "1" -> `ResBlock1`, anything else -> `ResBlock2`.
        resblock_kernel_sizes: parallel residual blocks of a stage; their mean is taken.
        resblock_dilation_sizes: dilations of each of them.
        sampling_rate: Hz, for the harmonic source.
        gin_channels: width of the speaker embedding; 0 = no conditioning.
        snake: SnakeAlias instead of leaky ReLU everywhere.
        phase_start: see `HarmonicSource`; "frame" for the mel vocoder.
        compat: see `HarmonicSource`.

    Raises:
        ConfigError: a kernel is smaller than its rate, or there are too few channels.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        initial_channels: int,
        upsample_rates: Sequence[int],
        upsample_kernel_sizes: Sequence[int],
        resblock: str | int,
        resblock_kernel_sizes: Sequence[int],
        resblock_dilation_sizes: Sequence[Sequence[int]],
        sampling_rate: int,
        gin_channels: int = 0,
        snake: bool = False,
        phase_start: PhaseStart = "sample",
        compat: bool = False,
    ) -> None:
        super().__init__()
        self._check(initial_channels, upsample_rates, upsample_kernel_sizes)
        self.hop_length = math.prod(upsample_rates)  # samples per frame
        self.n_kernels = len(resblock_kernel_sizes)
        n_stages = len(upsample_rates)
        widths = [initial_channels // 2**i for i in range(n_stages + 1)]

        # The order of the members is the order of the state dict, hence of saved optimizers
        # (spec_core 3.1, 3.3).
        self.m_source = HarmonicSource(
            sampling_rate=sampling_rate,
            hop_length=self.hop_length,
            phase_start=phase_start,
            compat=compat,
        )
        self.noise_convs = nn.ModuleList()
        for i in range(n_stages):
            stride = math.prod(upsample_rates[i + 1 :])
            if i + 1 < n_stages:
                conv = Conv1d(1, widths[i + 1], 2 * stride, stride, (stride + 1) // 2)
            else:
                conv = Conv1d(1, widths[i + 1], 1)
            self.noise_convs.append(conv)
        self.conv_pre = WeightNormConv1d(in_channels, initial_channels, 7, padding=3)
        self.ups = nn.ModuleList(
            # Padding (k - u + 1) // 2; where k - u is odd this is one sample short of u · T, which
            # the output padding gives back, so every stage has exactly u samples per input sample.
            WeightNormConvTranspose1d(
                widths[i],
                widths[i + 1],
                kernel,
                stride=rate,
                padding=(kernel - rate + 1) // 2,
                output_padding=(kernel - rate) % 2,
            )
            for i, (rate, kernel) in enumerate(
                zip(upsample_rates, upsample_kernel_sizes, strict=True)
            )
        )
        block = ResBlock1 if resblock == "1" else ResBlock2
        self.resblocks = nn.ModuleList(
            block(width, kernel, dilations, snake=snake)
            for width in widths[1:]
            for kernel, dilations in zip(resblock_kernel_sizes, resblock_dilation_sizes)
        )
        self.snakes: nn.ModuleList | None = None
        if snake:
            self.snakes = nn.ModuleList(SnakeAlias(width) for width in widths[:-1])
        self.conv_post = WeightNormConv1d(widths[-1], 1, 7, padding=3)
        self.snake_post = SnakeAlias(widths[-1]) if snake else None
        self.cond = Conv1d(gin_channels, initial_channels, 1) if gin_channels else None

    @staticmethod
    def _check(initial: int, rates: Sequence[int], kernels: Sequence[int]) -> None:
        # Lists of different lengths are the config reader's to report; zip refuses them.
        for rate, kernel in zip(rates, kernels, strict=True):
            if kernel < rate:
                raise ConfigError(
                    f"upsample_kernel_sizes: a kernel of {kernel} leaves gaps at rate {rate}; "
                    f"use {2 * rate}"
                )
        if initial < 2 ** len(rates):
            raise ConfigError(
                f"upsample_initial_channel is {initial}: too narrow for {len(rates)} halvings; "
                f"use at least {2 ** len(rates)}"
            )

    def fold(self) -> None:
        """Fold weight norm for inference; outputs do not change."""
        fold_weight_norm(self)

    def forward(
        self,
        x: Tensor,
        f0: Tensor,
        g: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        random: SourceNoise | None = None,
    ) -> Tensor:
        """Generate the waveform.

        Args:
            x: (B, C, T) latent, or log-mel.
            f0: (B, T) Hz, unvoiced where <= 0.
            g: (B, G, 1) speaker, or (B, G, T) when it changes over time.
            generator: CPU generator of the source's random part; None = the global ones.
            random: the random part itself; nothing is drawn then.

        Returns:
            wav (B, 1, T · hop_length) in (-1, 1).
        """
        if random is None:
            random = self.m_source.draw(*f0.shape, generator=generator, device=f0.device)
        excitation = self.m_source(f0, random)
        return self.finish(self.begin(x, excitation, g), excitation)

    def begin(self, x: Tensor, excitation: Tensor, g: Tensor | None = None) -> Tensor:
        """Do all but the last `EXACT_STAGES` upsamplings: what may be rounded.

        Args:
            x: (B, C, T) latent, or log-mel.
            excitation: (B, 1, T · hop_length) from `m_source`.
            g: (B, G, 1) or (B, G, T).

        Returns:
            (B, C', T'), for `finish`.
        """
        x = self.conv_pre(x)
        if self.cond is not None and g is not None:
            x = x + self.cond(g)
        for i in range(max(0, len(self.ups) - EXACT_STAGES)):
            x = self._stage(i, x, excitation)
        return x

    def finish(self, x: Tensor, excitation: Tensor) -> Tensor:
        """Do the rest in the weights' own precision: (B, 1, T · hop_length) in (-1, 1).

        Args:
            x: from `begin`.
            excitation: as for `begin`.
        """
        with _without_autocast(x.device.type):
            x = x.to(self.conv_post.bias.dtype)
            for i in range(max(0, len(self.ups) - EXACT_STAGES), len(self.ups)):
                x = self._stage(i, x, excitation)
            x = F.leaky_relu(x, _LAST_SLOPE) if self.snake_post is None else self.snake_post(x)
            return torch.tanh(self.conv_post(x))

    def _stage(self, i: int, x: Tensor, excitation: Tensor) -> Tensor:
        """Upsample x (B, C, N) for the i-th time, add the source, refine."""
        x = _leaky(x) if self.snakes is None else self.snakes[i](x)
        x = self.ups[i](x) + self.noise_convs[i](excitation)
        return _mean(x, self.resblocks[i * self.n_kernels : (i + 1) * self.n_kernels])


def _without_autocast(device_type: str) -> AbstractContextManager[object]:
    # Only where it is on: an exported graph would get a part of its own for the context.
    if torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def _mean(x: Tensor, blocks: nn.ModuleList) -> Tensor:
    """Mean of the blocks' outputs; a running sum, so that only one of them is kept."""
    total: Tensor = blocks[0](x)
    for block in blocks[1:]:
        total = total + block(x)
    return total / len(blocks)
