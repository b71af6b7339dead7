"""Real processes that train meet what ends them: kills at thirty random moments, signals, a system
that refuses to write. In the end nothing shows it.

Most of them are forks of one that has imported everything, since a start costs seconds; the kill is
the same. Some are ``python -m svc train`` from the command line.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.checkpoint import load_checkpoint, step_of
from svc.training.rundir import find_start, load_pair

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="signals and forks of Unix"),
]

ROOT = Path(__file__).resolve().parents[2]
KILLS = 30
IN_SAVES = 10  # of them at least, with the half of a save to prove it
FROM_COMMAND_LINE = 5
PATIENCE = 120.0  # seconds for anything a process is waited for
EVERY = 2  # steps between saves

FORGE = """
import json, os, resource, sys, traceback
import matplotlib.pyplot, torch._dynamo, torch.utils.tensorboard
import svc.cli.train, svc.training.synthesizer
from svc.cli.main import main

print("ready", flush=True)
for line in sys.stdin:
    folder, arguments, output, limit = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            os.chdir(folder)
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            code = main(arguments)
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass
class Training:
    """A process that trains."""

    pid: int
    output: Path
    _wait: Callable[[float], int | None]
    _code: int | None = None

    def ended(self, timeout: float = 0.0) -> int | None:
        """Its exit code, below 0 for a signal; None while it runs."""
        if self._code is None:
            self._code = self._wait(timeout)
        return self._code

    def signal(self, number: int) -> int:
        """Send a signal; returns the exit code."""
        assert self.ended() is None, f"it ended by itself: {self.output.read_text()}"
        os.kill(self.pid, number)
        code = self.ended(PATIENCE)
        assert code is not None
        return code


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


