"""The passes of k-means: frames choose the nearest centre, centres move to the mean of their frames.

A pass takes the frames in batches. The centres of all frames that change sides move after each batch, and a frame that
is met again takes back what it gave before (Newling and Fleuret, "Nested Mini-Batch K-Means", NIPS 2016, algorithm
mb-f), so a centre is always the mean of its frames and the passes end where Lloyd's end, sooner. Centres that move only
at the end of a pass are Lloyd's algorithm itself. A centre that has lost all its frames stays where it is until the end
of the pass and then gets a frame that is far from its own: the original pulls it to zero (spec_cluster_index 8, C2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from svc.retrieval.distances import nearest, squared_norms
from svc.retrieval.kmeans_seeds import draw

_READ_AT_A_TIME = 4096  # frames


@dataclass(frozen=True)
class Stage:
    """How long passes go on."""

    passes: int  # at most, 1 and more
    enough: float  # a pass that takes a smaller part off the inertia is the last one
    batch_size: int | None = None  # frames after which centres move; None: at the end of a pass


class Frames:
    """Frames with the mean at zero, which distances do not depend on and float32 is more exact with."""

    def __init__(self, rows: Tensor, mean: Tensor | None = None) -> None:
        """Take rows (n, U) float32 on the CPU and their mean (U,); None: it is zero."""
        self._rows = rows
        self.mean = torch.zeros(rows.shape[1]) if mean is None else mean

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        return self._rows[index] - self.mean

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield all frames and their places, in order, some thousand at a time."""
        for start in range(0, len(self), _READ_AT_A_TIME):
            place = slice(start, start + _READ_AT_A_TIME)
            yield place, self[place]


class Descent:
    """Clusters on their way down: which frame is in which, and the centres, each the mean of its frames.

    Sums are float64 and stay on the CPU, where they are added up in the same order every time.
    """

    def __init__(
        self, frames: Frames, labels: Tensor, k: int, device: torch.device | str = "cpu"
    ) -> None:
        """Take labels, int64 (n,), -1 for frames that are in no cluster yet; no cluster is empty."""
        width = len(frames.mean)
        self.labels = labels.clone()
        self.spread = 0.0  # sum of the squared distances of all frames to their mean
        self._frames = frames
        self._distances = torch.zeros(len(frames))  # squared, of each frame when it was last met
        self._sums = torch.zeros(k, width, dtype=torch.float64)
        self._counts = torch.bincount(labels[labels >= 0], minlength=k)
        for place, block in frames.blocks():
            exact, known = block.double(), labels[place] >= 0
            self.spread += float(exact.square().sum())
            self._sums.index_add_(0, labels[place][known], exact[known])
        self._centres = torch.zeros(k, width, device=device)
        self._norms = torch.zeros(k, device=device)
        self._changed = torch.ones(k, dtype=torch.bool)  # clusters that have other frames now
        self._move()

    @property
    def means(self) -> Tensor:
        """The centres, float64 (k, U) on the CPU, of frames whose mean is at zero."""
        return self._sums / self._counts[:, None]

    @property
    def inertia(self) -> float:
        """Sum of the squared distances of all frames to their centres, once every frame is in a cluster."""
        # Exact without another pass, because each centre is the mean of its frames
        return max(0.0, self.spread - float((self._sums * self.means).sum()))

    def run(
        self,
        stage: Stage,
        generator: torch.Generator,
        report: Callable[[float], None] = lambda _: None,
    ) -> int:
        """Pass over the frames until a pass gains little.

        Args:
            stage: how long, and when centres move.
            generator: of the order of the frames and of new places for empty clusters.
            report: called with the passes that are done, with their fraction.

        Returns:
            How many passes it were.
        """
        known = bool((self.labels >= 0).all())
        before = self.inertia if known else float("inf")
        size = stage.batch_size or _READ_AT_A_TIME
        for number in range(1, stage.passes + 1):
            order = torch.randperm(len(self._frames), generator=generator)
            for start in range(0, len(order), size):
                self._assign(order[start : start + size])
                if stage.batch_size:
                    self._move()
                report(number - 1 + min(1.0, (start + size) / len(order)))
            self._fill_empty(generator)
            self._move()
            after = self.inertia
            if before - after <= stage.enough * after:
                break
            before = after
        return number

    def _assign(self, index: Tensor) -> None:
        """Put frames into the nearest clusters."""
        frames = self._frames[index]
        labels, distances = nearest(frames.to(self._centres.device), self._centres, self._norms)
        self._distances[index] = distances.cpu()
        new, old = labels.cpu(), self.labels[index]
        moved = new != old
        self.labels[index[moved]] = new[moved]
        self._add(new[moved], frames[moved], 1)
        moved &= old >= 0
        self._add(old[moved], frames[moved], -1)

    def _add(self, clusters: Tensor, frames: Tensor, sign: int) -> None:
        """Add frames (n, U) to the clusters (n,), or with sign -1 take them away."""
        self._sums.index_add_(0, clusters, frames.double(), alpha=sign)
        self._counts += sign * torch.bincount(clusters, minlength=len(self._counts))
        self._changed[clusters] = True

    def _fill_empty(self, generator: torch.Generator) -> None:
        """Give each empty cluster a frame that is far from its centre and not alone there."""
        empty = (self._counts == 0).nonzero().squeeze(1).tolist()
        if not empty:
            return
        free = self._counts[self.labels] > 1
        far = draw(self._distances * free, 2 * len(empty), generator)
        for index in torch.cat([far, free.nonzero().squeeze(1)]):
            donor = self.labels[index].clone()
            if self._counts[donor] < 2:  # it has given its others
                continue
            cluster = torch.tensor([empty.pop()])
            frame = self._frames[index[None]]
            self._add(cluster, frame, 1)
            self._add(donor[None], frame, -1)
            self.labels[index], self._distances[index] = cluster[0], 0
            if not empty:
                break

    def _move(self) -> None:
        """Move the centres of changed clusters to the means of their frames; those of empty ones stay."""
        clusters = (self._changed & (self._counts > 0)).nonzero().squeeze(1)
        means = (self._sums[clusters] / self._counts[clusters, None]).float()
        there = clusters.to(self._centres.device)
        self._centres[there] = means.to(self._centres.device)
        self._norms[there] = squared_norms(self._centres[there])
        self._changed[:] = False
