"""Prior encoder (units -> latent distribution), posterior encoder (spectrogram -> latent
distribution) and F0 decoder.

VITS (arXiv:2106.06103) with content units in place of text; so-vits-svc 4.1 behaviour, spec_core
2.3, 2.4, 2.6.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from svc.synthesizer.attention import CausalStack, EncoderStack
from svc.synthesizer.blocks import WN, at_least_float32
from svc.vocoder.convolution import Conv1d

N_PITCH_BINS = 256
_POSTERIOR_LAYERS = 16
_POSTERIOR_KERNEL = 5


def sample(m: Tensor, logs: Tensor, noise: Tensor, mask: Tensor, scale: float = 1.0) -> Tensor:
    """Sample N(m, exp(logs)²): (m + noise · exp(logs) · scale) · mask, all (B, C, T) but mask (B,
    1, T).
    """
    return (m + noise * torch.exp(logs) * scale) * mask


class PriorEncoder(nn.Module):
    """What is sung, at which pitch: a distribution over latents that does not know the spectrogram.

    Args:
        channels: C, latent width.
        hidden_channels: H.
        filter_channels: width of the feed-forward parts.
        n_heads: attention heads.
        n_layers: transformer layers.
        kernel_size: of the feed-forward parts.
        p_dropout: everywhere.
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int,
        filter_channels: int,
        *,
        n_heads: int,
        n_layers: int,
        kernel_size: int,
        p_dropout: float,
    ) -> None:
        super().__init__()
        self.proj = Conv1d(hidden_channels, 2 * channels, 1)
        self.f0_emb = nn.Embedding(N_PITCH_BINS, hidden_channels)
        self.enc_ = EncoderStack(
            hidden_channels,
            filter_channels,
            n_heads=n_heads,
            n_layers=n_layers,
            kernel_size=kernel_size,
            p_dropout=p_dropout,
        )

    def forward(self, x: Tensor, mask: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """Encode.

        Args:
            x: (B, H, T).
            mask: (B, 1, T).
            coarse: (B, T) int64 pitch bins in [0, 255].

        Returns:
            m and logs, each (B, C, T) at least float32: mean and log standard deviation, zero
            outside the mask.
        """
        x = x + self.f0_emb(coarse).transpose(1, 2)
        x = self.enc_(x * mask, mask)
        m, logs = (at_least_float32(self.proj(x)) * mask).chunk(2, dim=1)
        return m, logs


class PosteriorEncoder(nn.Module):
    """What the recording is: a distribution over latents, from its linear spectrogram. Only
    training uses it.

    Args:
        spec_channels: F, bins of the spectrogram.
        channels: C, latent width.
        hidden_channels: H.
        gin_channels: width of the speaker embedding.
        depthwise: depthwise-separable convolutions.
    """

    def __init__(
        self,
        spec_channels: int,
        channels: int,
        hidden_channels: int,
        *,
        gin_channels: int,
        depthwise: bool,
    ) -> None:
        super().__init__()
        self.pre = Conv1d(spec_channels, hidden_channels, 1)
        self.enc = WN(
            hidden_channels,
            kernel_size=_POSTERIOR_KERNEL,
            n_layers=_POSTERIOR_LAYERS,
            gin_channels=gin_channels,
            depthwise=depthwise,
        )
        self.proj = Conv1d(hidden_channels, 2 * channels, 1)

    def forward(self, spec: Tensor, mask: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Encode.

        Args:
            spec: (B, F, T) magnitudes.
            mask: (B, 1, T).
            g: (B, G, 1).

        Returns:
            m and logs, each (B, C, T) at least float32, zero outside the mask.
        """
        x = self.enc(self.pre(spec) * mask, mask, g)
        m, logs = (at_least_float32(self.proj(x)) * mask).chunk(2, dim=1)
        return m, logs


class F0Decoder(nn.Module):
    """Predicts the pitch contour in the target singer's range from content and a normalised
    contour.

    Args:
        hidden_channels: H.
        filter_channels: width of the feed-forward parts.
        n_heads: attention heads.
        n_layers: layers.
        kernel_size: of the feed-forward parts.
        p_dropout: everywhere.
        gin_channels: width of the speaker embedding.
    """

    def __init__(
        self,
        hidden_channels: int,
        filter_channels: int,
        *,
        n_heads: int,
        n_layers: int,
        kernel_size: int,
        p_dropout: float,
        gin_channels: int,
    ) -> None:
        super().__init__()
        self.prenet = Conv1d(hidden_channels, hidden_channels, 3, padding=1)
        self.decoder = CausalStack(
            hidden_channels,
            filter_channels,
            n_heads=n_heads,
            n_layers=n_layers,
            kernel_size=kernel_size,
            p_dropout=p_dropout,
        )
        self.proj = Conv1d(hidden_channels, 1, 1)
        self.f0_prenet = Conv1d(1, hidden_channels, 3, padding=1)
        self.cond = Conv1d(gin_channels, hidden_channels, 1)

    def forward(self, x: Tensor, norm_lf0: Tensor, mask: Tensor, g: Tensor) -> Tensor:
        """Predict.

        Args:
            x: (B, H, T); no gradient goes back through it.
            norm_lf0: (B, 1, T) log-like pitch minus its mean over voiced frames.
            mask: (B, 1, T).
            g: (B, G, 1) or (B, G, T).

        Returns:
            (B, 1, T) log-like pitch, zero outside the mask.
        """
        x = x.detach() + self.cond(g) + self.f0_prenet(norm_lf0.to(x.dtype))
        x = self.prenet(x) * mask
        x = self.decoder(x * mask, mask)
        return at_least_float32(self.proj(x)) * mask
