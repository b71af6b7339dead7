"""Saves that fail, in every way a test can make one fail: the earlier pair stays, nothing else does."""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from svc import atomic
from svc.checkpoint import load_checkpoint
from svc.errors import OutputError
from svc.training.saving import Saver, save_pair
from svc.training.stopping import StopSignal

SIZE = 40_000  # floats of each test checkpoint


def content(value: float, size: int = 4) -> dict[str, Any]:
    return {"model": {"a": torch.full((size,), value)}}


def value_of(file: Path) -> float:
    return float(load_checkpoint(file, verify=True)["model"]["a"][-1])


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.fixture
def old_pair(tmp_path: Path) -> Iterator[Path]:
    """A folder with a pair of step 8, which is there, whole and alone, at the end too."""
    save_pair(tmp_path, 8, content(1.0), content(2.0), keep=1)
    yield tmp_path
    assert names(tmp_path) == ["D_8.pth", "G_8.pth"]
    assert (value_of(tmp_path / "G_8.pth"), value_of(tmp_path / "D_8.pth")) == (1.0, 2.0)


def test_old_pairs_are_pruned_and_base_models_stay(tmp_path: Path) -> None:
    small = content(0.0)
    (tmp_path / "Good_notes.txt").write_text("kept")
    (tmp_path / "G_8_best.pth").write_text("kept")
    for step in (0, 100, 20, 3, 1000):
        paths = save_pair(tmp_path, step, small, small, keep=2)
    assert paths == (tmp_path / "G_1000.pth", tmp_path / "D_1000.pth")
    assert names(tmp_path) == [
        "D_0.pth", "D_100.pth", "D_1000.pth", "G_0.pth", "G_100.pth", "G_1000.pth",
        "G_8_best.pth", "Good_notes.txt",
    ]  # fmt: skip
    save_pair(tmp_path, 2000, small, small, keep=0)
    assert len(list(tmp_path.glob("G_*0.pth"))) == 4


def test_the_discriminator_is_whole_before_the_generator_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[list[str]] = []
    save = torch.save

    def look(obj: object, stream: IO[bytes]) -> None:
        there.append([name for name in names(tmp_path) if not name.startswith(".tmp-")])
        save(obj, stream)

    monkeypatch.setattr(torch, "save", look)
    save_pair(tmp_path, 8, content(1.0), content(2.0), keep=1, kind="V")
    save_pair(tmp_path, 16, content(1.0), content(2.0), keep=1, kind="V")
    old = ["D_8.pth", "V_8.pth"]
    assert there == [[], ["D_8.pth"], old, ["D_16.pth", *old]]
    assert names(tmp_path) == ["D_16.pth", "V_16.pth"]


@pytest.mark.parametrize("failing", [0, 1], ids=["D", "G"])
@pytest.mark.parametrize("step", [8, 16])
def test_a_writer_that_fails_half_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, step: int
) -> None:
    save_pair(tmp_path, 8, content(1.0), content(1.0), keep=1)
    save = torch.save
    calls = itertools.count()

    def fail(obj: object, stream: IO[bytes]) -> None:
        if next(calls) == failing:
            stream.write(b"half a file")
            raise OSError(28, "No space left on device")
        save(obj, stream)

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OutputError, match=r"no space left"):
        save_pair(tmp_path, step, content(2.0), content(2.0), keep=1)
    assert names(tmp_path) == ["D_8.pth", "G_8.pth"]
    assert value_of(tmp_path / "G_8.pth") == 1.0


def test_room_is_looked_for_once_for_both(old_pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1_000_000 + 6 * SIZE  # for one file of 4 * SIZE bytes, not for two

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage)
    monkeypatch.setattr(torch, "save", lambda *args: pytest.fail("something is written"))
    with pytest.raises(OutputError, match=r"G_16\.pth: it needs 0 MB .* 1 MB free; free some"):
        save_pair(old_pair, 16, content(3.0, SIZE), content(3.0, SIZE), keep=1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_disk_that_is_full_at_the_first_byte(
    old_pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda count: "fixed")
    (old_pair / ".tmp-fixed.pth").symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"cannot write .*D_16\.pth: .*(space|disk)"):
        save_pair(old_pair, 16, content(3.0, SIZE), content(3.0, SIZE), keep=1)


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, in bytes. No fixture: the file that the test's own dot is
    written to may be larger.
    """
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [1000, 100_000, 4 * SIZE], ids=["head", "tensor", "end"])
def test_a_system_that_refuses_to_write_on(old_pair: Path, size: int) -> None:
    with (
        limited_files(size),
        pytest.raises(OutputError, match=r"cannot write .*[DG]_16\.pth"),
    ):
        save_pair(old_pair, 16, content(3.0, SIZE), content(3.0), keep=1)


def damage(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[bytearray], None], which: int
) -> None:
    """Change a file once it is on the disk: the one that is written as number `which`."""
    sync, files = atomic._fsync, itertools.count()

    def sync_and_change(path: Path) -> None:
        sync(path)
        if path.name.startswith(".tmp-") and next(files) == which:
            bytes_ = bytearray(path.read_bytes())
            change(bytes_)
            path.write_bytes(bytes_)

    monkeypatch.setattr(atomic, "_fsync", sync_and_change)


def flip(bytes_: bytearray) -> None:
    bytes_[len(bytes_) // 2] ^= 4  # in a tensor


def cut(bytes_: bytearray) -> None:
    del bytes_[-100:]


def cut_to_nothing(bytes_: bytearray) -> None:
    bytes_.clear()


@pytest.mark.parametrize("which", [0, 1], ids=["D", "G"])
@pytest.mark.parametrize("change", [flip, cut, cut_to_nothing])
def test_a_disk_that_returns_something_else(
    old_pair: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytearray], None], which: int
) -> None:
    damage(monkeypatch, change, which)
    name = "DG"[which]
    with pytest.raises(
        OutputError, match=rf"{name}_16\.pth: what was written does not read back .* is damaged"
    ):
        save_pair(old_pair, 16, content(3.0, SIZE), content(3.0, SIZE), keep=1)
    assert list(old_pair.glob(".*")) == []


def test_an_interrupted_save_leaves_nothing(
    old_pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first Ctrl-C waits for the end of the save, the second does not."""
    save = torch.save
    saved: list[object] = []

    def interrupted(obj: object, stream: IO[bytes]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        save(obj, stream)
        saved.append(obj)

    with StopSignal() as stop:
        monkeypatch.setattr(torch, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_pair(old_pair, 16, content(3.0), content(3.0), keep=1)
    assert stop.name == "SIGINT"
    assert len(saved) == 1  # D, before the second signal came in G


def test_old_files_that_cannot_be_deleted_do_not_fail_the_save(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def clean() -> None:
        raise PermissionError(13, "in use by another process")

    with caplog.at_level(logging.WARNING, logger="svc.training"):
        paths = Saver(tmp_path, clean).save({"model_3.pt": content(3.0)})
    assert value_of(paths[0]) == 3.0
    assert "in use by another process" in caplog.text


def test_files_are_cleaned_up_only_after_a_save_that_succeeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(monkeypatch, flip, 0)
    saver = Saver(tmp_path, lambda: pytest.fail("older files are removed"))
    with pytest.raises(OutputError):
        saver.save({"model_3.pt": content(3.0, SIZE)})
    assert names(tmp_path) == []
