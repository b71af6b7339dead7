"""`svc infer` in several processes, on one machine or many: who this one is, and what it may use."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from svc.cli.options import add_argument, add_gpus
from svc.conversion.claims import STALE_SECONDS
from svc.errors import ConfigError
from svc.threads import cpu_count
from svc.training.launching import follow_launcher, place

if TYPE_CHECKING:
    from svc.conversion.file_hashes import FileHashes
    from svc.conversion.jobs import Job
    from svc.conversion.sharding import Member, SharedRun

_SHORTEST_STALE = 1.0
_AGAIN = 10.0  # seconds after which a signal that has not ended the process comes again
_IMPORT_WAIT, _IMPORT_WAITS = 0.1, 100  # seconds; how often an import is waited for
_OWN = {
    "device", "gpus", "json", "verbose", "words", "share", "share_timeout",
    "cache_dir", "cache_gb", "no_cache",
}  # fmt: skip
"""Arguments in which processes that share the songs may differ."""


def add_sharing(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    group = parser.add_argument_group("several processes")
    flag = partial(add_argument, group)
    add_gpus(group, "share the songs")
    text = (
        "share the songs with everybody who gives the same command and name and sees the same folder "
        "of results, on any machine; torchrun needs no name"
    )
    flag("--share", metavar="NAME", help=text)
    text = (
        "a process that gives no sign of life for so long is given up, and its song taken by another "
        f"(default: {STALE_SECONDS:g})"
    )
    flag("--share_timeout", metavar="SECONDS", type=float, default=STALE_SECONDS, help=text)


@dataclass(frozen=True)
class Sharing:
    """This process among those that share the songs.

    Attributes:
        member: how the others know it; None = it works alone.
        stale_after: seconds, see `svc.conversion.sharding.SharedRun`.
    """

    member: Member | None
    stale_after: float

    @property
    def leads(self) -> bool:
        """Whether it tells how all of it ended."""
        return self.member is None or self.member.leads

    @contextlib.contextmanager
    def join(
        self,
        args: argparse.Namespace,
        plan: Sequence[Job],
        left: Sequence[Job],
        folder: Path,
        weights: Sequence[str],
    ) -> Iterator[SharedRun | None]:
        """Take part, before anything heavy is loaded.

        Args:
            args: the command line.
            plan: all jobs.
            left: those whose results are not there yet.
            folder: of the results.
            weights: hashes of the voice, see `content_of`.

        Yields:
            The run; None where this process works alone.

        Raises:
            ConfigError: others do something else under the same name.
        """
        if self.member is None:
            with ended_by_signal():
                yield None
            return
        from svc.conversion.sharding import SharedRun, plan_of

        told = {name: value for name, value in vars(args).items() if name not in _OWN}
        with (
            ended_by_signal(),
            SharedRun(
                folder,
                self.member,
                plan_of(plan, sorted(told.items()), weights),
                left,
                skips_existing=args.skip_existing,
                stale_after=self.stale_after,
            ) as share,
        ):
            yield share


def find_sharing(args: argparse.Namespace) -> Sharing:
    """Find out who else works on this command; this process gets a device and threads of its own.

    Raises:
        ConfigError: a flag or the launcher's variables make no sense.
    """
    rank, world, local_rank, local_world = place(os.environ)
    if args.share is not None and not args.share.strip():
        raise ConfigError("--share: give the run a name, the same for all processes")
    if not args.share_timeout >= _SHORTEST_STALE:
        raise ConfigError(
            f"--share_timeout is {args.share_timeout:g}, and must be at least {_SHORTEST_STALE:g} s"
        )
    if world == 1:
        if args.share is None:
            return Sharing(None, args.share_timeout)
        from svc.conversion.sharding import Member

        return Sharing(Member(args.share), args.share_timeout)
    from svc.conversion.sharding import Member

    follow_launcher()
    _divide_threads(local_world)
    args.device = _own_device(args.device, local_rank)
    restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    return Sharing(
        Member(args.share or _launched_run(), rank, world, restarted), args.share_timeout
    )


def content_of(paths: Iterable[Path | None], hashes: FileHashes) -> list[str]:
    """Return hashes of files and of what is in folders: a voice that was trained on is another one."""
    files: list[Path] = []
    for path in paths:
        if path is not None:
            files += sorted(path.iterdir()) if path.is_dir() else [path]
    return [hashes.of(path) for path in files if path.is_file()]


def _launched_run() -> str:
    """Return the name of a run that a launcher has started.

    Its id alone where it has one: most launchers take another port at each start, and the same command goes on where
    it was stopped.
    """
    run_id = os.environ.get("TORCHELASTIC_RUN_ID", "")
    if run_id not in ("", "none"):
        return run_id
    return " ".join(
        [run_id, *(os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))]
    )


def _own_device(asked: str | None, local_rank: int) -> str | None:
    """Return the GPU of a process; several share one where there are fewer."""
    if asked is not None and asked.lower() not in ("auto", "cuda"):
        return asked
    try:
        import torch
    except ImportError:  # exported voices do without
        return asked
    count = torch.cuda.device_count()
    return f"cuda:{local_rank % count}" if count else asked


def _divide_threads(local_world: int) -> None:
    """Let the processes of this machine share its cores, where nobody has said how many to use."""
    if "OMP_NUM_THREADS" in os.environ or local_world == 1:
        return
    threads = max(1, cpu_count() // local_world)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def ended_by_signal() -> Iterator[None]:
    """Let SIGTERM end this process as Ctrl-C does: its claims are free at once, and no half of a file is left.

    A compiled module that is just being imported would take it for a fault of its own, and fail for every song: the
    import is waited for. Whoever else keeps it from ending this process is told again.
    """
    before: dict[signal.Signals, Any] = {}
    waits = _IMPORT_WAITS if hasattr(signal, "setitimer") else 0

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal waits
        del number
        waiting = waits > 0 and _imports(frame)
        waits -= waiting
        if hasattr(signal, "setitimer"):
            before.setdefault(signal.SIGALRM, signal.signal(signal.SIGALRM, end))
            signal.setitimer(signal.ITIMER_REAL, _IMPORT_WAIT if waiting else _AGAIN)
        if not waiting:
            raise SystemExit(128 + signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before[signal.SIGTERM] = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if len(before) > 1:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _imports(frame: FrameType | None) -> bool:
    """Return whether a module is just being imported."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
