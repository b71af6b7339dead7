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

    passes: int  # at most
    enough: float  # a pass that takes a smaller part off the inertia is the last one
    batch_size: int | None = None  # frames after which centres move; None: at the end of a pass


class Frames:
    """Frames with the mean at zero, which distances do not depend on and float32 is more exact with."""

    def __init__(self, rows: Tensor, mean: Tensor | None = None) -> None:
        """Take rows (n, U) float32 and their mean (U,); None: it is zero."""
        self._rows = rows
        self.mean = torch.zeros(rows.shape[1]) if mean is None else mean

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Tensor) -> Tensor:
        return self._rows[index] - self.mean

    def blocks(self) -> Iterator[Tensor]:
        """Yield all frames, in order."""
        for index in torch.arange(len(self)).split(_READ_AT_A_TIME):
            yield self[index]


class Descent:
    """Clusters on their way down: which frame is in which, and the centres, each the mean of its frames."""

    def __init__(self, frames: Frames, labels: Tensor, k: int, device: torch.device | str) -> None:
        """Begin with labels, -1 for frames that are in no cluster yet; no cluster is empty."""
        self._frames, self.labels = frames, labels
        self._distances = torch.zeros(len(frames))
        self._power = 0.0
        start = 0
        for block in frames.blocks():
            if start == 0:
                self._sums = torch.zeros(k, block.shape[1], dtype=torch.float64)
            part = labels[start : start + len(block)]
            exact = block.double()
            self._power += float(exact.square().sum())
            self._sums.index_add_(0, part[part >= 0], exact[part >= 0])
            start += len(block)
        self._counts = torch.bincount(labels[labels >= 0], minlength=k)
        self._centres = torch.zeros(self._sums.shape, device=device)
        self._norms = torch.zeros(k, device=device)
        self._move(torch.arange(k))

    @property
    def spread(self) -> float:
        """Sum of the squared distances of all frames to zero, their mean."""
        return self._power

    @property
    def means(self) -> Tensor:
        """The centres, float64 (k, U) on the CPU."""
        return self._sums / self._counts[:, None]

    @property
    def inertia(self) -> float:
        """Sum of the squared distances of all frames to their centres, once all are in a cluster."""
        # Exact, and without a pass, because each centre is the mean of its frames
        return max(0.0, self._power - float((self._sums * self.means).sum()))

    def run(self, stage: Stage, generator: torch.Generator, report: Callable[[float], None]) -> int:
        """Pass over the frames until a pass gains little; returns the number of passes."""
        before = self.inertia if bool((self.labels >= 0).all()) else torch.inf
        for number in range(1, stage.passes + 1):
            size = stage.batch_size or _READ_AT_A_TIME
            order = torch.randperm(len(self._frames), generator=generator)
            touched = []
            for done, index in enumerate(order.split(size)):
                touched.append(self._assign(index))
                if stage.batch_size:
                    self._move(touched.pop())
                report(number - 1 + min(1.0, (done + 1) * size / len(order)))
            touched.append(self._fill_empty(generator))
            self._move(torch.cat(touched).unique())
            inertia = self.inertia
            if before - inertia <= stage.enough * before < torch.inf:
                break
            before = inertia
        return number

    def _assign(self, index: Tensor) -> Tensor:
        """Put frames into the nearest clusters; returns the clusters that have other frames now."""
        frames = self._frames[index]
        nearest_, distances = nearest(frames.to(self._centres.device), self._centres, self._norms)
        self._distances[index] = distances.cpu()
        new, old = nearest_.cpu(), self.labels[index]
        change = new != old
        moved = frames[change].double()
        new, old = new[change], old[change]
        self.labels[index[change]] = new
        # Sums stay on the CPU: they add up in the same order every time, and in float64
        self._sums.index_add_(0, new, moved)
        self._sums.index_add_(0, old[old >= 0], moved[old >= 0], alpha=-1)
        self._counts += torch.bincount(new, minlength=len(self._counts))
        self._counts -= torch.bincount(old[old >= 0], minlength=len(self._counts))
        return torch.cat([new, old[old >= 0]]).unique()

    def _fill_empty(self, generator: torch.Generator) -> Tensor:
        """Give each empty cluster a frame that is far from its centre; returns the clusters that have changed."""
        empty = (self._counts == 0).nonzero().squeeze(1).tolist()
        if not empty:
            return torch.empty(0, dtype=torch.int64)
        free = self._counts[self.labels] > 1
        far = draw(self._distances * free, 2 * len(empty), generator)
        touched: list[int] = []
        for index in torch.cat([far, free.nonzero().squeeze(1)]).tolist():
            donor = int(self.labels[index])
            if self._counts[donor] < 2:  # it has given its others
                continue
            cluster = empty.pop()
            frame = self._frames[torch.tensor([index])][0].double()
            self._sums[donor] -= frame
            self._sums[cluster] = frame
            self._counts[donor] -= 1
            self._counts[cluster] = 1
            self.labels[index], self._distances[index] = cluster, 0
            touched += [donor, cluster]
            if not empty:
                break
        return torch.tensor(touched)

    def _move(self, clusters: Tensor) -> None:
        """Move the centres of clusters to the means of their frames; those of empty ones stay."""
        alive = clusters[self._counts[clusters] > 0]
        means = (self._sums[alive] / self._counts[alive, None]).float().to(self._centres.device)
        alive = alive.to(self._centres.device)
        self._centres[alive] = means
        self._norms[alive] = squared_norms(means)
