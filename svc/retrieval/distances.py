"""The nearest of many centres, in memory that does not grow with the number of rows."""

from __future__ import annotations

import torch
from torch import Tensor

_AT_A_TIME = 1 << 24
"""Distances that are held: 64 MB in float32."""


def squared_norms(centres: Tensor) -> Tensor:
    """Return the squared Euclidean norm of each row, (k,)."""
    return (centres * centres).sum(1)


def nearest(rows: Tensor, centres: Tensor, norms: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Find the nearest centre of every row; of several equally near ones the first (spec_cluster_index 3).

    Args:
        rows: (N, U).
        centres: (k, U), k >= 1, of the same dtype and on the same device.
        norms: `squared_norms` of the centres, where the caller keeps them.

    Returns:
        Index of the centre, int64 (N,), and the squared Euclidean distance, (N,), 0 and more; on the same device.
    """
    norms = squared_norms(centres) if norms is None else norms
    labels = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    distances = torch.empty(len(rows), dtype=rows.dtype, device=rows.device)
    step = max(1, _AT_A_TIME // len(centres))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        # ‖x - c‖² = ‖x‖² + (‖c‖² - 2 x·c), of which the first term does not decide
        rest, labels[start : start + step] = torch.addmm(norms, part, centres.T, alpha=-2).min(1)
        distances[start : start + step] = (rest + squared_norms(part)).clamp_min_(0)
    return labels, distances
