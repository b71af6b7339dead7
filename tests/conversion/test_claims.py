"""Claims: one at a time has them, and those of the dead are taken over once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from svc.conversion import claims as module
from svc.conversion.claims import Claim, Claims, claim_path
from svc.errors import OutputError

Make = Callable[..., Claims]
TOKEN = "0123456789abcdef"  # noqa: S105
WHO = {"host": "here", "pid": 1, "rank": 0}


@pytest.fixture
def make() -> Iterator[Make]:
    """A function that makes the claims of one more process."""
    with ExitStack() as stack:
        yield lambda stale_after=60.0: stack.enter_context(Claims(WHO, stale_after=stale_after))


def age(path: Path, seconds: float) -> None:
    """Make a claim older than it is."""
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def leave(path: Path, token: str = TOKEN, seconds: float = 100.0) -> Path:
    """Leave a claim behind as one does who is killed."""
    path.write_text(json.dumps({"token": token, "host": "gone", "pid": 7, "rank": 3}))
    age(path, seconds)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_has_it_until_it_is_given_back(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "new" / "a"
    first, second = make(), make()
    claim = first.take(path)
    assert claim is not None
    assert claim.is_mine()
    told = json.loads(path.read_text())
    assert told == {"token": claim.token, **WHO}
    assert second.is_live(path)
    assert second.take(path) is None
    assert first.take(path) is None
    claim.release()
    assert not second.is_live(path)
    with second.take(path) as again:  # type: ignore[union-attr]
        assert again.is_mine()
        assert not claim.is_mine()
    assert names(path.parent) == []


def test_names_of_any_length_have_a_claim(tmp_path: Path, make: Make) -> None:
    assert claim_path(Path("r/song.flac")) == Path("r/.song.flac.claim")
    long, other = (tmp_path / f"{'x' * 240}{end}.flac" for end in "ab")
    assert claim_path(long) != claim_path(other)
    assert make().take(claim_path(long)) is not None
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        make().take(tmp_path / "file" / "claim")


def test_of_many_that_want_it_one_gets_it(tmp_path: Path, make: Make) -> None:
    everybody = [make() for _ in range(12)]
    for number in range(15):
        path = tmp_path / f"c{number}"
        barrier = threading.Barrier(len(everybody))

        def want(claims: Claims, path: Path = path, at: threading.Barrier = barrier) -> bool:
            at.wait()
            return claims.take(path) is not None

        with ThreadPoolExecutor(len(everybody)) as pool:
            assert sum(pool.map(want, everybody)) == 1
    assert len(names(tmp_path)) == 15


def test_of_many_that_take_over_one_does(tmp_path: Path, make: Make) -> None:
    """All see a dead claim at the same time; and some see it long before they act."""
    everybody = [make() for _ in range(12)]
    for number in range(15):
        path = leave(tmp_path / f"c{number}")
        stage = tmp_path / f".svc-{TOKEN}"
        stage.mkdir()
        (stage / "half.flac").touch()
        barrier = threading.Barrier(len(everybody))
        seen = module._look(path)
        assert seen is not None

        def want(number: int, path: Path = path, seen=seen, at=barrier) -> bool:  # type: ignore[no-untyped-def]
            claims = everybody[number]
            at.wait()
            if number % 2:  # asked a moment ago whether it is dead, and was interrupted then
                return claims._take_over(path, seen, f"{number:016x}")
            return claims.take(path) is not None

        with ThreadPoolExecutor(len(everybody)) as pool:
            assert sum(pool.map(want, range(len(everybody)))) == 1
        if stage.exists():  # one of the odd ones has won, which leave it to their caller
            (stage / "half.flac").unlink()
            stage.rmdir()
        assert [name for name in names(tmp_path) if not name.startswith("c")] == []
        assert {name for name in names(tmp_path) if "." in name} == set()


_TAKERS = """
import sys, time
from pathlib import Path
from svc.conversion.claims import Claims
with Claims({"pid": 1}) as claims:
    print("ready", flush=True)
    sys.stdin.readline()
    won = [number for number in range(40) if claims.take(Path(sys.argv[1]) / f"c{number}")]
    print(*won, flush=True)
    sys.stdin.readline()
