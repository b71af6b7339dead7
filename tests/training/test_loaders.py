"""Loader processes: they live through epochs, and one that dies ends the run with one line."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from svc.checkpoint import load_checkpoint
from svc.errors import DatasetError
from svc.training.batches import EpochBatches, Tensors, stream_of
from svc.training.loaders import closed, lost_loaders

# Data sets are forked, not sent, so that these may be small classes of a test.
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="loader processes are not forked")


@dataclass(frozen=True)
class Numbers(Tensors):
    """A batch that says which process put it together."""

    values: Tensor
    process: int

    def __len__(self) -> int:
        return len(self.values)


class Source(Dataset[Any]):
    """Clips that are their numbers."""

    def __init__(self, deadly: int | None = None) -> None:
        self.deadly = deadly

    def __len__(self) -> int:
        return 12

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
        epoch, index = key
        if epoch == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)  # what a system does that runs out of memory
        return epoch, index


def together(items: Any) -> Numbers:
    return Numbers(torch.tensor([index for _, index in items]), os.getpid())


@needs_fork
def test_processes_live_through_the_ends_of_epochs() -> None:
    order = EpochBatches([20] * 12, 3, seed=1)
    with lost_loaders():
        batches = list(
            itertools.islice(stream_of(Source(), order, together, workers=2, pin=False), 4 * 5)
        )
    assert len({batch.process for batch in batches}) == 2
    assert os.getpid() not in {batch.process for batch in batches}
    for start in range(0, 20, 4):
        values = torch.cat([batch.values for batch in batches[start : start + 4]])
        assert sorted(values.tolist()) == list(range(12))


@needs_fork
@pytest.mark.parametrize("_", range(3))
def test_the_death_of_a_process_is_one_line(_: int) -> None:
    order = EpochBatches([20] * 12, 3, seed=1)
    with (
        pytest.raises(
            DatasetError,
            match=r"a loader process (\(pid [\d, ]+\) (is killed|exited)|ended while)",
        ) as caught,
        lost_loaders(),
    ):
        for _batch in stream_of(Source(deadly=2), order, together, workers=2, pin=False):
            pass
    assert "\n" not in str(caught.value)
    assert "out of memory" in str(caught.value)
    assert "run the same command again" in str(caught.value)
    assert not multiprocessing.active_children()


class Stuck(Source):
    """Clips of a disk that has stopped answering."""

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
        if key[0] > 1:
            time.sleep(60)
        return key


@needs_fork
def test_processes_that_are_stuck_in_a_read_are_killed() -> None:
    order = EpochBatches([20] * 12, 3, seed=1)
    batches = stream_of(Stuck(), order, together, workers=2, pin=False)
    for _ in range(4):
        next(batches)
    assert len(multiprocessing.active_children()) == 2
    began = time.monotonic()
    batches.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 20
    assert not multiprocessing.active_children()


_SUSPENDED = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("loaders_test", sys.argv[1])
there = importlib.util.module_from_spec(spec)
sys.modules["loaders_test"] = there
spec.loader.exec_module(there)
batches = there.stream_of(
    there.Stuck(), there.EpochBatches([20] * 12, 3, seed=1), there.together, workers=2, pin=False
)
for _ in range(4):
    next(batches)
"""


@needs_fork
def test_a_process_ends_without_waiting_for_those_that_are_stuck() -> None:
    """Nobody has closed the iterator, as after a second Ctrl-C."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SUSPENDED, __file__],
        capture_output=True, text=True, timeout=55, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began < 50


@needs_fork
def test_a_lock_that_a_killed_process_held_holds_nothing_up() -> None:
    """Closing a loader sets an event that its processes read; the lock of it is gone with them."""
    loader = DataLoader(range(8), num_workers=2)  # type: ignore[arg-type]
    began = time.monotonic()
    with closed(loader) as batches:
        next(batches)
        lock = batches._workers_done_event._cond  # type: ignore[attr-defined]
        lock.acquire()
    assert time.monotonic() - began < 20
    assert not multiprocessing.active_children()


def _wait() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(300)


@needs_fork
def test_a_death_that_is_told_in_the_middle_of_the_end_leaves_nobody_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch tells of it wherever the main process is: before the others are killed, too."""
    true, calls = multiprocessing.active_children, []

    def children() -> list[Any]:
        calls.append(None)
        if len(calls) == 2:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
        return true()

    monkeypatch.setattr("multiprocessing.active_children", children)
    other = multiprocessing.get_context("fork").Process(target=_wait, daemon=True)
    with pytest.raises(DatasetError, match=r"pid 7\) is killed by signal: Killed"), lost_loaders():
        other.start()
    assert len(calls) == 3
    assert not other.is_alive()


@needs_fork
def test_a_loader_without_processes_is_closed_too() -> None:
    with closed(DataLoader(range(3))) as batches:  # type: ignore[arg-type]
        assert len(list(batches)) == 3


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
            "dataloader's workers are out of shared memory. Please try to raise your limit.",
            r"pid 7\) is killed by signal: Bus error; the shared memory is too small \(/dev/shm",
        ),
        (
            "DataLoader worker (pid(s) 7, 8) exited unexpectedly",
            r"pid 7, 8\) exited unexpectedly; ",
        ),
        (
            "DataLoader worker (pid 7) exited unexpectedly with exit code 1. Details are lost",
            "code 1",
        ),
    ],
)
def test_what_torch_says_is_understood(told: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message), lost_loaders():
        raise RuntimeError(told)


def test_other_errors_pass() -> None:
    errors = (RuntimeError("CUDA error"), ValueError("x"), DatasetError("one line"), EOFError())
    for error in errors:
        with pytest.raises(type(error)) as caught, lost_loaders():
            raise error
        assert caught.value is error


_RUN = """
import sys
from svc.training import batches, synthesizer
synthesizer.choose_workers = lambda *_, **__: 2
from svc.cli.main import main
sys.exit(main(["train", "-c", "config.json", "-m", "run", "--threads", "1", "--resume", "auto",
               "--max_steps", sys.argv[1], "-d", "cpu"]))
"""


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_killed_loader_ends_a_run_as_of_its_last_save(make_voices: Callable[..., Any]) -> None:
    """A real run: exit code 2, one line, the saves as they were, and the run goes on from there."""
    make_voices(lengths=(60, 45, 24), train={"eval_interval": 2, "keep_ckpts": 0})
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", _RUN]
    errors = Path("errors.txt")
    with errors.open("w") as stream:
        run = subprocess.Popen([*command, "10000"], env=environment, stderr=stream, stdout=stream)
    try:
        until = time.monotonic() + 300
        while not (Path("logs/run/G_4.pth").is_file() and children(run.pid)):
            assert run.poll() is None, errors.read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        os.kill(children(run.pid)[-1], signal.SIGKILL)
        assert run.wait(timeout=120) == 2, errors.read_text()
    finally:
        run.kill()
        run.wait()
    told = errors.read_text()
    assert "Traceback" not in told
    (line,) = [text for text in told.splitlines() if text.startswith("svc: error: ")]
    assert "a loader process" in line
    assert any(how in line for how in ("is killed by", "exited unexpectedly", "ended while it"))
    last = max(int(path.stem[2:]) for path in Path("logs/run").glob("G_[0-9]*.pth"))
    assert last % 2 == 0
    assert load_checkpoint(Path(f"logs/run/G_{last}.pth"))["svc"]["step"] == last
    assert not list(Path("logs/run").glob(".tmp-*"))
    done = subprocess.run(
        [*command, str(last + 1)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert Path(f"logs/run/G_{last + 1}.pth").is_file()
