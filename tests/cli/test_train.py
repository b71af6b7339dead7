from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.audio.io import write_audio
from svc.checkpoint import load_checkpoint
from svc.cli.main import main
from svc.config import load_config
from svc.dataset.features import FeatureCache
from svc.training.scores import Score

RATE, HOP = 8000, 64
CONFIG: dict[str, Any] = {
    "train": {
        "log_interval": 100, "eval_interval": 100, "seed": 7, "epochs": 100, "betas": [0.8, 0.99],
        "learning_rate": 2e-4, "eps": 1e-9, "batch_size": 2, "fp16_run": False,
        "half_type": "fp16", "lr_decay": 0.999875, "segment_size": 20 * HOP, "warmup_epochs": 0,
        "c_mel": 45, "c_kl": 1.0, "keep_ckpts": 3,
    },
    "data": {
        "training_files": "filelists/train.txt", "validation_files": "filelists/val.txt",
        "sampling_rate": RATE, "filter_length": 256, "hop_length": HOP, "win_length": 256,
        "n_mel_channels": 20, "mel_fmin": 0.0, "mel_fmax": None,
        "unit_interpolate_mode": "nearest",
    },
    "model": {
        "inter_channels": 8, "hidden_channels": 8, "filter_channels": 16, "n_heads": 2,
        "n_layers": 1, "kernel_size": 3, "p_dropout": 0.1, "resblock": "1",
        "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3, 5]],
        "upsample_rates": [8, 4, 2], "upsample_initial_channel": 16,
        "upsample_kernel_sizes": [16, 8, 4], "n_flow_layer": 1, "gin_channels": 6, "ssl_dim": 384,
        "n_speakers": 1, "speech_encoder": "whisper-ppg-tiny", "sampling_rate": RATE,
        "discriminator_width": 0.03,
    },
    "spk": {"björk & 歌": 0},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a config at its default place and three clips of one voice."""
    monkeypatch.chdir(tmp_path)
    for name in ("configs", "filelists"):
        Path(name).mkdir()
    Path("configs/config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    cache = FeatureCache.from_config(load_config("configs/config.json"))
    rng = np.random.default_rng(0)
    voice = Path("dataset/44k/björk & 歌")
    paths = [voice / f"take {number}.wav" for number in range(3)]
    for path in paths:
        write_audio(path, 0.1 * rng.standard_normal(40 * HOP).astype(np.float32), RATE)
        cache.save(
            path,
            units=torch.from_numpy(rng.standard_normal((384, 16)).astype(np.float32)),
            f0=torch.tensor([[220.0] * 40, [1.0] * 40]),
        )
    lines = [f"{path}\n" for path in paths]
    Path("filelists/train.txt").write_text("".join(lines[:2]), encoding="utf-8")
    Path("filelists/val.txt").write_text(lines[2], encoding="utf-8")
    return tmp_path


def svc(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "svc", "train", "-m", "voice", "-d", "cpu", *arguments]


@pytest.fixture
def environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}


def test_two_steps(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "-m", "voice", "-d", "cpu", "--max_steps", "2"]) == 0
    shown = capsys.readouterr()
    assert "ended by max_steps at step 2" in shown.out
    assert "newest checkpoint: logs/voice/G_2.pth" in shown.out
    assert "train: 2/2" in shown.err  # plain lines where there is no terminal
    names = {path.name for path in (folder / "logs/voice").iterdir()}
    assert {"G_2.pth", "D_2.pth", "config.json", "train.log", "eval"} <= names
    assert load_checkpoint("logs/voice/G_2.pth")["svc"]["speakers"] == {"björk & 歌": 0}


def test_a_run_that_learns_no_more_ends_well(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    distances = iter([2.0, 1.0, 3.0, 4.0])
    monkeypatch.setattr(Score, "of", lambda clips: Score(next(distances), 1.0, None))
    flags = ["--eval_interval", "1", "--patience", "2", "--no_ema", "--max_steps", "9"]
    assert main(["train", "-m", "voice", "-d", "cpu", *flags]) == 0
    shown = capsys.readouterr().out
    assert "ended by patience at step 4" in shown
    assert "best on held-out clips: logs/voice/G_best.pth (step 2, mel 1)" in shown
    assert "ema" not in load_checkpoint("logs/voice/G_4.pth")["svc"]
    assert load_checkpoint("logs/voice/G_best.pth")["svc"]["step"] == 2
    assert main(["train", "-m", "voice", "-d", "cpu", "--patience", "0"]) == 2
    assert "--patience is 0, and must be 1 or more" in capsys.readouterr().err


def test_a_signal_saves_and_exits(folder: Path, environment: dict[str, str]) -> None:
    with subprocess.Popen(
        svc("--log-interval", "1"), env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        log = folder / "logs/voice/train.log"
        deadline = time.monotonic() + 90
        while not (log.is_file() and "step 2:" in log.read_text(encoding="utf-8")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "ended by SIGTERM" in out
    assert "Traceback" not in err
    newest = out.split("newest checkpoint: ")[1].strip()
    step = load_checkpoint(newest)["svc"]["step"]
    assert step >= 2
    assert Path(newest).name == f"G_{step}.pth"


KILLED_IN_A_SAVE = """
import itertools, os, signal, sys, torch
from svc.cli.main import main

save, calls = torch.save, itertools.count(1)

def die_halfway(content, stream):
    # D_2, G_2, D_4, then G_4; G_best.pth, which has no optimizer state, does not count.
    if content["optimizer"]["state"] and next(calls) == 4:
        stream.write(b"half a file")
        stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(content, stream)

torch.save = die_halfway
main(sys.argv[1:])
"""


def test_a_kill_inside_a_save_costs_only_the_steps_since_the_last_one(
    folder: Path, environment: dict[str, str]
) -> None:
    """The hardest moment: D is written, G half."""
    arguments = ["train", "-m", "voice", "-d", "cpu", "--eval_interval", "2", "--max_steps", "5"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED_IN_A_SAVE, *arguments],
        env=environment, capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    kept = (folder / "logs/voice/G_2.pth").read_bytes()
    assert not (folder / "logs/voice/G_4.pth").exists()
    assert (folder / "logs/voice/D_4.pth").exists()
    assert list((folder / "logs/voice").glob(".tmp-*.pth"))

    def train(*more: str) -> None:
        # In processes of their own with the thread count of the killed one: sums are split over
        # the threads, so their number is part of what bit-equal means.
        command = [sys.executable, "-m", "svc", *arguments, *more]
        subprocess.run(command, env=environment, capture_output=True, check=True, timeout=120)

    train()
    assert not list((folder / "logs/voice").glob(".tmp-*"))
    assert (folder / "logs/voice/G_2.pth").read_bytes() == kept
    train("--run_root", "straight")
    for kind in "GD":
        one, two = (
            load_checkpoint(Path(root, "voice", f"{kind}_5.pth"))["model"]
            for root in ("logs", "straight")
        )
        assert all(torch.equal(one[name], two[name]) for name in two)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-c", "nowhere.json"], "nowhere.json"),
        (["--resume", "logs/voice/G_5.pth"], "--resume logs/voice/G_5.pth is not there"),
        (["--batch_size", "0"], "--batch_size is 0"),
        (["-d", "cuda:7"], "cuda:7"),
        (["-m", "a/b"], "is not a name"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["train", "-m", "voice", "-d", "cpu", "--max-steps", "1", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("svc: error: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not Path("logs").exists()


def test_overrides_reach_the_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(
        ["train", "-m", "v", "-c", "configs/config.json", "-d", "cpu", "--epochs", "3", "--seed",
         "5", "--batch-size", "1", "--learning_rate", "0.001", "--eval-interval", "4",
         "--run-root", "elsewhere"]
    )  # fmt: skip
    assert code == 0
    assert "ended by epochs at step 6, epoch 3" in capsys.readouterr().out
    content = load_checkpoint("elsewhere/v/G_6.pth")
    train = content["svc"]["config"]["train"]
    assert (train["seed"], train["batch_size"], train["eval_interval"]) == (5, 1, 4)
    assert content["learning_rate"] == 0.001
    assert Path("elsewhere/v/G_4.pth").is_file()
    # The copy in the run folder is the file itself, without what the command line changed.
    assert Path("elsewhere/v/config.json").read_bytes() == Path("configs/config.json").read_bytes()


def test_model_is_required(folder: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "--max_steps", "1"])
    assert stop.value.code == 2
