"""Multi-head self-attention, shared by every content encoder of this room, and WavLM's gated
relative position bias.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Scaled dot-product self-attention over time ("Attention Is All You Need", arXiv 1706.03762,
    section 3.2).

    torch's fused kernel never holds the (T, T) scores, so memory grows with T, not with its square.

    Args:
        dim: channels.
        n_heads: attention heads.
        head_dim: channels per head; None: `dim` divided by `n_heads`. Pruned nets have fewer heads
            than would fill `dim`.
        key_bias: False where the key projection has no bias (Whisper).
    """

    def __init__(
        self, dim: int, n_heads: int, *, head_dim: int | None = None, key_bias: bool = True
    ) -> None:
        super().__init__()
        inner = n_heads * head_dim if head_dim else dim
        self.n_heads = n_heads
        self.query = nn.Linear(dim, inner)
        self.key = nn.Linear(dim, inner, bias=key_bias)
        self.value = nn.Linear(dim, inner)
        self.out = nn.Linear(inner, dim)

    def forward(
        self, x: Tensor, n_queries: int | None = None, *, bias: Tensor | None = None
    ) -> Tensor:
        """Attend from the first `n_queries` positions (all by default) to every position.

        Args:
            x: (B, T, dim); cast to the precision of the weights.
            n_queries: how many leading positions are wanted, 1..T.
            bias: added to the scores, broadcastable to (B, heads, queries, T); -inf where a
                position must not be heard.

        Returns:
            (B, n_queries or T, dim) in the precision of the weights.
        """
        x = x.to(self.query.weight.dtype)
        query = self._heads(self.query(x[:, :n_queries]))
        mixed = F.scaled_dot_product_attention(
            query,
            self._heads(self.key(x)),
            self._heads(self.value(x)),
            attn_mask=None if bias is None else bias.to(x.dtype),
        )
        merged: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return merged

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, inner) -> (B, heads, T, inner / heads)."""
        return x.view(*x.shape[:2], self.n_heads, -1).transpose(1, 2)


class RelativeBias(nn.Module):
    """Table of position biases by distance, in buckets that grow with it (WavLM, arXiv 2110.13900,
    section 3.1; spec_encoders 10.1).

    Args:
        n_heads: attention heads.
        n_buckets: rows of the table, half for either direction.
        max_distance: frames from which on all distances share a bucket.
    """

    def __init__(self, n_heads: int, n_buckets: int = 320, max_distance: int = 800) -> None:
        super().__init__()
        self.n_buckets, self.max_distance = n_buckets, max_distance
        self.table = nn.Embedding(n_buckets, n_heads)

    def forward(self, n_frames: int) -> Tensor:
        """(heads, n_frames queries, n_frames keys), float32."""
        place = torch.arange(n_frames, device=self.table.weight.device)
        # One row of biases per distance, looked up for all pairs: key - query + n_frames - 1.
        rows = self.table(self.buckets(torch.arange(1 - n_frames, n_frames, device=place.device)))
        index = place[None] - place[:, None] + n_frames - 1
        biases: Tensor = rows.T[:, index]
        return biases

    def buckets(self, distance: Tensor) -> Tensor:
        """Bucket of each distance key - query in frames, int64, same shape."""
        half = self.n_buckets // 2
        exact = half // 2
        size = distance.abs()
        # float32 throughout: at bucket borders its rounding decides.
        steps = torch.log(size.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        far = (exact + (steps * (half - exact)).long()).clamp(max=half - 1)
        return torch.where(distance > 0, half, 0) + torch.where(size < exact, size, far)


class GatedAttention(SelfAttention):
    """Self-attention whose position bias is scaled per head and query by the input (WavLM)."""

    def __init__(self, dim: int, n_heads: int, *, head_dim: int | None = None) -> None:
        super().__init__(dim, n_heads, head_dim=head_dim)
        self.gate = nn.Linear(dim // n_heads if head_dim is None else head_dim, 8)
        self.gate_scale = nn.Parameter(torch.ones(1, n_heads, 1, 1))

    def gated(self, x: Tensor, table: Tensor) -> Tensor:
        """Scale the position bias: (B, T, dim), (heads, T, T) -> (B, heads, T, T), float32."""
        eight: Tensor = self.gate(self._heads(x.to(self.gate.weight.dtype)))
        pairs = eight.reshape(*eight.shape[:-1], 2, 4).sum(-1).float().sigmoid()
        reset, update = pairs[..., :1], pairs[..., 1:]  # (B, heads, T, 1) each
        gate = reset * (update * self.gate_scale.float() - 1) + 2
        biases: Tensor = gate * table
        return biases
