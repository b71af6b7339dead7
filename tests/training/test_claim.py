"""One run at a time in a folder; a process that is gone, however it went, is in nobody's way."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from svc.cli.main import main
from svc.training.claim import NAME, TakenError, claim

fcntl = pytest.importorskip("fcntl")

_HOLD = """
import os, sys, time
from pathlib import Path
from svc.training.claim import claim
with claim(Path(sys.argv[1])):
    if sys.argv[2:] and os.fork() == 0:  # as a loader process, that reads on when its parent is gone
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def holder(folder: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A process that trains there."""
    command = [sys.executable, "-c", _HOLD, str(folder), *more]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_second_one_is_told_who_has_it(tmp_path: Path) -> None:
    with (
        holder(tmp_path / "run") as process,
        pytest.raises(TakenError, match=rf"in use: process {process.pid} on \S+ trains there"),
        claim(tmp_path / "run"),
    ):
        pass
    assert (tmp_path / "run").is_dir()


def test_a_killed_one_leaves_nothing_behind_that_counts(tmp_path: Path) -> None:
    """Not even where processes of it live on, that hold on to its files."""
    with holder(tmp_path, "with a child") as process:
        process.kill()
        process.wait()
        assert (tmp_path / NAME).is_file()
        with claim(tmp_path):
            assert (tmp_path / NAME).read_text().split()[1] == str(os.getpid())
    assert not list(tmp_path.iterdir())


def test_a_folder_in_which_nothing_was_written_goes_again(tmp_path: Path) -> None:
    with claim(tmp_path / "logs" / "run"):
        assert (tmp_path / "logs" / "run" / NAME).is_file()
    assert not (tmp_path / "logs").exists()
    (tmp_path / "logs" / "run").mkdir(parents=True)
    with claim(tmp_path / "logs" / "run" / "inner"):
        (tmp_path / "logs" / "other").mkdir()
    (tmp_path / "logs" / "run").rmdir()
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["other"]


def test_others_than_the_first_process_claim_nothing(tmp_path: Path) -> None:
    with claim(tmp_path / "run", needed=False):
        assert not (tmp_path / "run").exists()


def test_a_lock_file_that_its_holder_removes_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened just before that, it would be locked and nobody else would find it."""
    true, calls = fcntl.lockf, []

    def late(lock: int, how: int) -> None:
        calls.append(lock)
        if len(calls) == 1:
            (tmp_path / NAME).unlink()
        true(lock, how)

    monkeypatch.setattr("fcntl.lockf", late)
    with claim(tmp_path):
        assert len(calls) == 2
        assert (tmp_path / NAME).is_file()


def test_a_file_system_without_locks_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(lock: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.lockf", refuse)
    with caplog.at_level(logging.WARNING, logger="svc.training"), claim(tmp_path / "run"):
        pass
    (line,) = caplog.messages
    assert "make sure that no other run writes to that folder" in line


@pytest.mark.parametrize("command", ["train", "train-vocoder", "train-diff"])
def test_the_second_trainer_of_a_folder_ends_with_one_line(
    command: str,
    make_voices: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_voices()
    words = {
        "train": ["-m", "m", "-c", "config.json"],
        "train-vocoder": ["--dataset", "clips", "-o", "logs/m"],
        "train-diff": ["-c", "diffusion.yaml", "--expdir", "logs/m"],
    }
    if command == "train-diff":
        template = Path(__file__).parents[2] / "configs" / "diffusion_template.yaml"
        Path("diffusion.yaml").write_text(template.read_text(encoding="utf-8"))
    began = time.monotonic()
    with holder(Path("logs/m")):
        assert main([command, *words[command], "-d", "cpu"]) == 2
    assert time.monotonic() - began < 60
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("svc: error: logs/m is in use: process ")
    assert [path.name for path in Path("logs/m").iterdir()] == [NAME]
