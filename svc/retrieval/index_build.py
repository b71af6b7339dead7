"""Building a retrieval index from the units of one speaker (spec_cluster_index 4); numpy and faiss, no torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svc.progress import Progress, silent
from svc.retrieval.index_files import import_faiss

MAX_ROWS = 200_000
"""Rows of a speaker above which k-means centres stand for them."""
N_CENTRES = 10_000
_BLOCK = 8192  # rows added at a time
_ROWS_PER_LIST = 39  # at least; fewer rows than this make a flat index
_SEED_BITS = 31  # faiss's seeds are ints of C

FloatArray = NDArray[np.float32]


def n_lists_for(rows: int) -> int:
    """Return the number of lists, min(⌊16·√rows⌋, ⌊rows/39⌋); 0 means a flat index."""
    return min(math.isqrt(256 * rows), rows // _ROWS_PER_LIST)


def seeds_of(seed: int, speaker_id: int) -> tuple[int, int, int]:
    """Return the seeds of shuffling, k-means and training for one speaker, which no other speaker's data change."""
    drawn = np.random.SeedSequence([seed, speaker_id]).generate_state(3)
    shuffle, k_means, training = (int(number) >> (32 - _SEED_BITS) for number in drawn)
    return shuffle, k_means, training


def shuffled_places(rows: int, seed: int) -> NDArray[np.int64]:
    """Return the place of each row in the shuffled order, (rows,)."""
    return np.random.default_rng(seed).permutation(rows)


def build_index(
    rows: FloatArray, *, nprobe: int = 1, seed: int, progress: Progress = silent
) -> Any:
    """Build the index of one speaker.

    Args:
        rows: float32 (N, U), finite, shuffled; row i gets the number i.
        nprobe: lists to search, stored in the index.
        seed: of the training, 0 to 2³¹ - 1.
        progress: called twice, after training and after adding.

    Returns:
        A faiss index with L2 distance: IVF,Flat with `n_lists_for(N)` lists, or flat where N is below 39.
    """
    faiss = import_faiss()
    dim, n_lists = rows.shape[1], n_lists_for(len(rows))
    index = faiss.index_factory(dim, f"IVF{n_lists},Flat" if n_lists else "Flat")
    if n_lists:
        index.cp.seed = seed
        index.nprobe = nprobe
        index.train(rows)
    progress(1, 2, "training")
    for start in range(0, len(rows), _BLOCK):
        index.add(rows[start : start + _BLOCK])
    progress(2, 2, "adding")
    return index
