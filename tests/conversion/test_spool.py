from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from svc.conversion.spool import Spool
from svc.errors import OutputError


def test_what_is_written_is_read_as_often_as_one_likes(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    song = rng.uniform(-1, 1, (2, 200_000)).astype(np.float32)
    with Spool(tmp_path / "new" / "a.wav", 2, 200_000) as spool:
        for start in range(0, 200_000, 33_333):
            spool.write(song[:, start : start + 33_333])
        for _ in range(2):
            blocks = list(spool.blocks())
            assert len(blocks) > 1
            np.testing.assert_array_equal(np.concatenate(blocks, axis=1), song)
        if os.name != "nt":  # not even a killed process leaves it
            assert not list((tmp_path / "new").iterdir())
    assert not list((tmp_path / "new").iterdir())


def test_a_disk_without_room_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000_000))
    with Spool(tmp_path / "a.wav", 1, 1_000_000):
        pass
    with (
        pytest.raises(OutputError, match="needs 16 MB and the disk has 10 MB"),
        Spool(tmp_path / "a.wav", 2, 2_000_000),
    ):
        pass


def test_a_disk_that_gets_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Full())
    with Spool(tmp_path / "a.wav", 1, 100) as spool, pytest.raises(OutputError, match="no space"):
        spool.write(np.zeros((1, 100), np.float32))
