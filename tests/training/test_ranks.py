"""Several processes train one net: two of them on the CPU, by gloo, as in a run on two GPUs."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from svc.checkpoint import load_checkpoint
from svc.cli.main import main
from svc.dataset.features import FeatureCache
from svc.errors import ConfigError, DeviceError
from svc.training.batches import Batch, EpochBatches, collate
from svc.training.buckets import flatten_gradients, into_buckets, spread_gradients
from svc.training.ranks import Ranks, shares_of

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("rank_program.py")
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


# ---- two processes -------------------------------------------------------------------------------


def start(rank: int, port: int, *command: str, **options: Any) -> subprocess.Popen[str]:
    """Start one of two processes in the working directory, as torchrun does."""
    variables = dict(zip(VARIABLES, (str(rank), "2", str(rank), "2"), strict=True))
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen([sys.executable, *command], env=with_us(**variables, **place), text=True, **options)


def with_us(**variables: str) -> dict[str, str]:
    """The environment of a process that finds this project, and keeps to one thread."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location(PROGRAM.stem, PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sing_up_and_down(voices: Any) -> None:
    """Let pitch change within each clip: gradients that are nothing but rounding are no comparison."""
    cache = FeatureCache.from_config(voices.config)
    for number, path in enumerate(voices.files("alice") + voices.files("bob")):
        track = cache.load_f0(path)
        f0 = track.f0 * (1 + 0.2 * np.sin(0.3 * np.arange(len(track.f0)) + number))
        cache.save(path, f0=torch.from_numpy(np.stack([f0, track.uv]).astype(np.float32)))


def keep_clips(count: int) -> set[str]:
    """Shorten the training list; returns what is left in it."""
    lines = Path("train.txt").read_text().splitlines()[:count]
    Path("train.txt").write_text("\n".join(lines) + "\n")
    return set(lines)


def test_two_ranks_learn_what_one_would(make_voices: Callable[..., Any], tmp_path: Path) -> None:
    voices = make_voices(model={"p_dropout": 0.0})
    sing_up_and_down(voices)
    # Five clips, four at a time: in every second step one rank is without a clip of its own.
    clips = keep_clips(5)
    folder, port = tmp_path / "seen", free_port()
    folder.mkdir()
    running = [start(rank, port, str(PROGRAM), str(folder)) for rank in (0, 1)]
    alone = program().learn(Ranks.single(), 4)
    assert [process.wait(120) for process in running] == [0, 0]
    seen = [json.loads((folder / f"seen{rank}.json").read_text()) for rank in (0, 1)]

    # ---- disjoint clips, all of them in every epoch, together those of one process ----
    for first in (0, 2, 4):
        parts = [set(found["seen"][step]) for found in seen for step in (first, first + 1)]
        assert sum(map(len, parts)) == len(set().union(*parts))
        assert set().union(*parts) == clips
    assert [set(a) | set(b) for a, b in zip(seen[0]["seen"], seen[1]["seen"], strict=True)] == [
        set(names) for names in alone["seen"]
    ]
    assert [len(names) for names in seen[1]["seen"]] == [2, 0] * 3

    # ---- equal weights, bit for bit, and those of one process ----
    for step, expected in alone["weights"].items():
        mine, other = (np.load(folder / f"weights{rank}_{step}.npz") for rank in (0, 1))
        for name, values in expected.items():
            assert np.array_equal(mine[name], other[name]), name
            # float64; a step moves a weight by 2e-4. Keys' biases have no gradient but rounding.
            close = 1e-8 if name.endswith("conv_k.bias") else 1e-12
            assert np.abs(mine[name] - values).max() < close, name
    moved = [np.abs(alone["weights"][6][name] - alone["weights"][3][name]).max() for name in alone["weights"][3]]
    assert np.median(moved) > 1e-5

    # ---- what they said to each other ----
    for rank, found in enumerate(seen):
        assert found["exchange"] == ["häl", "hällo"]
        assert found["table"] == [[0, 2.5], [1, 2.5]]
        assert found["sum"] == [1, 2**41 + 1]
        assert found["largest"] == [-1]
        assert found["agree"] == [True, False, True]
        assert found["any"] == [True, False, 1.0]
        assert found["means"] == [[1.5, 3.0, 4.5], [4.0] * 4, None]
        assert found["in place"]
        one, two, again = found["draw"]
        assert one == again
        assert (one == two) == (rank == 0)
    assert seen[0]["draw"][0] != seen[1]["draw"][0]
    assert seen[0]["facts"] == "ConfigError: process 1 of this run has clips 8, not clips 7: do better"
    assert seen[1]["facts"] == "PeerError: "

    # ---- an error of one is told once; a process that is gone is an error in one line ----
    failed = [json.loads((folder / f"failed{rank}.json").read_text()) for rank in (0, 1)]
    assert failed[1] == {"told": "DatasetError: one.wav is bad"}
    assert failed[0]["told"] == "PeerError: "
    assert "gone" in failed[0]["gone"]
    assert "same command" in failed[0]["gone"]


def test_a_signal_to_one_stops_all_and_any_number_goes_on(
    voices: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "-c", str(voices.config_path), "-m", "run", "-d", "cpu", "--no_ema"]
    log, port = Path("logs/run/train.log"), free_port()
    running = [
        start(rank, port, "-m", "svc", *command, "--eval_interval", "1000", stdout=subprocess.PIPE,
              stderr=subprocess.PIPE)
        for rank in (0, 1)
    ]  # fmt: skip
    until = time.monotonic() + 120
    while not (log.is_file() and "step 4:" in log.read_text()):
        assert time.monotonic() < until
        assert all(process.poll() is None for process in running), running[0].communicate()
        time.sleep(0.05)
    running[1].send_signal(signal.SIGTERM)
    told = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [143, 0], told
    assert "ended by SIGTERM at step" in told[0][0]
    assert told[1][0] == ""
    assert "Traceback" not in told[0][1] + told[1][1]

    saved = sorted(Path("logs/run").glob("G_*.pth"))
    assert len(saved) == 1
    step = int(saved[0].stem[2:])
    extra = load_checkpoint(saved[0])["svc"]
    # Eight clips, two for each of two processes: an epoch is two steps of two batches.
    assert (extra["step"], extra["epoch"], extra["batch"]) == (step, (step - 1) // 2 + 1, 2 + (step - 1) % 2 * 2)

    # ---- one process: what is left of the epoch is a batch for each step ----
    assert main([*command, "--max_steps", str(step + 3), "--log_interval", "1"]) == 0
    content = load_checkpoint(Path(f"logs/run/G_{step + 3}.pth"))
    epoch, batch = divmod(4 * (extra["epoch"] - 1) + extra["batch"] + 3 - 1, 4)
    assert (content["svc"]["epoch"], content["svc"]["batch"]) == (epoch + 1, batch + 1)

    # ---- two again, started by the command itself ----
    capsys.readouterr()
    os.environ.update(with_us())
    assert main([*command, "--max_steps", str(step + 4), "--gpus", "2"]) == 0
    content = load_checkpoint(Path(f"logs/run/G_{step + 4}.pth"))
    done = content["svc"]
    before = 4 * epoch + batch + 1
    assert 4 * (done["epoch"] - 1) + done["batch"] == min(before + 2, 4 * -(-(before + 1) // 4))
    names = "".join(Path("logs/run/train.log").read_text().splitlines()[-1:])
    assert "ended by max_steps" in names
