"""Discriminators of HiFi-GAN: one over the raw waveform, five over its periods (arXiv:2010.05646,
section 2.3).

So-vits-svc 4.1 behaviour, spec_core 4. Scores train by least squares, the feature maps by L1 (see
synthesizer/losses.py).
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svc.vocoder.weight_norm import SpectralNormConv, WeightNormConv1d, WeightNormConv2d

_SLOPE = 0.1
PERIODS = (2, 3, 5, 7, 11)


class _Layer(NamedTuple):
    channels: int
    kernel: int
    stride: int
    groups: int


_SCALE_LAYERS = (
    _Layer(16, 15, 1, 1),
    _Layer(64, 41, 4, 4),
    _Layer(256, 41, 4, 16),
    _Layer(1024, 41, 4, 64),
    _Layer(1024, 41, 4, 256),
    _Layer(1024, 5, 1, 1),
)
_PERIOD_LAYERS = (
    _Layer(32, 5, 3, 1),
    _Layer(128, 5, 3, 1),
    _Layer(512, 5, 3, 1),
    _Layer(1024, 5, 3, 1),
    _Layer(1024, 5, 1, 1),
)


def scaled_layers(layers: tuple[_Layer, ...], width: float) -> list[_Layer]:
    """Scale the channels of a stack; groups shrink with them so that they still divide both sides.

    Args:
        layers: the original stack.
        width: factor; 1.0 changes nothing.

    Returns:
        The scaled stack; channels are multiples of 4, at least 4.
    """
    if width == 1.0:
        return list(layers)
    scaled: list[_Layer] = []
    before = 1
    for layer in layers:
        channels = 4 * max(1, round(layer.channels * width / 4))
        common = math.gcd(before, channels)
        wanted = max(1, round(layer.groups * width)) if layer.groups > 1 else 1
        groups = max(n for n in range(1, common + 1) if common % n == 0 and n <= wanted)
        scaled.append(layer._replace(channels=channels, groups=groups))
        before = channels
    return scaled


class _Stack(nn.Module):
    """Convolutions with leaky ReLU and a last one to one channel; collects the feature maps.

    Args:
        layers: the stack.
        ndim: 1 for (B, C, T), 2 for (B, C, T / p, p).
        use_spectral_norm: spectral instead of weight norm.
    """

    def __init__(self, layers: list[_Layer], *, ndim: int, use_spectral_norm: bool) -> None:
        super().__init__()
        conv = (
            functools.partial(SpectralNormConv, ndim=ndim)
            if use_spectral_norm
            else (WeightNormConv1d if ndim == 1 else WeightNormConv2d)
        )
        channels = [1, *(layer.channels for layer in layers)]
        self.convs = nn.ModuleList(
            conv(
                before,
                layer.channels,
                layer.kernel,
                stride=layer.stride,
                padding=layer.kernel // 2,
                groups=layer.groups,
            )
            for before, layer in zip(channels[:-1], layers)
        )
        self.conv_post = conv(channels[-1], 1, 3, padding=1)

    def scores_and_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run the stack; returns scores (B, N) and all maps, the last one not activated."""
        maps = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), _SLOPE)
            maps.append(x)
        x = self.conv_post(x)
        maps.append(x)
        return x.flatten(1), maps


