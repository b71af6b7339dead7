"""Multi-head self-attention, shared by every content encoder of this room."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Scaled dot-product self-attention over time ("Attention Is All You Need", arXiv 1706.03762,
    section 3.2).

    torch's fused kernel never holds the (T, T) scores, so memory grows with T, not with its square.

    Args:
        dim: channels, a multiple of `n_heads`.
        n_heads: attention heads.
        key_bias: False where the key projection has no bias (Whisper).
    """

    def __init__(self, dim: int, n_heads: int, *, key_bias: bool = True) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=key_bias)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, n_queries: int | None = None) -> Tensor:
        """Attend from the first `n_queries` positions (all by default) to every position.

        Args:
            x: (B, T, dim).
            n_queries: how many leading positions are wanted, 1..T.

        Returns:
            (B, n_queries or T, dim).
        """
        query = self._heads(self.query(x[:, :n_queries]))
        mixed = F.scaled_dot_product_attention(
            query, self._heads(self.key(x)), self._heads(self.value(x))
        )
        merged: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return merged

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, heads, T, dim / heads)."""
        return x.view(*x.shape[:2], self.n_heads, -1).transpose(1, 2)
