"""Several processes train one net: two of them on the CPU, by gloo, as in a run on two GPUs."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from svc.checkpoint import load_checkpoint
from svc.cli import main as cli
from svc.cli.main import main
from svc.cli.progress import progress_bar
from svc.dataset.features import FeatureCache
from svc.errors import ConfigError, DeviceError, SvcError
from svc.training import launching
from svc.training.buckets import flatten_gradients, into_buckets, spread_gradients
from svc.training.launching import count_of, exit_code, is_follower, launch, place, run_name
from svc.training.ranks import Ranks, shares_of

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("rank_program.py")
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


# ---- two processes -------------------------------------------------------------------------------


def start(rank: int, port: int, *command: str, **options: Any) -> subprocess.Popen[str]:
    """Start one of two processes in the working directory, as torchrun does."""
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if sys.platform == "linux":
        told["GLOO_SOCKET_IFNAME"] = "lo"
    told |= dict(zip(VARIABLES, (str(rank), "2", str(rank), "2"), strict=True))
    return subprocess.Popen([sys.executable, *command], env=with_us(**told), text=True, **options)


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
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = program().learn(Ranks.single(), 4)
    torch.set_num_threads(threads)
    assert [process.wait(300) for process in running] == [0, 0]
    seen = [json.loads((folder / f"seen{rank}.json").read_text()) for rank in (0, 1)]

    # ---- disjoint clips, all of them in every epoch, together those of one process ----
    for first in (0, 2, 4):
        parts = [set(found["seen"][step]) for found in seen for step in (first, first + 1)]
        assert sum(map(len, parts)) == len(set().union(*parts))
        assert set().union(*parts) == clips
    together = zip(seen[0]["seen"], seen[1]["seen"], strict=True)
    assert [set(one + two) for one, two in together] == [set(names) for names in alone["seen"]]
    assert [len(names) for names in seen[1]["seen"]] == [2, 0] * 3

    # ---- equal weights, bit for bit, and those of one process ----
    for step, expected in alone["weights"].items():
        mine, other = (np.load(folder / f"weights{rank}_{step}.npz") for rank in (0, 1))
        for name, values in expected.items():
            assert np.array_equal(mine[name], other[name]), name
            # float64; a step moves a weight by 2e-4. Keys' biases have no gradient but rounding.
            close = 1e-8 if name.endswith("conv_k.bias") else 1e-12
            assert np.abs(mine[name] - values).max() < close, name
    early, late = alone["weights"][3], alone["weights"][6]
    assert np.median([np.abs(late[name] - early[name]).max() for name in early]) > 1e-5

    # ---- a clip that one cannot read ends all at the same step, and is told once ----
    assert len(seen[0]["read"]) == len(seen[1]["read"])
    assert not any("/2.wav" in name for found in seen for name in found["read"])
    assert sorted(found["unread"] for found in seen) == [
        "DatasetError: two.wav is bad",
        "PeerError: ",
    ]

    # ---- what they said to each other ----
    for rank, found in enumerate(seen):
        assert found["exchange"] == ["häl", "hällo"]
        assert found["table"] == [[0, 2.5, 2**53], [1, 2.5, 2**53 - 1]]
        assert found["agree"] == [True, False, True]
        assert found["any"] == [True, False, 1.0]
        assert found["means"] == [[1.5, 3.0, 4.5], [4.0] * 4, None]
        assert found["in place"]
        one, two, again = found["draw"]
        assert one == again
        assert (one == two) == (rank == 0)
    assert seen[0]["draw"][0] != seen[1]["draw"][0]
    assert seen[0]["facts"].endswith("process 1 of this run has clips 8, not clips 7: do better")
    assert seen[1]["facts"] == "PeerError: "

    # ---- an error of one is told once; a process that is gone is an error in one line ----
    failed = [json.loads((folder / f"failed{rank}.json").read_text()) for rank in (0, 1)]
    assert failed[1] == {"told": "DatasetError: one.wav is bad"}
    assert failed[0]["told"] == "PeerError: "
    assert "gone" in failed[0]["gone"]
    assert "same command" in failed[0]["gone"]
    assert failed[0]["threads"] == []


@pytest.mark.usefixtures("no_pictures")
def test_a_signal_to_one_stops_all_and_any_number_goes_on(
    voices: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", "-c", str(voices.config_path), "-m", "run", "-d", "cpu", "--threads", "1"]
    log, port = Path("logs/run/train.log"), free_port()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    flags = ["-m", "svc", *command, "--eval_interval", "1000"]
    running = [start(rank, port, *flags, **pipes) for rank in (0, 1)]
    until = time.monotonic() + 300
    while not (log.is_file() and "step 4:" in log.read_text()):
        assert time.monotonic() < until
        assert all(process.poll() is None for process in running), running[0].communicate()
        time.sleep(0.05)
    running[1].send_signal(signal.SIGTERM)
    told = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [143, 0], told
    assert "ended by SIGTERM at step" in told[0][0]
    assert told[1] == ("", "")
    assert "Traceback" not in told[0][1]

    # Eight clips, two for each of two processes: an epoch has four batches, which are two steps.
    (step,) = saved_steps()
    assert step >= 4
    assert batches_done(step) == 2 * step

    # ---- one process: what is left of the epoch, a batch for each step ----
    assert main([*command, "--max_steps", str(step + 3)]) == 0
    assert batches_done(step + 3) == 2 * step + 3

    # ---- two again, started by the command itself; the epoch has one batch left, a clip for each ----
    capsys.readouterr()
    for name, value in with_us().items():
        monkeypatch.setenv(name, value)
    assert main([*command, "--max_steps", str(step + 4), "--gpus", "2"]) == 0
    assert batches_done(step + 4) == 2 * step + 3 + (2 if step % 2 else 1)
    assert "ended by max_steps" in log.read_text().splitlines()[-1]


def saved_steps() -> list[int]:
    return [int(path.stem[2:]) for path in Path("logs/run").glob("G_*.pth")]


def batches_done(step: int) -> int:
    """Batches of all epochs and processes that a checkpoint says are done."""
    entry = load_checkpoint(Path(f"logs/run/G_{step}.pth"))["svc"]
    assert entry["step"] == step
    assert 1 <= entry["batch"] <= 4
    return 4 * (int(entry["epoch"]) - 1) + int(entry["batch"])


VOCODER: dict[str, Any] = {
    "resblock": "2", "upsample_rates": [8, 4, 2], "upsample_kernel_sizes": [16, 8, 4],
    "upsample_initial_channel": 32, "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]], "num_mels": 20, "n_fft": 256, "win_size": 256,
    "hop_size": 64, "sampling_rate": 8000, "fmin": 40, "fmax": 3800, "num_workers": 4,
    "train": {
        "segment_size": 1024, "batch_size": 2, "learning_rate": 2e-3, "log_interval": 4,
        "eval_interval": 100, "seed": 7, "lr_decay": 0.9, "discriminator_width": 0.03,
    },
}  # fmt: skip


@pytest.mark.usefixtures("no_pictures")
def test_the_other_trainers_take_several_processes(
    voices: Any, make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in with_us().items():
        monkeypatch.setenv(name, value)
    Path("vocoder.json").write_text(json.dumps(VOCODER))
    several = ["-d", "cpu", "--threads", "1", "--gpus", "2", "--max_steps"]
    files = ["-c", "vocoder.json", "--dataset", str(voices.root), "-o", "vocoder_run"]
    assert main(["train-vocoder", *files, *several, "1"]) == 0
    entry = load_checkpoint(Path("vocoder_run/V_1.pth"))["svc"]
    assert (entry["step"], entry["epoch"], entry["batch"]) == (1, 1, 2)
    make_run()  # six clips to learn from: an epoch of three batches is two steps
    assert main(["train-diff", "-c", "diffusion.yaml", *several, "3"]) == 0
    entry = load_checkpoint(Path("run/model_3.pt"))["svc"]
    assert (entry["step"], entry["epoch"], entry["batch"]) == (3, 2, 2)


# ---- who is who ----------------------------------------------------------------------------------


def test_place() -> None:
    def of(*values: str) -> tuple[int, int, int, int]:
        return place(dict(zip(VARIABLES, values, strict=False)))

    assert of() == of("0", "1", "0", "1") == of("0", "1") == (0, 1, 0, 1)
    assert of("5", "8", "1", "4") == (5, 8, 1, 4)
    assert of("5", "8", "5") == (5, 8, 5, 8)
    assert place({"WORLD_SIZE": "4"}) == (0, 1, 0, 1)  # of a job system, without a launcher
    for wrong in (("1", "2"), ("2", "2", "0", "2"), ("x", "2", "0", "2"), ("1", "2", "3", "2")):
        with pytest.raises(ConfigError, match=r"make no sense.*WORLD_SIZE=2"):
            of(*wrong)


def test_is_follower() -> None:
    assert not is_follower({})
    assert not is_follower({"RANK": "0", "WORLD_SIZE": "2"})
    assert not is_follower({"RANK": "0", "WORLD_SIZE": "1"})
    assert is_follower({"RANK": "1", "WORLD_SIZE": "2"})


def test_a_device_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [Ranks.single().device(name) for name in (None, "cuda:1", "mps")] == [
        None,
        "cuda:1",
        "mps",
    ]
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    ranks = Ranks(5, 8, 1, 4)
    assert [ranks.device(name) for name in (None, "auto", "CUDA", "cpu")] == ["cuda:1"] * 3 + [
        "cpu"
    ]
    assert chosen == [1, 1, 1]
    with pytest.raises(DeviceError, match=r'"cuda:0" is one.*8 processes'):
        ranks.device("cuda:0")
    with pytest.raises(DeviceError, match=r"4 processes.*has 2 CUDA devices"):
        Ranks(2, 8, 2, 4).device(None)


def test_how_many_processes() -> None:
    assert count_of("all", None, 4) == count_of("4", "cuda", 4) == 4
    assert count_of("all", None, 0) == count_of("all", "cpu", 4) == count_of("1", None, 0) == 1
    assert count_of("3", "cpu", 0) == count_of(3, "CPU", 0) == 3
    for asked in ("0", "-1", "two", "1.5", ""):
        with pytest.raises(ConfigError, match="--gpus"):
            count_of(asked, None, 4)
    with pytest.raises(DeviceError, match="has 0 CUDA devices"):
        count_of("2", None, 0)
    with pytest.raises(DeviceError, match=r"--device cuda:1 is one"):
        count_of("2", "cuda:1", 2)


def test_a_launched_process_launches_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(VARIABLES, ("0", "2", "0", "2"), strict=True):
        monkeypatch.setenv(name, value)
    assert launch("2", None, []) is None
    assert launch("all", None, []) is None
    with pytest.raises(ConfigError, match="started 2 processes here"):
        launch("3", None, [])


def test_the_same_command_has_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By which it finds again what it has begun; the port is another one each time."""
    name = run_name(["infer", "-n", "a"])
    assert run_name(("infer", "-n", "a")) == name != run_name(["infer", "-n", "b"])
    told = [launching._variables(1, 2, port, name) for port in (1, 2)]
    assert [one["TORCHELASTIC_RUN_ID"] for one in told] == [name, name]
    monkeypatch.chdir(tmp_path)
    assert run_name(["infer", "-n", "a"]) != name


