"""k-means of the frames of a voice: few passes, on the CPU or a GPU, the same result for the same seed.

The original runs scikit-learn's full k-means (spec_cluster_index 2, C5), minutes to hours for 10,000 centres, or a
version of its own on the GPU that needs CUDA (C3). Here nearly all the work are matrix products, and little of it is
done at full size: seeds and the first passes see 16 frames per centre at most, and only the directions of the largest
variance, 90 % of it together; on real units that costs less than 0.1 % of inertia. The last passes see everything.

Why not a library: on 12,000 real frames and 1,200 centres this takes a tenth of the time of scikit-learn's KMeans and
leaves the same inertia within 0.5 %; its MiniBatchKMeans leaves 4 % more in the time of the full one, which goes into
its seeding; faiss.Kmeans begins with random frames and leaves 13 % more (scripts/bench/clusters.py).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from svc.errors import ConfigError
from svc.progress import Progress, silent
from svc.retrieval.kmeans_descent import Descent, Frames, Stage
from svc.retrieval.kmeans_seeds import SEED_PASSES, seed_clusters

DEFAULT_K = 10_000

_POOL = 16  # frames per centre that the coarse stage sees
_VARIANCE = 0.9  # part of it that the directions of the coarse stage keep
_FRAMES_PER_AXIS = 20  # that tell these directions
_PASSES, _FULL_PASSES = 10, 300  # at most
_ENOUGH, _FULL_ENOUGH = (
    3e-3,
    1e-5,
)  # part of the inertia; a pass that takes less off is the last one
_USUAL_COARSE, _USUAL_FINE, _USUAL_FULL = 5, 3, 15  # passes, for the progress bar
_STEPS = 1000  # of the progress bar


@dataclass(frozen=True)
class KmeansOptions:
    """How k-means is run."""

    k: int = DEFAULT_K
    """Centres; fewer where there are fewer distinct frames."""
    seed: int = 0
    """Of every draw."""
    batch_size: int = 4096
    """Frames after which the centres move."""
    max_iter: int | None = None
    """Passes over all frames at most; None: 10, with `full` 300."""
    full: bool = False
    """Lloyd's algorithm in place of mini-batches."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("k", "batch_size", "max_iter"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name} is {value}, and must be 1 or more")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"--seed is {self.seed}, and must be 0 or more")

    @property
    def passes(self) -> int:
        """Passes over all frames at most."""
        return self.max_iter or (_FULL_PASSES if self.full else _PASSES)


@dataclass(frozen=True)
class KmeansResult:
    """Centres, and how good they are."""

    centres: Tensor
    """(k', U) float32 on the CPU; k' is below k where there are fewer distinct frames."""
    inertia: float
    """Sum of the squared distances of all frames to the centre of their cluster."""
    spread: float
    """The same to the mean of all frames."""
    passes: int
    """Over all frames, in all directions."""


def fit_kmeans(
    rows: Tensor,
    options: KmeansOptions,
    *,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> KmeansResult:
    """Find centres of frames.

    Args:
        rows: (n, U) float32 on the CPU, n >= 1, finite.
        options: how many, and how.
        device: where distances are computed; besides the centres only parts of the frames are there.
        progress: called with thousandths of the work.

    Returns:
        The centres; with fewer distinct frames than centres the distinct frames themselves.
    """
    generator = torch.Generator().manual_seed(options.seed)
    frames = Frames(rows, _mean(rows))
    distinct = distinct_rows(rows)
    if len(distinct) <= options.k:
        spread = sum(float(block.double().square().sum()) for _, block in frames.blocks())
        return KmeansResult(rows[distinct].clone(), 0.0, spread, 0)
    pool = _sample(distinct, _POOL * options.k, generator)
    small = _main_directions(frames[pool])
    report = _Report(progress, small.numel(), rows.numel(), options)

    # ---- coarse
    _, labels = seed_clusters(small, options.k, generator, device=device, report=report.seeds)
    coarse = Descent(Frames(small), labels, options.k, device)
    coarse.run(Stage(_PASSES, _ENOUGH, options.batch_size), generator, report.coarse)

    # ---- fine
    labels = torch.full((len(rows),), -1)
    labels[pool] = coarse.labels
    fine = Descent(frames, labels, options.k, device)
    by_batch = Stage(options.passes, _ENOUGH, options.batch_size)
    stage = Stage(options.passes, _FULL_ENOUGH) if options.full else by_batch
    passes = fine.run(stage, generator, report.fine)
    report.end()
    return KmeansResult((fine.means + frames.mean).float(), fine.inertia, fine.spread, passes)


class _Report:
    """Progress in thousandths of the work, which is guessed from the usual number of passes."""

    def __init__(self, progress: Progress, small: int, whole: int, options: KmeansOptions) -> None:
        """Take the numbers in the matrices of the coarse and of the fine stage."""
        usual = min(_USUAL_FULL if options.full else _USUAL_FINE, options.passes)
        self._progress, self._usual = progress, usual
        self._costs = (SEED_PASSES * small, _USUAL_COARSE * small, usual * whole)

    def _tell(self, part: int, share: float, what: str) -> None:
        done = sum(self._costs[:part]) + min(share, 1.0) * self._costs[part]
        # The last thousandth comes at the end
        self._progress(int((_STEPS - 1) * done / sum(self._costs)), _STEPS, what)

    def seeds(self, part: float) -> None:
        """Take the part of the seeds that there is, 0 to 1."""
        # A block takes as long as it is large
        self._tell(0, part, "seeds")

    def coarse(self, passes: float) -> None:
        """Take the passes that are done, with their fraction."""
        self._tell(1, passes / _USUAL_COARSE, f"coarse pass {math.ceil(passes)}")

    def fine(self, passes: float) -> None:
        """Take the passes that are done, with their fraction."""
        self._tell(2, passes / self._usual, f"pass {math.ceil(passes)}")

    def end(self) -> None:
        """Say that all is done."""
        self._progress(_STEPS, _STEPS, "done")


def _mean(rows: Tensor) -> Tensor:
    """Return the mean of all rows, (U,) float32, added up in float64 without a copy of them all."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    for _, block in Frames(rows).blocks():
        total += block.double().sum(0)
    return (total / len(rows)).float()


def distinct_rows(rows: Tensor) -> Tensor:
    """Return the index of the first of each set of equal rows, int64, in order."""
    # By hashes and not by sorting the rows, which takes a hundred times as long. Adding 0 makes 0 of -0.
    first: dict[bytes, int] = {}
    for index, row in enumerate(rows.numpy()):
        first.setdefault(hashlib.blake2b((row + 0.0).tobytes(), digest_size=16).digest(), index)
    return torch.tensor(list(first.values()))


def _sample(index: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` of the indices, or all, in their order."""
    if len(index) <= count:
        return index
    some = torch.randperm(len(index), generator=generator)[:count]
    return index[some.sort().values]


def _main_directions(rows: Tensor) -> Tensor:
    """Turn rows (n, U), whose mean is about 0, to the few directions of most of their variance, (n, d).

    They stay as they are where d would be more than half of U, as it would save little.
    """
    step = max(1, len(rows) // (_FRAMES_PER_AXIS * rows.shape[1]))
    some = rows[::step].double()
    variances, axes = torch.linalg.eigh(some.T @ some)
    kept = variances.flip(0).clamp_min(0).cumsum(0)
    d = int((kept < _VARIANCE * kept[-1]).sum()) + 1
    if 2 * d > rows.shape[1]:
        return rows
    return torch.mm(rows, axes.flip(1)[:, :d].float())
