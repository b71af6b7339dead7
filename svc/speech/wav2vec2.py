"""The one net of the wav2vec 2.0 family: convolutions over the wave, then a Transformer.

HuBERT base and large, ContentVec, hubert-soft, WavLM and DPHuBERT are settings of it
(spec_encoders 4, 7, 9, 10; wav2vec 2.0, arXiv 2006.11477; HuBERT, arXiv 2106.07447). Which file
holds which is known to the readers of this room (`svc.speech.wave_files`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svc.speech.attention import GatedAttention, RelativeBias, SelfAttention
from svc.speech.frontend import FrontEnd, WaveMoments, frame_count


@dataclass(frozen=True)
class Wav2Vec2Config:
    """Sizes of one net; the names in brackets are fairseq's."""

    conv_channels: tuple[int, ...]  # of the seven layers of the front end
    conv_bias: bool
    conv_layer_norm: bool  # LayerNorm in every layer (large), not GroupNorm in the first (base)
    dim: int  # channels of the Transformer [encoder_embed_dim]
    n_heads: tuple[int, ...]  # of each layer; 0: the layer has no attention (pruned)
    ffn_dims: tuple[int, ...]  # inner width of each layer's feed-forward part; 0: it has none
    head_dim: int  # channels per head, 64 in every released net
    pre_norm: bool  # LayerNorm before each part (large), not after it (base) [layer_norm_first]
    position_kernel: int  # frames of the positional convolution
    position_groups: int
    projection_dim: int | None  # width of the final projection, None without [final_proj]
    feature_scale: bool = False  # one factor per channel after the front end (DPHuBERT)
    relative_buckets: int = 0  # rows of WavLM's table of position biases; 0: none [num_buckets]
    relative_distance: int = 800  # frames [max_distance]
    soft: bool = False  # a hubert-soft, which tells it from a ContentVec of the same sizes
    normalize_wave: bool = False  # waves are normalised to mean 0, variance 1 first [normalize]

    @property
    def n_layers(self) -> int:
        """Layers of the Transformer."""
        return len(self.n_heads)


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward, each with a residual and a LayerNorm before or after.

    A part that was pruned away leaves its LayerNorm behind (spec_encoders 9).
    """

    def __init__(self, config: Wav2Vec2Config, index: int) -> None:
        super().__init__()
        n_heads, width = config.n_heads[index], config.ffn_dims[index]
        self.pre_norm = config.pre_norm
        self.attention: SelfAttention | None = None
        if n_heads:
            kind = GatedAttention if config.relative_buckets else SelfAttention
            self.attention = kind(config.dim, n_heads, head_dim=config.head_dim)
        self.attention_norm = nn.LayerNorm(config.dim)
        self.fc1 = nn.Linear(config.dim, width) if width else None
        self.fc2 = nn.Linear(width, config.dim) if width else None
        self.ffn_norm = nn.LayerNorm(config.dim)

    def forward(
        self, x: Tensor, unheard: Tensor | None = None, position_bias: Tensor | None = None
    ) -> Tensor:
        """(B, S, D) -> (B, S, D).

        Args:
            x: hidden states.
            unheard: (B, 1, 1, S), -inf at frames that are padding, 0 elsewhere; None: none are.
            position_bias: (heads, S, S) of `RelativeBias`.
        """
        if self.pre_norm:
            x = x + self._attend(self.attention_norm(x), unheard, position_bias)
            return x + self._feed(self.ffn_norm(x))
        x = self.attention_norm(x + self._attend(x, unheard, position_bias))
        return self.ffn_norm(x + self._feed(x))  # type: ignore[no-any-return]

    def _attend(
        self, x: Tensor, unheard: Tensor | None, position_bias: Tensor | None
    ) -> Tensor | int:
        if self.attention is None:
            return 0
        bias = unheard
        if position_bias is not None and isinstance(self.attention, GatedAttention):
            gated = self.attention.gated(x, position_bias)
            bias = gated if unheard is None else gated + unheard
        attended: Tensor = self.attention(x, bias=bias)
        return attended

    def _feed(self, x: Tensor) -> Tensor | int:
        if self.fc1 is None or self.fc2 is None:
            return 0
        fed: Tensor = self.fc2(F.gelu(self.fc1(x.to(self.fc1.weight.dtype))))
        return fed


class Wav2Vec2(nn.Module):
    """Wave -> hidden states of one layer.

    The positional convolution holds plain weights (its weight norm is folded at load). The residual
    stream and all norms are float32 whatever the precision of the matrices (`lower_precision`).
    """

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.config = config
        width = config.conv_channels[-1]
        self.frontend = FrontEnd(
            config.conv_channels, bias=config.conv_bias, layer_norm=config.conv_layer_norm
        )
        self.feature_scale = nn.Parameter(torch.ones(width)) if config.feature_scale else None
        self.input_norm = nn.LayerNorm(width)
        self.input_projection = nn.Linear(width, config.dim)
        self.position = nn.Conv1d(
            config.dim,
            config.dim,
            config.position_kernel,
            padding=config.position_kernel // 2,
            groups=config.position_groups,
        )
        self.norm = nn.LayerNorm(config.dim)
        self.relative_bias = (
            RelativeBias(max(config.n_heads), config.relative_buckets, config.relative_distance)
            if config.relative_buckets
            else None
        )
        self.layers = nn.ModuleList(TransformerLayer(config, i) for i in range(config.n_layers))
        self.final_projection = (
            nn.Linear(config.dim, config.projection_dim) if config.projection_dim else None
        )

    def forward(
        self,
        wav: Tensor,
        layer: int | None = None,
        *,
        lengths: Tensor | None = None,
        moments: WaveMoments | None = None,
    ) -> Tensor:
        """Return the hidden states of a layer.

        Args:
            wav: (B, T) samples at 16 kHz, T >= 400; zeros behind the end of a shorter item.
            layer: 1..n_layers, the output of that layer, later ones are not computed; None: the end
                of the net, which in pre-norm nets includes the final LayerNorm.
            lengths: (B,) samples of each item, >= 400; None: all are T long. Padding changes
                nothing in the valid frames.
            moments: of the waves that the items are windows of; None: each item is a whole wave.

        Returns:
            (B, S, D) with S = floor((T - 400) / 320) + 1; frames beyond an item's own count hold
            no meaning.
        """
        if moments is None and self.frontend.needs_moments:
            ends = [wav.shape[1]] * len(wav) if lengths is None else lengths.tolist()
            moments = WaveMoments.of([item[:end] for item, end in zip(wav, ends)])
        features = self.frontend(wav, moments)
        bias = None if self.relative_bias is None else self.relative_bias(features.shape[1])
        return self.transform(features, layer, lengths=lengths, position_bias=bias)

    def transform(
        self,
        features: Tensor,
        layer: int | None = None,
        *,
        lengths: Tensor | None = None,
        position_bias: Tensor | None = None,
    ) -> Tensor:
        """Return the hidden states of a layer for what the front end has heard.

        Args:
            features: (B, S, channels) of `frontend`.
            layer: as for `forward`.
            lengths: as for `forward`.
            position_bias: (heads, S, S) of `relative_bias`, for nets that have it.

        Returns:
            (B, S, D).
        """
        x = features.to(self.input_norm.weight.dtype)
        if self.feature_scale is not None:
            x = x * self.feature_scale
        x = self.input_projection(self.input_norm(x).to(self.input_projection.weight.dtype))
        x = x.to(self.norm.weight.dtype)
        unheard = None
        if lengths is not None:
            frames = torch.tensor([frame_count(n) for n in lengths.tolist()], device=x.device)
            outside = torch.arange(x.shape[1], device=x.device)[None] >= frames[:, None]
            x = x.masked_fill(outside[..., None], 0.0)  # as the convolution's own padding
            unheard = torch.zeros_like(outside, dtype=x.dtype).masked_fill(outside, -torch.inf)
            unheard = unheard[:, None, None]
        x = x + self._positions(x)
        if not self.config.pre_norm:
            x = self.norm(x)
        for block in self.layers[:layer]:
            x = block(x, unheard, position_bias)
        if self.config.pre_norm and layer is None:
            x = self.norm(x)
        hidden: Tensor = x
        return hidden

    def _positions(self, x: Tensor) -> Tensor:
        """Relative position by convolution: (B, S, D) -> (B, S, D)."""
        # An even kernel gives one frame too many.
        y: Tensor = self.position(x.transpose(1, 2).to(self.position.weight.dtype))
        activated: Tensor = F.gelu(y[..., : x.shape[1]])
        return activated.transpose(1, 2)