def test_what_a_run_ends_with() -> None:
    term, kill = -signal.SIGTERM, -signal.SIGKILL
    assert exit_code({}, None) == 0
    assert exit_code({0: 2, 1: term}, None) == 2  # rank 0 told an error, the other was ended
    assert exit_code({0: term, 1: 2}, None) == 2
    with pytest.raises(SvcError, match="process 1 ended with status 1"):
        exit_code({0: term, 1: 1}, None)
    assert exit_code({0: 143}, signal.SIGTERM) == 143
    assert exit_code({0: 130, 1: term}, signal.SIGINT) == 130
    assert exit_code({0: kill, 1: kill}, signal.SIGINT) == 130  # a second Ctrl-C
    assert exit_code({0: term}, signal.SIGTERM) == 143  # before it could save
    with pytest.raises(SvcError, match=r"process 1 was ended by SIGKILL.*out of memory"):
        exit_code({0: 2, 1: kill}, None)


def test_no_gpu_is_one_line(
    voices: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for command in ("train", "train-vocoder", "train-diff", "preprocess"):
        model = ["-m", "run"] if command == "train" else []
        assert main([command, *model, "--gpus", "2"]) == 2
        assert capsys.readouterr().err.startswith(
            "svc: error: --gpus 2, but this machine has 1 CUDA"
        )


@pytest.mark.parametrize("rank", ["0", "1"])
def test_one_process_speaks(
    rank: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    speaks = rank == "0"
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(cli, "_SECONDS_TO_TELL", 0.0)

    def end(args: Any) -> int:
        with progress_bar("work") as progress:
            progress(1, 1, "done")
        print("a result")
        return 143

    def fail(args: Any) -> int:
        raise ConfigError("a wrong flag")

    monkeypatch.setattr("svc.cli.demo.run", end)
    assert main(["demo", "folder"]) == (143 if speaks else 0)
    told = capsys.readouterr()
    assert ("a result" in told.out, "work: 1/1" in told.err) == (speaks, speaks)
    monkeypatch.setattr("svc.cli.demo.run", fail)
    assert main(["demo", "folder"]) == 2
    assert capsys.readouterr().err == ("svc: error: a wrong flag\n" if speaks else "")
    # Once they have met each tells what it alone knows.
    monkeypatch.setattr("svc.training.launching.have_met", lambda: True)
    assert main(["demo", "folder"]) == 2
    assert capsys.readouterr().err == "svc: error: a wrong flag\n"


# ---- gradients and weights -----------------------------------------------------------------------


def test_gradients_go_into_buckets_and_back() -> None:
    kinds = [torch.float32] * 3 + [torch.float64] + [torch.float32] * 2
    sizes = [(3,), (2, 2), (100,), (5,), (), (4, 1)]
    parameters = [
        torch.nn.Parameter(torch.zeros(size, dtype=kind))
        for size, kind in zip(sizes, kinds, strict=True)
    ]
    for number, parameter in enumerate(parameters[:-1]):
        parameter.grad = torch.full_like(parameter, number + 1.0)
    layout = torch.randn(2, 2).T
    parameters[1].grad = layout
    expected = layout.clone()
    buckets = into_buckets(parameters, 64)
    assert sorted(id(p) for bucket in buckets for p in bucket) == sorted(map(id, parameters))
    assert [[p.numel() for p in bucket] for bucket in buckets] == [[3, 4], [100], [5], [1, 4]]
    for bucket in buckets:
        flat = flatten_gradients(bucket)
        spread_gradients(bucket, flat * 2, [p is not parameters[-1] for p in bucket])
    assert parameters[0].grad is not None
    assert parameters[0].grad.tolist() == [2] * 3
    assert parameters[1].grad is layout
    assert torch.equal(layout, 2 * expected)
    assert parameters[-1].grad is None
    spread_gradients(parameters[-1:], torch.arange(4.0), [True])
    assert parameters[-1].grad is not None
    assert parameters[-1].grad.flatten().tolist() == [0, 1, 2, 3]


def test_shares_make_means_of_ranks_the_mean_of_all() -> None:
    extents = [(2, 90), (1, 60), (0, 0)]
    shares = [shares_of(extents, rank) for rank in range(3)]
    values = torch.tensor([1.0, 3.0, 5.0])  # of the three clips
    local = [values[:2].mean(), values[2], torch.tensor(99.0)]
    means = sum(mean * share.clips for mean, share in zip(local, shares, strict=True)) / 3
    assert float(means) == pytest.approx(3.0)
    assert [share.frames for share in shares] == pytest.approx([3 * 0.6, 3 * 0.4, 0])
    assert [share.cells for share in shares] == [share.clips for share in shares]
    assert shares_of([(2, 10)] * 2, 1).clips == 1.0


def test_one_process_asks_nobody() -> None:
    ranks = Ranks.single()
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    ranks.average([parameter])
    flag = torch.tensor(True)
    with ranks:
        ranks.ready({"clips": 1}, "")
        ranks.barrier()
        assert ranks.any(flag) is flag
        assert ranks.gather("text") == ranks.exchange("text") == ["text"]
        assert (ranks.agree(True), ranks.agree(False)) == (True, False)
        assert ranks.table([1, 2]) == [[1, 2]]
    torch.manual_seed(3)
    before = torch.get_rng_state()
    ranks.reseed(1, 1)
    assert torch.equal(torch.get_rng_state(), before)
