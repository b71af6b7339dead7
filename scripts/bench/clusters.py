"""Time and quality of k-means centres against scikit-learn's and faiss's, as a Markdown table for docs/timbre.md.

    OMP_NUM_THREADS=2 python scripts/bench/clusters.py --out docs/timbre.md
    python scripts/bench/clusters.py --sizes 10000x64:500
    python scripts/bench/clusters.py --rows units.npy --sizes 12000x384:1200

A size is FRAMESxWIDTH:CENTRES. Without --rows the frames are made up: a voice that glides from one to
another of 400 sounds in 3 to 12 frames, each time a little differently, in directions of falling variance.
Where scikit-learn's full k-means would take longer than --limit seconds, one iteration of it is timed and
multiplied by the usual number, without its seeding, and the others are left out.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import numpy.typing as npt
import torch
from doc_section import write_section
from f0 import machine

from svc.retrieval.distances import nearest
from svc.retrieval.kmeans_fit import KmeansOptions, fit_kmeans

Rows = npt.NDArray[np.float32]

SIZES = ("10000x64:500", "12000x384:1200", "100000x768:10000")
USUAL_ITERATIONS = 20  # of Lloyd's algorithm until scikit-learn stops, on the smaller sizes
N_SOUNDS = 400


def made_up(n: int, width: int, seed: int = 0) -> Rows:
    """Frames of a voice that does not exist."""
    rng = np.random.default_rng(seed)
    scale = np.arange(1, width + 1) ** -0.4
    sounds = rng.standard_normal((N_SOUNDS, width)) * scale
    weights = 1 / np.arange(1, N_SOUNDS + 1)
    said: list[npt.NDArray[np.float64]] = []
    here, length = sounds[0], 0
    while length < n:
        sound = sounds[rng.choice(N_SOUNDS, p=weights / weights.sum())]
        there = sound + 0.5 * rng.standard_normal(width) * scale
        steps = np.linspace(0, 1, int(rng.integers(3, 13)), endpoint=False)[:, None]
        said.append(here + (there - here) * steps)
        here, length = there, length + len(steps)
    frames = np.concatenate(said)[:n]
    return (frames + 0.2 * rng.standard_normal((n, width)) * scale).astype(np.float32)


def inertia(rows: Rows, centres: torch.Tensor) -> float:
    return float(nearest(torch.from_numpy(rows), centres)[1].double().sum())


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def ours(rows: Rows, k: int, device: str, *, full: bool = False) -> torch.Tensor:
    return fit_kmeans(torch.from_numpy(rows), KmeansOptions(k, full=full), device=device).centres


def sklearn_full(rows: Rows, k: int) -> torch.Tensor:
    from sklearn.cluster import KMeans

    return torch.from_numpy(KMeans(k, n_init=1, random_state=0).fit(rows).cluster_centers_)


def sklearn_minibatch(rows: Rows, k: int) -> torch.Tensor:
    """With the settings that the original offers (spec_cluster_index 2)."""
    from sklearn.cluster import MiniBatchKMeans

    found = MiniBatchKMeans(k, batch_size=4096, max_iter=80, n_init=1, random_state=0).fit(rows)
    return torch.from_numpy(found.cluster_centers_)


def faiss_kmeans(rows: Rows, k: int) -> torch.Tensor:
    """With all frames and its default of 25 iterations."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    found = faiss.Kmeans(
        rows.shape[1], k, seed=1, max_points_per_centroid=len(rows), min_points_per_centroid=1
    )
    found.train(rows)
    return torch.from_numpy(found.centroids)


def sklearn_iteration(rows: Rows, k: int) -> float:
    """Seconds of one iteration of Lloyd's algorithm; it assigns all frames once more at the end."""
    from sklearn.cluster import KMeans

    start = rows[np.random.default_rng(0).permutation(len(rows))[:k]]
    return timed(lambda: KMeans(k, init=start, n_init=1, max_iter=1).fit(rows))[1] / 2


def lines_of(rows: Rows, k: int, args: argparse.Namespace) -> list[str]:
    """Table rows of one size."""
    what = f"{len(rows):,} × {rows.shape[1]} → {k:,}"
    iteration = sklearn_iteration(rows, k)
    small = iteration * USUAL_ITERATIONS * 3 <= args.limit  # its seeding takes twice as long again
    methods: dict[str, Callable[[], torch.Tensor]] = {}
    if small:
        methods["scikit-learn KMeans"] = lambda: sklearn_full(rows, k)
        methods["scikit-learn MiniBatchKMeans"] = lambda: sklearn_minibatch(rows, k)
        methods["faiss Kmeans"] = lambda: faiss_kmeans(rows, k)
    methods["ours"] = lambda: ours(rows, k, args.device)
    if small:
        methods["ours, --full"] = lambda: ours(rows, k, args.device, full=True)
    lines, best = [], 0.0
    if not small:
        text = f"{iteration:.0f} × {USUAL_ITERATIONS} = {iteration * USUAL_ITERATIONS:.0f}"
        lines.append(f"| {what} | scikit-learn KMeans, without its seeding | {text} | - |")
    for name, work in methods.items():
        print(f"{what}: {name}", file=sys.stderr, flush=True)
        centres, seconds = timed(work)
        found = inertia(rows, centres)
        best = best or found
        ratio = f"{found / best:.3f}" if small else "-"
        lines.append(f"| {what} | {name} | {seconds:.1f} | {ratio} |")
    return lines


def parse_size(text: str) -> tuple[int, int, int]:
    shape, _, k = text.partition(":")
    n, _, width = shape.partition("x")
    return int(n), int(width), int(k)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="NxU:K")
    parser.add_argument("--rows", type=Path, help="real frames, .npy (n, U); default: made up")
    parser.add_argument("--device", default="cpu", help="of ours (default: cpu)")
    parser.add_argument("--limit", type=float, default=300, help="seconds (default: 300)")
    parser.add_argument("--out", type=Path, help="write the section of this document")
    args = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", module="sklearn")
    lines = ["| frames → centres | method | seconds | inertia |", "| --- | --- | ---: | ---: |"]
    for n, width, k in map(parse_size, args.sizes):
        if args.rows:
            rows = np.ascontiguousarray(np.load(args.rows)[:n, :width], dtype=np.float32)
        else:
            rows = made_up(n, width)
        lines += lines_of(rows, k, args)
    frames = "real units" if args.rows else "made-up frames"
    text = "\n".join([f"{machine(args, torch.get_num_threads())}; {frames}.", "", *lines])
    print(f"\n{text}", flush=True)
    if args.out:
        write_section(args.out, "clusters real" if args.rows else "clusters made up", text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
