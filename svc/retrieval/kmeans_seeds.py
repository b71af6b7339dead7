"""Where k-means begins: seeds that are spread over the frames.

k-means++ (Arthur and Vassilvitskii, SODA 2007) in blocks instead of one seed at a time, so that the work are matrix
products. A block draws five times the seeds it needs, each frame with a probability in proportion to its squared
distance from the seeds so far, and keeps those that bring the frames closest: what scikit-learn's "greedy" k-means++
does for every seed by itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from svc.retrieval.distances import nearest

_CANDIDATES = 5  # drawn for each seed that is kept
SEED_PASSES = _CANDIDATES + 1
"""Distances from every row that are computed per seed."""

_GROWTH = 0.1  # of the number of seeds, per block; the first seeds come one by one


def draw(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw distinct indices in proportion to weights (n,), as many of `count` as have a weight above 0."""
    # The smallest of exponential times with these rates: Efraimidis and Spirakis, 2006
    times = torch.empty(len(weights), dtype=torch.float64).exponential_(generator=generator)
    times = torch.where(weights > 0, times / weights.double(), torch.inf)
    possible = int(torch.isfinite(times).sum())
    return times.topk(min(count, possible), largest=False).indices


def seed_clusters(
    rows: Tensor,
    k: int,
    generator: torch.Generator,
    *,
    device: torch.device | str = "cpu",
    report: Callable[[float], None] = lambda _: None,
) -> tuple[Tensor, Tensor]:
    """Choose distinct rows as seeds, in blocks of k-means++ (see above).

    Args:
        rows: (n, U) float32 on the CPU, distinct, n >= k.
        k: seeds.
        generator: of the draws, on the CPU.
        device: where distances are computed.
        report: called with the part of the work that is done, 0 to 1.

    Returns:
        Index of the seeds, int64 (k,), and for each row which of them is nearest, int64 (n,).
    """
    there = rows.to(device)

    def nearest_of(seeds: Tensor) -> tuple[Tensor, Tensor]:
        labels, distances = nearest(there, there[seeds.to(there.device)])
        return labels.cpu(), distances.cpu()

    seeds = torch.randint(len(rows), (1,), generator=generator)
    labels, distances = nearest_of(seeds)
    distances[seeds] = 0  # exactly: a seed is never drawn again
    while len(seeds) < k:
        count = min(k - len(seeds), max(1, int(len(seeds) * _GROWTH)))
        new = draw(distances, _CANDIDATES * count, generator)
        if len(new) > count:
            side, found = nearest_of(new)
            gain = torch.zeros(len(new), dtype=torch.float64)
            gain.index_add_(0, side, (distances - found).clamp_min(0).double())
            new = new[gain.topk(count).indices]
        elif len(new) < count:
            # Only rows that float32 cannot tell from a seed are left
            free = torch.ones(len(rows), dtype=torch.bool)
            free[seeds] = free[new] = False
            new = torch.cat([new, free.nonzero().squeeze(1)[: count - len(new)]])
        side, found = nearest_of(new)
        labels = torch.where(found < distances, side + len(seeds), labels)
        distances = torch.minimum(found, distances)
        labels[new] = torch.arange(len(seeds), len(seeds) + len(new))
        distances[new] = 0
        seeds = torch.cat([seeds, new])
        report(len(seeds) / k)
    return seeds, labels
