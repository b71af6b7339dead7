"""What the processes of a run do that are not rank 0: they learn, and write and show nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from torch import nn

from svc.training.journal import Journal
from svc.training.loop import Position, Task
from svc.training.ranks import Ranks
from svc.training.stopping import never
from svc.training.trouble import Trouble

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


_SAME = (
    "give all machines the same command and the same files: config, clips with their features, and the folder of the "
    "run, for example on a shared disk"
)


class Together(Protocol):
    """Nets whose gradients are averaged over the processes."""

    ranks: Ranks

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The nets."""


def begin_together(nets: Together, ranks: Ranks, facts: Mapping[str, Any]) -> None:
    """Wait until all processes are ready, and give them the nets of rank 0.

    Args:
        nets: what is trained.
        ranks: the processes.
        facts: plain values that must be the same for all.

    Raises:
        SvcError: they differ, or a process has met an error until here.
    """
    ranks.ready(facts, _SAME)
    nets.ranks = ranks
    for module in nets.modules:
        ranks.broadcast(module)


class TroubledTask(Task[T_contra], Protocol[T_contra]):
    """A task that looks out for steps that go wrong."""

    @property
    def trouble(self) -> Trouble:
        """What it has seen; all processes go back together."""


class Following(Generic[T]):
    """A `loop.Task` that only takes the steps of another one.

    Evaluations and saves are left to rank 0; the next thing that all ranks do together waits for it.
    Before them all ranks take note of every step, or they would go back at different ones.

    Args:
        task: what is trained.
        ranks: the processes that train together.
        seed: of the run.
    """

    def __init__(self, task: TroubledTask[T], ranks: Ranks, seed: int) -> None:
        self._task, self._ranks, self._seed = task, ranks, seed

    def start_epoch(self, epoch: int) -> None:
        """Prepare an epoch."""
        self._task.start_epoch(epoch)

    def finish_epoch(self, epoch: int, seconds: float) -> None:
        """End an epoch."""
        self._task.finish_epoch(epoch, seconds)

    def step(self, batch: T, step: int, *, detailed: bool) -> None:
        """Take a step, with random numbers that no other rank draws and that a resume draws again."""
        self._ranks.reseed(self._seed, step)
        self._task.step(batch, step, detailed=detailed)

    def log(self, step: int, rate: float, waiting: float) -> str:
        """Say nothing."""
        return ""

    def evaluate(self, step: int, stopping: Callable[[], bool] = never) -> None:
        """Leave it to rank 0."""
        self._task.trouble.settle()

    def save(self, position: Position) -> None:
        """Leave it to rank 0."""
        self._task.trouble.entries()


def task_of(task: TroubledTask[T], ranks: Ranks, seed: int) -> Task[T]:
    """Return what the loop of this process drives; arguments as `Following`."""
    return task if ranks.is_main else Following(task, ranks, seed)


class SilentJournal(Journal):
    """Takes everything and writes nothing."""

    def __init__(self) -> None:
        self._run_dir, self._troubled = Path(), True
        sink: Any = _Sink()
        self._log = self._metrics = self._train = self._eval = sink


class _Sink:
    """A file and an event writer that are none."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *what, **how: None


def journal_of(ranks: Ranks, run_dir: Path, first_step: int, **options: Any) -> Journal:
    """Open the journal of a run; that of other processes than rank 0 is silent. Arguments as `Journal`."""
    return Journal(run_dir, first_step, **options) if ranks.is_main else SilentJournal()
