"""Hashes of files: right, once, and no hindrance to the end of a run."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import pytest

from svc.conversion import file_hashes
from svc.conversion.file_hashes import FileHashes
from svc.errors import MissingFileError


def test_each_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(3_000_000) + b"x")
    made = []
    real = hashlib.sha256

    def count(*args: Any) -> Any:
        made.append(1)
        return real(*args)

    monkeypatch.setattr(file_hashes.hashlib, "sha256", count)
    with FileHashes() as hashes:
        hashes.ask([path, tmp_path / "absent"])
        for _ in range(3):
            assert hashes.of(path) == real(path.read_bytes()).hexdigest()
        assert len(made) == 1
        path.write_bytes(b"changed")
        assert hashes.of(path) == real(b"changed").hexdigest()


def test_a_file_that_goes_away(tmp_path: Path) -> None:
    with FileHashes() as hashes, pytest.raises(MissingFileError, match="absent"):
        hashes.of(tmp_path / "absent")


def test_closing_does_not_wait_for_long_files(tmp_path: Path) -> None:
    path = tmp_path / "long"
    with path.open("wb") as stream:
        stream.truncate(1 << 36)  # 64 GB, all holes: a minute of work
    start = time.monotonic()
    with FileHashes() as hashes:
        hashes.ask([path])
    assert time.monotonic() - start < 5