class ScaleDiscriminator(_Stack):
    """Judges the raw waveform.

    Args:
        use_spectral_norm: spectral instead of weight norm.
        width: channel factor.
    """

    def __init__(self, *, use_spectral_norm: bool = False, width: float = 1.0) -> None:
        layers = scaled_layers(_SCALE_LAYERS, width)
        super().__init__(layers, ndim=1, use_spectral_norm=use_spectral_norm)

    def forward(self, wav: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Judge wav (B, 1, T); returns scores (B, N) and 7 feature maps."""
        return self.scores_and_maps(wav)


class PeriodDiscriminator(_Stack):
    """Judges every p-th sample: the waveform folded into rows of p.

    Args:
        period: p, samples.
        use_spectral_norm: spectral instead of weight norm.
        width: channel factor.
    """

    def __init__(self, period: int, *, use_spectral_norm: bool = False, width: float = 1.0) -> None:
        layers = scaled_layers(_PERIOD_LAYERS, width)
        super().__init__(layers, ndim=2, use_spectral_norm=use_spectral_norm)
        self.period = period

    def forward(self, wav: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Judge wav (B, 1, T), reflect-padded to a multiple of p; returns scores (B, N) and 6
        maps.
        """
        batch, channels, length = wav.shape
        wav = F.pad(wav, (0, -length % self.period), mode="reflect")
        return self.scores_and_maps(wav.reshape(batch, channels, -1, self.period))


Judgement = tuple[list[Tensor], list[Tensor], list[list[Tensor]], list[list[Tensor]]]


class _AllStacks(nn.ModuleList):
    """The discriminators, on one input: what trainers compile."""

    def forward(self, wav: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Judge wav (B, 1, T); returns the scores and the maps of each."""
        judged = [discriminator(wav) for discriminator in self]
        return [scores for scores, _ in judged], [maps for _, maps in judged]


class Discriminator(nn.Module):
    """All six discriminators.

    Args:
        use_spectral_norm: spectral instead of weight norm (`model.use_spectral_norm`).
        width: channel factor, for small machines; 1.0 is the original.
    """

    def __init__(self, use_spectral_norm: bool = False, width: float = 1.0) -> None:
        super().__init__()
        if not width > 0:
            raise ValueError(f"width must be positive, not {width}")
        self._spectral = use_spectral_norm
        self.one_pass: bool | None = None
        """Real and fake as one batch, or not; None decides by what is faster."""
        self.discriminators = _AllStacks(
            [
                ScaleDiscriminator(use_spectral_norm=use_spectral_norm, width=width),
                *(
                    PeriodDiscriminator(p, use_spectral_norm=use_spectral_norm, width=width)
                    for p in PERIODS
                ),
            ]
        )

    def forward(self, real: Tensor, fake: Tensor) -> Judgement:
        """Judge recorded and generated audio.

        Args:
            real: (B, 1, T) in [-1, 1].
            fake: (B, 1, T) in [-1, 1].

        Returns:
            real scores, fake scores: one (B, N_d) each per discriminator; real maps, fake maps: a
            list per discriminator.
        """
        if not self._suits_one_pass(real, fake):
            real_scores, real_maps = self.discriminators(real)
            fake_scores, fake_maps = self.discriminators(fake)
            return real_scores, fake_scores, real_maps, fake_maps
        sizes = [len(real), len(fake)]
        scores, maps = self.discriminators(torch.cat([real, fake]))
        score_pairs = [both.split(sizes) for both in scores]
        map_pairs = [[both.split(sizes) for both in stack] for stack in maps]
        return (
            [real_part for real_part, _ in score_pairs],
            [fake_part for _, fake_part in score_pairs],
            [[real_part for real_part, _ in stack] for stack in map_pairs],
            [[fake_part for _, fake_part in stack] for stack in map_pairs],
        )

    def _suits_one_pass(self, real: Tensor, fake: Tensor) -> bool:
        """Decide whether real and fake go through as one batch: half the calls, and every weight is
        normalised once.

        Not where only the generator learns: then the recorded half needs no gradient, which one
        batch would compute, of zeros. On a CPU that costs more than it saves (measured: 1.25 times
        the time of this step's two passes); on a GPU calls are what costs. And not with spectral
        norm, whose estimate advances with every pass, as the original's does.
        """
        if self.one_pass is not None:
            return self.one_pass
        if self._spectral:
            return False
        learns = any(parameter.requires_grad for parameter in self.parameters())
        return learns or not fake.requires_grad or real.is_cuda
