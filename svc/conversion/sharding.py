"""A list of jobs, shared by processes that see the same folder and otherwise know nothing of each other.

Each takes the next job that nobody has claimed (`svc.conversion.claims`), and notes in a folder of the run what
became of it. At the end of the list it waits for the jobs of the others: those of one that was killed become
free again. The folder of the run goes when all have left.

A run that was stopped half-way goes on when it is started again: what is done stays, what failed is tried
again. One that was finished starts from the beginning, as without sharing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from svc.atomic import make_folder, write_text
from svc.conversion.claims import STALE_SECONDS, Claim, Claims, claim_path, who_of
from svc.conversion.jobs import Job, Outcome
from svc.errors import ConfigError, OutputError

logger = logging.getLogger(__name__)

_SHORTEST_WAIT, _LONGEST_WAIT = 0.05, 2.0  # seconds
_PATHS = ("output", "source", "manifest")

Attempt = Callable[[int, Claim], "Outcome | None"]
"""``attempt(index of the job, its claim) -> what became of it``; None = it belongs to somebody else now."""


@dataclass(frozen=True)
class Member:
    """One of the processes of a run.

    Attributes:
        run: name of the run, the same for all of them.
        rank: number of this one; None = they have none, and may come and go.
        world: how many there are; None = nobody knows.
        restarted: a launcher has started this process again.
    """

    run: str
    rank: int | None = None
    world: int | None = None
    restarted: bool = False

    def facts(self) -> dict[str, object]:
        """Return what others may read of this process."""
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "rank": self.rank,
            "run": self.run,
        }

    @property
    def name(self) -> str:
        """What this process is called in reports."""
        return who_of(self.facts())

    @property
    def leads(self) -> bool:
        """Whether it tells how all of it ended."""
        return not self.rank


def plan_of(jobs: Sequence[Job], *what: object) -> str:
    """Return a fingerprint of the work: processes that share it must have been told the same.

    Args:
        jobs: all of them.
        what: whatever else decides on the results, as `repr` shows it.
    """
    parts = [(job.source.shown, job.speaker, job.options, str(job.output)) for job in jobs]
    return hashlib.sha256(repr((parts, what)).encode("utf-8", "backslashreplace")).hexdigest()


class SharedRun:
    """A run and this process' part in it; a context manager.

    Args:
        folder: of the results, which all processes see.
        member: this process.
        plan: see `plan_of`.
        jobs: the work; the same for all processes, but for results that were there already.
        skips_existing: results that are there are left alone, so who comes late has nothing to do.
        stale_after: seconds without a sign of life after which the work of a process is taken over.

    Raises:
        ConfigError: others do other work under the same name; from ``with`` on.
        OutputError: the folder takes no files.
    """

    def __init__(
        self,
        folder: Path,
        member: Member,
        plan: str,
        jobs: Sequence[Job],
        *,
        skips_existing: bool = False,
        stale_after: float = STALE_SECONDS,
    ) -> None:
        name = hashlib.sha256(member.run.encode("utf-8", "surrogateescape")).hexdigest()[:12]
        self.folder = folder / f".svc-share-{name}"
        self.member, self.jobs = member, jobs
        self._plan = plan
        self._world = None if skips_existing else member.world
        self._claims = Claims(member.facts(), stale_after=stale_after)
        self._settled: dict[str, Outcome] = {}
        self._stack = contextlib.ExitStack()
        self._here: Claim | None = None
        self._id: object = None  # of the run that this process has joined

    def __enter__(self) -> SharedRun:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._claims)
            self._here = self._join()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack, contextlib.suppress(OutputError):  # what is left behind does no harm
            if self._here is not None:
                self._leave(self._here)

    def go_through(
        self,
        attempt: Attempt,
        on_settled: Callable[[int], None] | None = None,
        on_refused: Callable[[Outcome], None] | None = None,
    ) -> list[Outcome]:
        """Do what nobody else does, until all of it is done.

        Args:
            attempt: does a job; what it raises ends this process' part.
            on_settled: called with the number of jobs done, by anybody, whenever it has changed.
            on_refused: called with the failure of a job that could not even be claimed.

        Returns:
            One outcome per job, in order, whoever has done it. Where the others have ended the run
            while this process slept, its songs are looked for among the results.

        Raises:
            OutputError: the disk takes nothing more.
        """
        waiting = _rotated(len(self.jobs), self.member)
        told, pause = -1, _SHORTEST_WAIT
        while True:
            if self._is_over():
                return self._as_found()
            self._read_notes()
            waiting = [index for index in waiting if not self._is_settled(self.jobs[index])]
            if on_settled is not None and len(self._settled) != told:
                told = len(self._settled)
                on_settled(told)
            if not waiting:
                return [self._settled[_key(job)] for job in self.jobs]
            if self._do_next(waiting, attempt, on_refused):
                pause = _SHORTEST_WAIT
            else:
                threading.Event().wait(pause)
                pause = min(_LONGEST_WAIT, 1.5 * pause)

    def _do_next(
        self,
        waiting: Sequence[int],
        attempt: Attempt,
        on_refused: Callable[[Outcome], None] | None,
    ) -> bool:
        """Do the first job that can be had; returns whether there was one."""
        for index in waiting:
            job = self.jobs[index]
            try:
                claim = self._claims.take(claim_path(job.output))
            except OutputError as error:
                if error.concerns_all:
                    raise
                # A file where the folder of this result should be: the others have their own.
                refused = Outcome(
                    job.source.shown, job.speaker, error=str(error), source=job.source.path
                )
                if on_refused is not None:
                    on_refused(refused)
                self._settle(job, refused)
                return True
            if claim is None:
                continue
            with claim:
                # It may have been done a moment ago, and the run may be over: this process may have
                # slept. NFS remembers which files are not there until one is made beside them.
                with contextlib.suppress(FileNotFoundError):
                    (self.folder / "asked").touch()
                if self._is_over():
                    return True
                self._read_notes()
                if self._is_settled(job):
                    continue
                outcome = attempt(index, claim)
                if outcome is None:
                    continue
                self._settle(job, outcome)
            return True
        return False

    def _settle(self, job: Job, outcome: Outcome) -> None:
        outcome = dataclasses.replace(outcome, worker=self.member.name)
        if not self._is_over():  # or the folder would be made again
            write_text(self._note(job), json.dumps(dataclasses.asdict(outcome), default=str))
        self._settled[_key(job)] = outcome

    def _is_over(self) -> bool:
        """Whether the run that this process has joined is not there any more.

        The others end it where they think this process dead: it has slept for long.
        """
        try:
            told = json.loads((self.folder / "run.json").read_text("utf-8"))
            return bool(told["id"] != self._id)
        except FileNotFoundError:
            return True
        except (OSError, ValueError, KeyError, TypeError):  # the network may be away for a moment
            return False

    def _as_found(self) -> list[Outcome]:
        """Say what became of the jobs of a run whose notes are gone."""
        logger.warning(
            "the others have ended the run without this process, which gave no sign of life: what is "
            "there was made by them"
        )
        return [self._settled.get(_key(job)) or _found(job) for job in self.jobs]

    # ---------------------------------------------------------------- what is done

    def _note(self, job: Job) -> Path:
        return self.folder / f"job-{_key(job)}.json"

    def _is_settled(self, job: Job) -> bool:
        return _key(job) in self._settled

    def _read_notes(self) -> None:
        """Learn what has become of jobs, whoever has done them."""
        known = {f"job-{key}.json" for key in self._settled}
        with contextlib.suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                if path.name.startswith("job-") and path.name not in known:
                    told = json.loads(path.read_text(encoding="utf-8"))
                    for key in _PATHS:
                        told[key] = None if told[key] is None else Path(told[key])
                    self._settled[path.stem[4:]] = Outcome(**told)

    # ---------------------------------------------------------------- coming and going

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        path = self.folder.with_name(f"{self.folder.name}.lock")
        while (lock := self._claims.take(path)) is None:
            threading.Event().wait(_SHORTEST_WAIT)
        with lock:
            yield

    def _join(self) -> Claim:
        with self._locked():
            self._read_notes()
            told, live = self._told(), self._living()
            if told is not None and told.get("plan") != self._plan and live:
                raise ConfigError(
                    f'the run "{self.member.run}" is being worked on with other songs, another voice or '
                    "other settings: give the same command everywhere, or another name with --share"
                )
            if told is None or told.get("plan") != self._plan or self._was_finished(live):
                self._settled.clear()
                shutil.rmtree(self.folder, ignore_errors=True)
                make_folder(self.folder)
                told = {"run": self.member.run, "plan": self._plan, "id": os.urandom(8).hex()}
                write_text(self.folder / "run.json", json.dumps(told))
            elif not live and not all(map(self._is_settled, self.jobs)):
                self._go_on()
            self._id = told.get("id")
            rank = "x" if self.member.rank is None else self.member.rank
            here = None
            while here is None:
                here = self._claims.take(self.folder / f"worker-{rank}-{os.urandom(6).hex()}")
            return here

    def _leave(self, here: Claim) -> None:
        with self._locked():
            if self._is_over():  # others have it now
                here.release()
                return
            (self.folder / here.path.name.replace("worker-", "left-")).touch()
            here.release()
            self._read_notes()
            done = [self._is_settled(job) for job in self.jobs]
            if self._living() or (any(done) and not all(done)):
                return
            if all(done) and self._world is not None and len(self._ranks()) < self._world:
                return  # who comes late must learn that all is done
            for job in self.jobs:
                # Of one that was killed between the end of its work and giving it back.
                path = claim_path(job.output)
                claim = self._claims.take(path) if path.exists() else None
                if claim is not None:
                    claim.release()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _told(self) -> dict[str, Any] | None:
        try:
            told: dict[str, Any] = json.loads((self.folder / "run.json").read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return told

    def _living(self) -> bool:
        return any(self._claims.is_live(path) for path in self.folder.glob("worker-*"))

    def _ranks(self) -> set[str]:
        """Numbers of all that have come."""
        return {path.name.split("-")[1] for path in self.folder.glob("[wl]*-*-*")}

    def _was_finished(self, live: bool) -> bool:
        """Whether what is noted belongs to an earlier run, and not to one that goes on."""
        if self.member.restarted or not all(map(self._is_settled, self.jobs)):
            return False
        if self.member.rank is None:
            return not live
        return str(self.member.rank) in self._ranks()

    def _go_on(self) -> None:
        """Take a run up that was stopped: failures are tried again, and lost results made again."""
        for job in self.jobs:
            if self._is_settled(job):
                outcome = self._settled[_key(job)]
                if outcome.output is None or not outcome.output.is_file():
                    self._note(job).unlink(missing_ok=True)
                    del self._settled[_key(job)]


def _key(job: Job) -> str:
    return hashlib.sha256(str(job.output).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _found(job: Job) -> Outcome:
    """Tell whether a job has a result; where its name depends on the song nobody knows."""
    name, path = job.source.shown, job.source.path
    if job.rename is None and job.output.is_file():
        return Outcome(name, job.speaker, job.output, source=path)
    why = "left to the other processes, and they have ended without it"
    if job.rename is not None:
        why = "left to the other processes, which have ended: look into the folder of the results"
    return Outcome(name, job.speaker, error=why, source=path)


def _rotated(count: int, member: Member) -> list[int]:
    """Numbers of the jobs, beginning elsewhere for each process, so that they seldom meet."""
    if member.rank is not None and member.world is not None:
        first = count * member.rank // member.world
    else:
        first = int(hashlib.sha256(member.name.encode()).hexdigest(), 16) % max(count, 1)
    return [*range(first, count), *range(first)]
