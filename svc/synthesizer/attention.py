"""Transformer stacks: the prior encoder's (relative positions) and the causal one of F0 decoder and
transformer flow.

Vaswani et al. 2017, arXiv:1706.03762, post-norm; relative positions of Shaw, Uszkoreit and Vaswani
2018, arXiv:1803.02155, within a window; so-vits-svc 4.1 behaviour, spec_core 2.2. Everything is (B,
C, T): 1x1 convolutions instead of linear layers, because checkpoints have them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svc.synthesizer.blocks import LayerNorm, gate
from svc.vocoder.convolution import Conv1d, pad_frames
from svc.vocoder.weight_norm import WeightNormConv1d

_MASKED = -1e4  # finite, and within float16 (spec_core 10, M9)
_MAX_SCORES = 2**25  # scores held at a time without gradients: 128 MiB of float32


class _Attention(nn.Module):
    """Heads, projections and their initialisation, shared by the two kinds of attention."""

    def __init__(self, channels: int, n_heads: int, p_dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.p_dropout = p_dropout

    def _add_projections(self, channels: int) -> None:
        """Register the projections: after a subclass's own parameters, as state dicts list them."""
        self.conv_q = Conv1d(channels, channels, 1)
        self.conv_k = Conv1d(channels, channels, 1)
        self.conv_v = Conv1d(channels, channels, 1)
        self.conv_o = Conv1d(channels, channels, 1)
        for conv in (self.conv_q, self.conv_k, self.conv_v):
            nn.init.xavier_uniform_(conv.weight)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project x (B, C, T) to q, k, v, each (B, heads, T, d)."""
        q, k, v = (
            conv(x).view(x.shape[0], self.n_heads, -1, x.shape[2]).transpose(2, 3)
            for conv in (self.conv_q, self.conv_k, self.conv_v)
        )
        return q, k, v

    def _merge(self, out: Tensor) -> Tensor:
        """Join heads (B, heads, T, d) and project: (B, C, T)."""
        merged: Tensor = self.conv_o(out.transpose(2, 3).flatten(1, 2))
        return merged


class RelativeAttention(_Attention):
    """Self-attention with learned terms for the positions within a window around each query.

    The window's terms are added to, and read from, the band of the score matrix around its diagonal
    by index: O(T · window) extra work and no second (T, T) array.

    Args:
        channels: C.
        n_heads: heads; the terms are shared by all of them.
        window: w; positions j - i in [-w, w] have a term.
        p_dropout: on the probabilities.
    """

    def __init__(self, channels: int, n_heads: int, *, window: int, p_dropout: float) -> None:
        super().__init__(channels, n_heads, p_dropout)
        self.window = window
        d = channels // n_heads
        self.emb_rel_k = nn.Parameter(torch.randn(1, 2 * window + 1, d) * d**-0.5)
        self.emb_rel_v = nn.Parameter(torch.randn(1, 2 * window + 1, d) * d**-0.5)
        self._add_projections(channels)

    def _rows(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, first: int) -> Tensor:
        """Attend from the queries q (B, heads, R, d) of frames first ... first + R - 1 to all T
        frames.
        """
        n_rows, length = q.shape[2], k.shape[2]
        scores = q @ k.transpose(2, 3)  # (B, heads, R, T)
        # Frames j = i - w ... i + w around each query i; those outside the clip point at its edge
        # with weight 0.
        offsets = torch.arange(-self.window, self.window + 1, device=q.device)
        frames = torch.arange(first, first + n_rows, device=q.device)[:, None] + offsets
        outside = (frames < 0) | (frames >= length)
        index = frames.clamp(0, length - 1).expand(*scores.shape[:2], -1, -1)
        terms = (q @ self.emb_rel_k[0].t()).masked_fill(outside, 0)
        scores.scatter_add_(3, index, terms.to(scores.dtype))
        if mask is not None:
            scores = scores.masked_fill(mask[:, None] == 0, _MASKED)
        p = F.dropout(scores.softmax(dim=3), self.p_dropout, self.training)
        band = p.gather(3, index).masked_fill(outside, 0)
        return p @ v + band @ self.emb_rel_v[0]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            x: (B, C, T).
            mask: (B, 1, T), 1 inside the clip: the keys that may be attended to; None = all. (What
                the padded queries see does not matter: every consumer masks them.)

        Returns:
            (B, C, T).
        """
        q, k, v = self._heads(x)
        q = q / math.sqrt(q.shape[3])
        length = q.shape[2]
        rows = length
        if not torch.is_grad_enabled():  # minutes of audio at once: bound the memory
            rows = max(1, _MAX_SCORES // (q.shape[0] * q.shape[1] * length))
        if rows >= length:
            return self._merge(self._rows(q, k, v, mask, 0))
        parts = [
            self._rows(q[:, :, first : first + rows], k, v, mask, first)
            for first in range(0, length, rows)
        ]
        return self._merge(torch.cat(parts, dim=2))


class CausalAttention(_Attention):
    """Self-attention to the present and earlier frames, without relative positions or padding mask.

    The key projection starts as a copy of the query projection (spec_core 2.10). Arguments as
    `RelativeAttention`.
    """

    def __init__(self, channels: int, n_heads: int, *, p_dropout: float) -> None:
        super().__init__(channels, n_heads, p_dropout)
        self._add_projections(channels)
        self.conv_k.load_state_dict(self.conv_q.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """Attend within x (B, C, T); returns (B, C, T)."""
        q, k, v = self._heads(x)
        p_dropout = self.p_dropout if self.training else 0.0
        return self._merge(
            F.scaled_dot_product_attention(q, k, v, dropout_p=p_dropout, is_causal=True)
        )


class FeedForward(nn.Module):
    """Two convolutions with a ReLU between: (B, C, T) -> (B, C, T), zero outside the mask.

    Args:
        channels: C.
        filter_channels: inner width.
        kernel_size: of both.
        p_dropout: after the ReLU.
        causal: look back only.
    """

    def __init__(
        self,
        channels: int,
        filter_channels: int,
        kernel_size: int,
        *,
        p_dropout: float,
        causal: bool,
    ) -> None:
        super().__init__()
        reach = kernel_size - 1
        self.pad = (reach, 0) if causal else (reach // 2, reach - reach // 2)
        self.p_dropout = p_dropout
        self.conv_1 = Conv1d(channels, filter_channels, kernel_size)
        self.conv_2 = Conv1d(filter_channels, channels, kernel_size)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Transform x (B, C, T) under mask (B, 1, T)."""
        x = F.relu(self.conv_1(self._padded(x * mask)))
        x = F.dropout(x, self.p_dropout, self.training)
        y: Tensor = self.conv_2(self._padded(x * mask)) * mask
        return y

    def _padded(self, x: Tensor) -> Tensor:
        return pad_frames(x, *self.pad, channels_last=self.conv_1.channels_last)


class EncoderStack(nn.Module):
    """Transformer of the prior encoder: relative attention, both directions.

    Args:
        channels: H.
        filter_channels: width of the feed-forward parts.
        n_heads: attention heads.
        n_layers: layers.
        kernel_size: of the feed-forward parts.
        p_dropout: everywhere.
        window: of the relative positions, frames to each side.
    """

    def __init__(
        self,
        channels: int,
        filter_channels: int,
        *,
        n_heads: int,
        n_layers: int,
        kernel_size: int,
        p_dropout: float,
        window: int = 4,
    ) -> None:
        super().__init__()
        self.p_dropout = p_dropout
        layers = range(n_layers)
        self.attn_layers = nn.ModuleList(
            RelativeAttention(channels, n_heads, window=window, p_dropout=p_dropout) for _ in layers
        )
        self.norm_layers_1 = nn.ModuleList(LayerNorm(channels) for _ in layers)
        self.ffn_layers = nn.ModuleList(
            FeedForward(channels, filter_channels, kernel_size, p_dropout=p_dropout, causal=False)
            for _ in layers
        )
        self.norm_layers_2 = nn.ModuleList(LayerNorm(channels) for _ in layers)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Encode x (B, H, T) under mask (B, 1, T); returns (B, H, T), zero outside the mask."""
        x = x * mask
        for attention, norm_1, ffn, norm_2 in zip(
            self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2
        ):
            y = F.dropout(attention(x, mask), self.p_dropout, self.training)
            x = norm_1(x + y)
            y = F.dropout(ffn(x, mask), self.p_dropout, self.training)
            x = norm_2(x + y)
        return x * mask


class CausalStack(nn.Module):
    """Causal transformer, of the F0 decoder and, with speaker gates, of the transformer flow.

    Args:
        channels: H.
        filter_channels: width of the feed-forward parts.
        n_heads: attention heads.
        n_layers: layers.
        kernel_size: of the feed-forward parts.
        p_dropout: everywhere.
        gin_channels: width of the speaker embedding; above 0 every layer starts with a gate
            conditioned on it.
    """

    def __init__(
        self,
        channels: int,
        filter_channels: int,
        *,
        n_heads: int,
        n_layers: int,
        kernel_size: int,
        p_dropout: float,
        gin_channels: int = 0,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.p_dropout = p_dropout
        layers = range(n_layers)
        self.cond_pre: Conv1d | None = None
        self.cond_layer: WeightNormConv1d | None = None
        if gin_channels:
            self.cond_pre = Conv1d(channels, 2 * channels, 1)
            self.cond_layer = WeightNormConv1d(gin_channels, 2 * channels * n_layers, 1)
        self.self_attn_layers = nn.ModuleList(
            CausalAttention(channels, n_heads, p_dropout=p_dropout) for _ in layers
        )
        self.norm_layers_0 = nn.ModuleList(LayerNorm(channels) for _ in layers)
        self.ffn_layers = nn.ModuleList(
            FeedForward(channels, filter_channels, kernel_size, p_dropout=p_dropout, causal=True)
            for _ in layers
        )
        self.norm_layers_1 = nn.ModuleList(LayerNorm(channels) for _ in layers)

    def forward(self, x: Tensor, mask: Tensor, g: Tensor | None = None) -> Tensor:
        """Decode x (B, H, T) under mask (B, 1, T) for speaker g (B, G, 1 or T); returns (B, H,
        T).
        """
        size = 2 * self.channels
        cond = None if g is None or self.cond_layer is None else self.cond_layer(g)
        x = x * mask
        for i, (attention, norm_0, ffn, norm_1) in enumerate(
            zip(self.self_attn_layers, self.norm_layers_0, self.ffn_layers, self.norm_layers_1)
        ):
            if cond is not None and self.cond_pre is not None:
                x = gate(self.cond_pre(x) + cond[:, size * i : size * (i + 1)])
            y = F.dropout(attention(x), self.p_dropout, self.training)
            x = norm_0(x + y)
            y = F.dropout(ffn(x, mask), self.p_dropout, self.training)
            x = norm_1(x + y)
        return x * mask
