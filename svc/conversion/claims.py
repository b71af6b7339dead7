"""Claims: of all processes that see a folder, on any machine, one at a time does a piece of work.

A claim is a file. Who wants it writes a draft beside it and gives it the claim's name with ``link()``,
which fails where the name is taken. What this rests on is that the file system lets one of several
links of a name win, and tells a hard link's count; local ones, NFS of every version, Lustre, GPFS, CephFS
and SMB do. (An NFS server whose answer was lost may report that a link failed which it has made: the count of
the draft's links tells.) Where there are no hard links, as on FAT, the file is made with O_CREAT | O_EXCL.

A thread renews the time of the claims of this process. One that has not been renewed for `stale_after`
seconds belongs to a process that was killed, or whose machine is gone, and is taken over. Its age is the
difference of two times of the same file system, its own and that of a file made just now: clocks of
machines need not agree. Each claim has a name of its own (a token) inside; who takes it over must first
win the lock named after that token, and then find the claim unchanged. So a claim is taken over once, and
one that has meanwhile been taken over, given back or renewed is left alone.

A process that sleeps for longer than `stale_after` (a closed laptop) loses its claims; it learns that
from `Claim.is_mine`, which is asked before anything is published.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from svc.atomic import make_folder, output_error

logger = logging.getLogger(__name__)

STALE_SECONDS = 60.0
_BEATS = 6  # renewals within the time after which a claim is stale
_LONGEST_BEAT = 5.0  # seconds
_LONGEST_NAME = 200  # bytes
_TOKEN = re.compile("[0-9a-f]{16}")
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EMLINK}

Put = Callable[[Path, Path], object]
"""``put(staged, result)`` moves a file; raises OSError."""


def claim_path(result: Path) -> Path:
    """Return where the claim of a result lies: ``.song.flac.claim`` beside ``song.flac``."""
    name = result.name
    if len(name.encode("utf-8", "surrogateescape")) > _LONGEST_NAME:
        name = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    return result.with_name(f".{name}.claim")


class Claims:
    """The claims of this process, and the thread that renews them; a context manager.

    Args:
        who: what others may read of this process: host, process, rank.
        stale_after: seconds without a sign of life after which others take a claim over; the same for
            all processes.
    """

    def __init__(self, who: Mapping[str, object], *, stale_after: float = STALE_SECONDS) -> None:
        self._who, self.stale_after = dict(who), stale_after
        self._held: dict[str, Claim] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="svc claims", daemon=True)

    def __enter__(self) -> Claims:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        for claim in list(self._held.values()):
            claim.release()

    def take(self, path: Path) -> Claim | None:
        """Try to get a claim; never waits.

        Args:
            path: the claim's file; its folder is created.

        Returns:
            The claim; None = somebody else has it, or was faster.

        Raises:
            OutputError: the folder takes no files.
        """
        token = secrets.token_hex(8)
        make_folder(path.parent)
        try:
            seen = _look(path)
            if seen is None:
                won = _create(path, self._text(token))
            else:
                won = self._is_stale(path.parent, seen) and self._take_over(path, seen, token)
        except OSError as error:
            raise output_error(path, error) from error
        if not won:
            return None
        if seen is not None:
            logger.warning("%s: %s does not answer any more, its work is done here", path, seen.who)
            shutil.rmtree(_stage_of(path, seen.token), ignore_errors=True)
        claim = Claim(path, token, self)
        with self._lock:
            self._held[token] = claim
        return claim

    def is_live(self, path: Path) -> bool:
        """Whether there is a claim and whoever has it gives signs of life."""
        seen = _look(path)
        return seen is not None and not self._is_stale(path.parent, seen)

    def _text(self, token: str) -> str:
        return json.dumps({"token": token, **self._who})

    def _is_stale(self, folder: Path, seen: _Seen) -> bool:
        return _now(folder) - seen.renewed > self.stale_after * 1e9

    def _take_over(self, path: Path, seen: _Seen, token: str) -> bool:
        lock = path.with_name(f"{path.name}.{seen.token}")
        if not _create(lock, self._text(token)):
            self._drop_stale_lock(lock)
            return False
        try:
            if _look(path) != seen:
                return False
            with _draft(path, self._text(token)) as draft:
                os.replace(draft, path)
            return True
        finally:
            lock.unlink(missing_ok=True)

    def _drop_stale_lock(self, lock: Path) -> None:
        """Remove the lock of one who was killed in the very moment of taking over."""
        seen = _look(lock)
        if seen is None or not self._is_stale(lock.parent, seen):
            return
        aside = lock.with_name(f".tmp-{secrets.token_hex(8)}.claim")
        with contextlib.suppress(OSError):
            lock.rename(aside)  # of several that try, one can
            aside.unlink()

    def _release(self, claim: Claim) -> None:
        with self._lock:
            self._held.pop(claim.token, None)
        shutil.rmtree(_stage_of(claim.path, claim.token), ignore_errors=True)
        lock = claim.path.with_name(f"{claim.path.name}.{claim.token}")
        with contextlib.suppress(OSError):  # then it gets stale
            if not _create(lock, self._text(claim.token)):
                return  # it is being taken over
            try:
                if claim.is_mine():
                    claim.path.unlink(missing_ok=True)
            finally:
                lock.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(min(_LONGEST_BEAT, self.stale_after / _BEATS)):
            with self._lock:
                held = list(self._held.values())
            for claim in held:
                with contextlib.suppress(OSError):  # the network may be away for a moment
                    if claim.is_mine():
                        os.utime(claim.path)


class Claim:
    """A piece of work that is this process' own. Made by `Claims.take`; a context manager that gives
    it back.

    Attributes:
        path: its file.
        token: its name.
    """

    def __init__(self, path: Path, token: str, claims: Claims) -> None:
        self.path, self.token = path, token
        self._claims = claims

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def is_mine(self) -> bool:
        """Whether nobody has taken it over."""
        seen = _look(self.path)
        return seen is not None and seen.token == self.token

    def stage(self, result: Path) -> Path:
        """Return where to write a result until it is whole: who takes the claim over removes it."""
        return _stage_of(self.path, self.token) / result.name

    def publish(self, staged: Path, result: Path, put: Put = os.replace) -> bool:
        """Put a result in its place.

        Args:
            staged: the whole result, see `stage`.
            result: its place.
            put: moves it there.

        Returns:
            False = the claim has been taken over, and whoever has it makes the result.

        Raises:
            OutputError: it cannot be put there.
        """
        if not self.is_mine():
            return False
        try:
            put(staged, result)
        except OSError as error:
            if not self.is_mine():  # in this very moment
                return False
            raise output_error(result, error) from error
        return True

    def release(self) -> None:
        """Give it back."""
        self._claims._release(self)


@dataclass(frozen=True)
class _Seen:
    """A claim as it was at a moment.

    Attributes:
        token: its name; of one that cannot be read, its time.
        who: has it.
        renewed: when it was, ns of the file system's clock.
    """

    token: str
    who: str
    renewed: int


def _look(path: Path) -> _Seen | None:
    """Read a claim; None = there is none.

    It is opened, not only looked at: NFS asks its server then, and not its memory.
    """
    try:
        with path.open("rb") as stream:
            renewed = os.fstat(stream.fileno()).st_mtime_ns
            raw = stream.read()
    except FileNotFoundError:
        return None
    try:
        told = json.loads(raw)
        if not _TOKEN.fullmatch(told["token"]):  # it becomes a part of paths
            raise ValueError
        return _Seen(told["token"], who_of(told), renewed)
    except (ValueError, KeyError, TypeError):
        return _Seen(f"{renewed:x}", "another process", renewed)


def who_of(told: Mapping[str, object]) -> str:
    """Return the name of a process as others are told it: ``host:rank``, or ``host:process``."""
    rank = told.get("rank")
    return f"{told.get('host', '?')}:{told.get('pid', '?') if rank is None else rank}"


def _now(folder: Path) -> int:
    """Return the time of a file system, ns."""
    with _draft(folder / "time", "") as probe:
        return probe.stat().st_mtime_ns


def _stage_of(path: Path, token: str) -> Path:
    return path.with_name(f".svc-{token}")


@contextlib.contextmanager
def _draft(path: Path, text: str) -> Iterator[Path]:
    draft = path.with_name(f".tmp-{secrets.token_hex(8)}.claim")
    try:
        draft.write_text(text, encoding="utf-8")
        os.utime(draft)  # by the clock of the server, where writing may go by this machine's
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _create(path: Path, text: str) -> bool:
    """Make a file that is not there; of several that try, one does."""
    with _draft(path, text) as draft:
        try:
            os.link(draft, path)
            return True
        except FileExistsError:
            return draft.stat().st_nlink == 2
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    return True