"""


def test_processes_that_take_over_share_it_out(tmp_path: Path) -> None:
    for number in range(0, 40, 2):
        leave(tmp_path / f"c{number}", f"{number:016x}")
    command = [sys.executable, "-c", _TAKERS, str(tmp_path)]
    pipe = subprocess.PIPE
    takers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(3)]
    for taker in takers:
        assert taker.stdout is not None
        assert taker.stdout.readline() == "ready\n"
    for taker in takers:
        assert taker.stdin is not None
        taker.stdin.write("\n")
        taker.stdin.flush()
    won = [taker.stdout.readline().split() for taker in takers]  # type: ignore[union-attr]
    for taker in takers:
        taker.communicate("\n", timeout=30)
        assert taker.returncode == 0
    assert sorted(int(number) for one in won for number in one) == list(range(40))
    assert names(tmp_path) == []  # all were given back


def test_the_living_are_respected(tmp_path: Path, make: Make) -> None:
    """A claim is older than the limit, and is renewed all the same."""
    path = tmp_path / "a"
    claim = make(0.3).take(path)
    assert claim is not None
    other = make(0.3)
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        assert other.is_live(path)
        assert other.take(path) is None
        time.sleep(0.02)
    assert claim.is_mine()


def test_the_dead_are_told_by_the_clock_of_the_file_system(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)  # this machine's is far off
    path = leave(tmp_path / "a", seconds=50.0)
    assert make().take(path) is None
    assert not make(40.0).is_live(path)
    claim = make(40.0).take(path)
    assert claim is not None
    assert claim.is_mine()
    age(path, -1000.0)  # of the future: whoever has it is alive
    assert make(40.0).take(path) is None


def test_who_was_thought_dead_publishes_nothing(tmp_path: Path, make: Make) -> None:
    result = tmp_path / "song.flac"
    path = claim_path(result)
    sleeper, other = make(), make()
    claim = sleeper.take(path)
    assert claim is not None
    staged = claim.stage(result)
    assert staged.parent.parent == tmp_path
    assert staged.parent.name.startswith(".")
    staged.parent.mkdir()
    staged.write_bytes(b"late")
    age(path, 100.0)
    taken = other.take(path)
    assert taken is not None
    assert not staged.exists()
    assert not claim.publish(staged, result)
    claim.release()
    assert taken.is_mine()
    taken.stage(result).parent.mkdir()
    taken.stage(result).write_bytes(b"whole")
    assert taken.publish(taken.stage(result), result)
    taken.release()
    assert names(tmp_path) == ["song.flac"]
    assert result.read_bytes() == b"whole"


def test_who_is_taken_over_while_publishing_is_no_error(tmp_path: Path, make: Make) -> None:
    result = tmp_path / "song.flac"
    sleeper, other = make(), make()
    claim = sleeper.take(claim_path(result))
    assert claim is not None

    def sleep(staged: Path, result: Path) -> None:
        age(claim_path(result), 100.0)
        assert other.take(claim_path(result)) is not None
        os.replace(staged, result)

    staged = claim.stage(result)
    staged.parent.mkdir()
    staged.touch()
    assert not claim.publish(staged, result, sleep)
    mine = other.take(claim_path(tmp_path / "b"))
    assert mine is not None
    with pytest.raises(OutputError):
        mine.publish(tmp_path / "gone", tmp_path / "b")


def test_claims_that_cannot_be_read(tmp_path: Path, make: Make) -> None:
    """Somebody else's file, or half a one; a token that is a path is none."""
    for text in ("", "[]", '{"token": "../../home"}', '{"token": 3}', "\0\xff"):
        path = tmp_path / "a"
        path.write_text(text)
        assert make().take(path) is None
        age(path, 100.0)
        claim = make().take(path)
        assert claim is not None
        claim.release()
        assert names(tmp_path) == []


def test_a_lock_of_one_who_died_while_taking_over_is_removed(tmp_path: Path, make: Make) -> None:
    path = leave(tmp_path / "a")
    lock = leave(tmp_path / f"a.{TOKEN}", "f" * 16)
    found: list[Claim | None] = [make().take(path) for _ in range(3)]
    assert found[0] is None
    assert found[1] is not None
    assert found[2] is None
    assert not lock.exists()


def test_file_systems_without_links(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    claim = make().take(tmp_path / "a")
    assert claim is not None
    assert make().take(tmp_path / "a") is None
    claim.release()
    assert names(tmp_path) == []


def test_a_link_that_was_made_but_reported_as_failed(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer of an NFS server that was lost, and the question asked again."""
    link = os.link

    def again(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr("os.link", again)
    claim = make().take(tmp_path / "a")
    assert claim is not None
    assert claim.is_mine()
    assert make().take(tmp_path / "a") is None