class Forge:
    """The process that forks others."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORGE], env=ENVIRONMENT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.answer(PATIENCE) == "ready"

    def answer(self, timeout: float) -> str | None:
        """Its next line, or None."""
        # At most one line is under way at a time, so none of it waits in Python's own buffer.
        stream = self.process.stdout
        assert stream is not None
        ready, _, _ = select.select([stream], [], [], timeout)
        return stream.readline().strip() if ready else None

    def order(self, *words: Any) -> int:
        """Let it fork; returns the process id."""
        assert self.process.stdin is not None
        print(json.dumps(words), file=self.process.stdin, flush=True)
        pid = self.answer(PATIENCE)
        assert pid is not None
        return int(pid)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(PATIENCE)


class Starter:
    """Starts processes in a folder."""

    def __init__(self, folder: Path, forge: Forge) -> None:
        self.folder, self.forge = folder, forge
        self._started: list[Training] = []

    def fork(
        self, arguments: list[str], output: Path, *, largest_file: int | None = None
    ) -> Training:
        pid = self.forge.order(str(self.folder), arguments, str(output), largest_file)

        def wait(timeout: float) -> int | None:
            code = self.forge.answer(timeout)
            return None if code is None else int(code)

        self._started.append(Training(pid, output, wait))
        return self._started[-1]

    def command_line(self, arguments: list[str], output: Path) -> Training:
        with output.open("a") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "svc", *arguments], cwd=self.folder, env=ENVIRONMENT,
                stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
            )  # fmt: skip

        def wait(timeout: float) -> int | None:
            try:
                return process.wait(timeout)
            except subprocess.TimeoutExpired:
                return None

        self._started.append(Training(process.pid, output, wait))
        return self._started[-1]

    def end_all(self) -> None:
        """End what a test that failed has left."""
        for training in self._started:
            if training.ended() is None:
                training.signal(signal.SIGKILL)


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    forge = Forge()
    yield forge
    forge.close()


@pytest.fixture
def starter(make_voices: Callable[..., Any], tmp_path: Path, forge: Forge) -> Iterator[Starter]:
    make_voices(
        lengths=(40, 30, 35, 32),
        train={"log_interval": 1000, "eval_interval": EVERY, "vol_aug": True, "lr_decay": 0.99},
        model={"vol_embedding": True},
    )
    (tmp_path / "val.txt").write_text("")  # an evaluation takes longer than all else here
    starter = Starter(tmp_path, forge)
    yield starter
    starter.end_all()


def arguments(model: str, *more: str) -> list[str]:
    return ["train", "-m", model, "-c", "config.json", "-d", "cpu", "--threads", "1", *more]


def files(run_dir: Path) -> list[str]:
    return [entry.name for entry in os.scandir(run_dir)] if run_dir.is_dir() else []


def newest(run_dir: Path, kind: str = "G") -> int:
    return max((step_of(name) or 0 for name in files(run_dir) if name.startswith(kind)), default=0)


def wait_for(training: Training, what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, training.output.read_text()
        assert training.ended() is None, training.output.read_text()
        time.sleep(0.0005)


def halves(run_dir: Path) -> set[str]:
    """What only a save leaves that was broken off: a temporary file, a D without its G."""
    names, last = files(run_dir), newest(run_dir)
    return {
        name
        for name in names
        if (name.startswith(".tmp-") and name.endswith(".pth"))
        or (name.startswith("D_") and (step_of(name) or 0) > last)
    }


def reach(
    training: Training, run_dir: Path, rng: np.random.Generator, moment: str, start: float
) -> None:
    """Wait for a moment of a kind: in the first seconds, between saves, or in a save."""
    if moment == "start":
        time.sleep(rng.uniform(0, start))
        return
    old, first = halves(run_dir), newest(run_dir)
    saves = int(rng.integers(1, 3))  # that are made before
    if moment == "between":
        wait_for(training, lambda: newest(run_dir) >= first + saves * EVERY)
        time.sleep(rng.uniform(0, 0.1))
        return
    saves -= 1
    wait_for(
        training,
        # One that was missed by three saves is killed too, and counts as one between them.
        lambda: (
            newest(run_dir) >= first + saves * EVERY
            and bool(halves(run_dir) - old or newest(run_dir) > first + (saves + 3) * EVERY)
        ),
    )
    time.sleep(rng.choice([0.0, 0.0, 0.001, 0.003]))


def same(one: Any, two: Any, where: str) -> None:
    """Compare two checkpoints bit for bit."""
    assert type(one) is type(two), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    elif isinstance(one, Mapping):
        assert list(one) == list(two), where
        for key in one:
            same(one[key], two[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for index, pair in enumerate(zip(one, two, strict=True)):
            same(*pair, f"{where}/{index}")
    else:
        assert one == two, where


def test_a_run_that_is_killed_thirty_times_equals_one_that_is_not(
    starter: Starter, tmp_path: Path, rng: np.random.Generator
) -> None:
    run_dir, output = tmp_path / "logs/killed", tmp_path / "output.txt"

    # ---- how long a start takes here -------------------------------------------------------------
    began = time.monotonic()
    training = starter.fork(arguments("killed"), output)
    wait_for(training, lambda: newest(run_dir) > 0)
    start = time.monotonic() - began
    assert training.signal(signal.SIGKILL) == -signal.SIGKILL

    # ---- thirty kills, and more until enough of them have met a save -----------------------------
    moments = ["start"] * 6 + ["between"] * 10 + ["save"] * 14
    rng.shuffle(moments)
    real = set(rng.permutation(KILLS)[:FROM_COMMAND_LINE].tolist())
    kills = in_saves = 0
    reached: list[int] = []
    while kills < KILLS or in_saves < IN_SAVES:
        assert kills < 2 * KILLS, f"only {in_saves} kills have met a save"
        moment = moments[kills] if kills < KILLS else "save"
        begin = starter.command_line if kills in real else starter.fork
        old = halves(run_dir)
        training = begin(arguments("killed"), output)
        reach(training, run_dir, rng, moment, 4 * start if kills in real else start)
        assert training.signal(signal.SIGKILL) == -signal.SIGKILL, output.read_text()
        kills += 1
        in_saves += bool(halves(run_dir) - old)
        # Whatever is newest by its name is whole, and nothing that was saved is ever lost.
        reached.append(newest(run_dir))
        found = find_start(run_dir, "auto")
        assert found.step == reached[-1]
        load_pair(found)
    assert reached == sorted(reached)

    equal_to_a_straight_run(starter, "killed", reached[-1] + 3, output)


def equal_to_a_straight_run(starter: Starter, model: str, steps: int, output: Path) -> None:
    """Bring a run to a number of steps, and compare it with one that did them in one go."""
    for name in (model, "straight"):
        training = starter.fork(arguments(name, "--max_steps", str(steps)), output)
        assert training.ended(PATIENCE) == 0, output.read_text()
    logs = starter.folder / "logs"
    assert not list((logs / model).rglob(".tmp-*"))
    assert "Traceback" not in output.read_text()
    for kind in "GD":
        names = [logs / name / f"{kind}_{steps}.pth" for name in (model, "straight")]
        one, two = map(load_checkpoint, names)
        same(one, two, kind)


def test_signals_at_random_moments_save_and_end_cleanly(
    starter: Starter, tmp_path: Path, rng: np.random.Generator
) -> None:
    run_dir, output = tmp_path / "logs/stopped", tmp_path / "output.txt"
    log = run_dir / "train.log"
    reached = [0]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) * 2:
        before = log.read_text().count("loader processes") if log.is_file() else 0
        training = starter.fork(arguments("stopped"), output)
        # From this line on the signals are caught.
        wait_for(
            training,
            lambda: log.is_file() and log.read_text().count("loader processes") > before,  # noqa: B023
        )
        time.sleep(rng.uniform(0, 1.0))
        assert training.signal(number) == 128 + number, output.read_text()
        found = find_start(run_dir, "auto")
        assert not halves(run_dir)
        reached.append(found.step)
        assert f"ended by {number.name} at step {found.step}" in output.read_text()
    assert reached == sorted(reached)
    equal_to_a_straight_run(starter, "stopped", reached[-1] + 1, output)


def test_a_second_interrupt_ends_at_once_and_harms_nothing(
    starter: Starter, tmp_path: Path
) -> None:
    run_dir, output = tmp_path / "logs/twice", tmp_path / "output.txt"
    for _ in range(3):
        first = newest(run_dir)
        training = starter.fork(arguments("twice"), output)
        wait_for(training, lambda: newest(run_dir) > first)  # noqa: B023
        wait_for(training, lambda: bool(halves(run_dir)))
        os.kill(training.pid, signal.SIGINT)
        if training.ended() is None:
            os.kill(training.pid, signal.SIGINT)
        assert training.ended(PATIENCE) == 130, output.read_text()
        assert not halves(run_dir)
        load_pair(find_start(run_dir, "auto"))
    assert "Traceback" not in output.read_text()


def test_a_system_that_refuses_large_files(starter: Starter, tmp_path: Path) -> None:
    """As on a full disk, and without one: nothing can be saved at first, then all is made good."""
    run_dir, output = tmp_path / "logs/full", tmp_path / "output.txt"
    training = starter.fork(arguments("full", "--max_steps", "5"), output, largest_file=500_000)
    assert training.ended(PATIENCE) == 2, output.read_text()
    shown = output.read_text()
    assert "Traceback" not in shown
    *warnings, error = [line for line in shown.splitlines() if "cannot write" in line]
    assert len(warnings) == 2
    for line, steps in zip(warnings, (2, 4), strict=True):
        assert line.startswith("svc: WARNING: cannot write ")
        assert f"Steps 1 to {steps} are not saved: there is no checkpoint yet. The next" in line
    assert error.startswith("svc: error: cannot write ")
    assert error.endswith("Steps 1 to 5 are not saved: there is no checkpoint yet.")
    assert "Steps 1 to 4 are not saved" in (run_dir / "train.log").read_text()
    assert not [name for name in files(run_dir) if name.startswith(("G_", "D_", ".tmp-"))]
    equal_to_a_straight_run(starter, "full", 5, output)
