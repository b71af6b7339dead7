"""The one net of the wav2vec 2.0 family: convolutions over the wave, then a Transformer.

HuBERT base and large and ContentVec are settings of it (spec_encoders 4; wav2vec 2.0, arXiv
2006.11477; HuBERT, arXiv 2106.07447). Which file holds which is known to `svc.speech.hubert`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from svc.speech.attention import SelfAttention

CONV_STRIDES = (5, 2, 2, 2, 2, 2, 2)
"""Strides of the front end, not stored in checkpoints: 320 samples per frame in all released
models.
"""
CONV_KERNELS = (10, 3, 3, 3, 3, 2, 2)
"""With these kernels a frame hears 400 samples."""


@dataclass(frozen=True)
class Wav2Vec2Config:
    """Sizes of one net; the names in brackets are fairseq's."""

    conv_channels: tuple[int, ...]  # of the seven layers of the front end
    conv_bias: bool
    conv_layer_norm: bool  # LayerNorm in every layer (large), not GroupNorm in the first (base)
    dim: int  # channels of the Transformer [encoder_embed_dim]
    n_heads: int
    ffn_dim: int  # inner width of the feed-forward parts
    n_layers: int
    pre_norm: bool  # LayerNorm before each part (large), not after it (base) [layer_norm_first]
    position_kernel: int  # frames of the positional convolution
    position_groups: int
    projection_dim: int | None  # width of the final projection, None without [final_proj]


class ConvLayer(nn.Module):
    """Convolution, optional norm, GELU of the front end."""

    def __init__(
        self, in_channels: int, channels: int, kernel: int, stride: int, *, bias: bool, norm: str
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, channels, kernel, stride, bias=bias)
        self.norm: nn.GroupNorm | nn.LayerNorm | None = None
        if norm == "group":
            self.norm = nn.GroupNorm(channels, channels)
        elif norm == "layer":
            self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, channels, frames)."""
        x = self.conv(x)
        if isinstance(self.norm, nn.LayerNorm):
            x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        elif self.norm is not None:
            x = self.norm(x)
        return F.gelu(x)


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward, each with a residual and a LayerNorm before or after."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.attention = SelfAttention(config.dim, config.n_heads)
        self.attention_norm = nn.LayerNorm(config.dim)
        self.fc1 = nn.Linear(config.dim, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, config.dim)
        self.ffn_norm = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        if self.pre_norm:
            x = x + self.attention(self.attention_norm(x))
            x = x + self.fc2(F.gelu(self.fc1(self.ffn_norm(x))))
        else:
            x = self.attention_norm(x + self.attention(x))
            x = self.ffn_norm(x + self.fc2(F.gelu(self.fc1(x))))
        return x


class Wav2Vec2(nn.Module):
    """Wave -> hidden states of one layer.

    The waveform enters raw, without normalisation, also for models trained with it: voices were
    trained on such units (spec_encoders 2). The positional convolution holds plain weights (its
    weight norm is folded at load).
    """

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.config = config
        channels = (1, *config.conv_channels)
        self.frontend = nn.ModuleList(
            ConvLayer(
                channels[index],
                channels[index + 1],
                kernel,
                stride,
                bias=config.conv_bias,
                norm="layer" if config.conv_layer_norm else "group" if index == 0 else "none",
            )
            for index, (kernel, stride) in enumerate(zip(CONV_KERNELS, CONV_STRIDES))
        )
        self.input_norm = nn.LayerNorm(channels[-1])
        self.input_projection = nn.Linear(channels[-1], config.dim)
        self.position = nn.Conv1d(
            config.dim,
            config.dim,
            config.position_kernel,
            padding=config.position_kernel // 2,
            groups=config.position_groups,
        )
        self.norm = nn.LayerNorm(config.dim)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.n_layers))
        self.final_projection = (
            nn.Linear(config.dim, config.projection_dim) if config.projection_dim else None
        )

    def forward(self, wav: Tensor, layer: int | None = None) -> Tensor:
        """Return the hidden states of a layer.

        Args:
            wav: (B, T) samples at 16 kHz, T >= 400, all of full length (no padding).
            layer: 1..n_layers, the output of that layer, later ones are not computed; None: the end
                of the net, which in pre-norm nets includes the final LayerNorm.

        Returns:
            (B, S, D) with S = floor((T - 400) / 320) + 1.
        """
        x: Tensor = wav[:, None]
        for conv in self.frontend:
            x = conv(x)
        x = self.input_projection(self.input_norm(x.transpose(1, 2)))
        x = x + self._positions(x)
        if not self.config.pre_norm:
            x = self.norm(x)
        for block in self.layers[:layer]:
            x = block(x)
        if self.config.pre_norm and layer is None:
            x = self.norm(x)
        return x

    def _positions(self, x: Tensor) -> Tensor:
        """Relative position by convolution: (B, S, D) -> (B, S, D)."""
        # An even kernel gives one frame too many.
        y: Tensor = self.position(x.transpose(1, 2))[..., : x.shape[1]]
        return F.gelu(y).transpose(1, 2)
