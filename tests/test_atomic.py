"""Atomic writing."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from svc.atomic import atomic_path, make_folder, write_text
from svc.errors import OutputError


def test_success_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "new" / "声|'\".wav"
    for text in ("one", "two"):
        with atomic_path(target) as temporary:
            assert temporary.parent == target.parent
            assert temporary.suffix == ".wav"
            temporary.write_text(text)
        assert target.read_text() == text
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_failure_keeps_the_old_file(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def write() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("code", "expected"),
    [(errno.ENOSPC, "no space left"), (errno.EACCES, "no permission"), (errno.EROFS, "read-only")],
)
def test_os_errors_become_one_line(tmp_path: Path, code: int, expected: str) -> None:
    def write() -> None:
        with atomic_path(tmp_path / "a.txt"):
            raise OSError(code, "x")

    with pytest.raises(OutputError, match=expected):
        write()


def test_a_name_as_long_as_allowed(tmp_path: Path) -> None:
    target = tmp_path / ("声" * 83 + ".wav")
    write_text(target, "x")
    assert target.read_text() == "x"


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(OutputError, match="a file"):
        make_folder(tmp_path / "results")
    with pytest.raises(OutputError, match="file"):
        write_text(tmp_path / "results" / "a" / "b.txt", "x")
