from __future__ import annotations

import dataclasses
import json
import os
import re
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
from svc.cli.main import build_parser, main
from svc.config.vocoder_training import VocoderTrainConfig
from svc.dataset.features import FeatureCache, FeaturePaths, FeatureSettings
from svc.vocoder.nsf_hifigan import load_vocoder

RATE, HOP = 8000, 64
CONFIG: dict[str, Any] = {
    "resblock": "2", "upsample_rates": [8, 4, 2], "upsample_kernel_sizes": [16, 8, 4],
    "upsample_initial_channel": 16, "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]], "num_mels": 20, "n_fft": 256, "win_size": 256,
    "hop_size": HOP, "sampling_rate": RATE, "fmin": 40, "fmax": 3800,
    "train": {
        "segment_size": 16 * HOP, "batch_size": 2, "log_interval": 100, "eval_interval": 100,
        "seed": 7, "discriminator_width": 0.03,
    },
}  # fmt: skip
COMMAND = ["train-vocoder", "-c", "vocoder.json", "-d", "cpu"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a config and three clips of one voice at their default place."""
    monkeypatch.chdir(tmp_path)
    Path("vocoder.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    cache = FeatureCache(FeatureSettings(speech_encoder="any", sampling_rate=RATE, hop_length=HOP))
    rng = np.random.default_rng(0)
    for number in range(3):
        path = Path(f"dataset/44k/björk & 歌/take {number}.wav")
        write_audio(path, 0.1 * rng.standard_normal(40 * HOP).astype(np.float32), RATE)
        cache.save(path, f0=torch.tensor([[220.0] * 40, [1.0] * 40]))
    return tmp_path


def sings(path: str) -> None:
    wav = load_vocoder(path)(torch.full((1, 20, 12), -3.0), torch.full((1, 12), 220.0))
    assert wav.shape == (1, 12 * HOP)
    assert bool(torch.isfinite(wav).all())


def test_two_steps_and_a_vocoder_to_sing_with(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*COMMAND, "--max_steps", "2"]) == 0
    shown = capsys.readouterr()
    assert "ended by max_steps at step 2" in shown.out
    assert "newest checkpoint: logs/vocoder/V_2.pth" in shown.out
    assert "vocoder to sing with: logs/vocoder/model" in shown.out
    assert "best on held-out clips: logs/vocoder/best/model (step 2, mel " in shown.out
    assert "train-vocoder: 2/2" in shown.err
    names = {path.name for path in Path("logs/vocoder").iterdir()}
    assert {"V_2.pth", "D_2.pth", "model", "config.json", "best", "train.log", "eval"} <= names
    for path in ("logs/vocoder", "logs/vocoder/model", "logs/vocoder/best/model"):
        sings(path)
    # The same command without a config goes on with the run's own.
    assert main(["train-vocoder", "-d", "cpu", "--max_steps", "3"]) == 0
    assert "1 steps in" in capsys.readouterr().out


def test_overrides_reach_the_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = sorted(Path("dataset/44k").glob("*/*.wav"))
    Path("list.txt").write_text("".join(f"{path}\n" for path in clips), encoding="utf-8")
    Path("val.txt").write_text(f"{clips[0]}\n", encoding="utf-8")
    code = main(
        [*COMMAND, "--dataset", "list.txt", "--validation", "val.txt", "-o", "else/where",
         "--epochs", "2", "--seed", "5", "--batch-size", "1", "--lr", "0.001", "--segment-frames",
         "10", "--keep", "1", "--precision", "bf16", "--eval-interval", "4"]
    )  # fmt: skip
    assert code == 0
    # 2 clips of 40 frames: 8 crops of 10 an epoch.
    assert "ended by epochs at step 16, epoch 2" in capsys.readouterr().out
    assert [path.name for path in Path("else/where").glob("V_*.pth")] == ["V_16.pth"]
    content = load_checkpoint("else/where/V_16.pth")
    train = content["svc"]["config"]["train"]
    assert (train["seed"], train["batch_size"], train["segment_size"]) == (5, 1, 10 * HOP)
    assert (train["fp16_run"], train["half_type"]) == (True, "bf16")
    assert content["learning_rate"] == 0.001
    assert Path("else/where/config.json").read_bytes() == Path("vocoder.json").read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_exports_and_exits(folder: Path, number: signal.Signals, code: int) -> None:
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "svc", *COMMAND, "--log-interval", "1"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        log = folder / "logs/vocoder/train.log"
        deadline = time.monotonic() + 90
        while not (log.is_file() and "step 2:" in log.read_text(encoding="utf-8")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert f"ended by {number.name}" in out
    assert "Traceback" not in err
    newest = out.split("newest checkpoint: ")[1].splitlines()[0]
    content = load_checkpoint(newest)
    assert content["svc"]["step"] >= 2
    exported = load_checkpoint("logs/vocoder/model")["generator"]
    assert all(torch.equal(exported[name], content["model"][name]) for name in exported)
    sings("logs/vocoder/model")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-c", "nowhere.json"], "nowhere.json"),
        (["--dataset", "nowhere"], "nowhere"),
        (["--base", "pretrain/nsf_hifigan"], "the vocoder's file pretrain/nsf_hifigan"),
        (["--resume", "logs/vocoder/V_5.pth"], "--resume logs/vocoder/V_5.pth is not there"),
        (["--validation", "val.txt"], "val.txt is not there"),
        (["--segment_frames", "2"], "at least 4 frames"),
        (["--lr", "0"], "--lr is 0.0"),
        (["-d", "cuda:7"], "cuda:7"),
        (["--precision", "fp16"], "needs a CUDA device"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([*COMMAND, "--max-steps", "1", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("svc: error: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not Path("logs").exists()


def test_clips_without_f0_ask_for_preprocess(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in Path("dataset/44k").glob("*/*.wav"):
        FeaturePaths.of(path).f0.unlink()
    assert main(COMMAND) == 2
    shown = capsys.readouterr().err
    assert "feature files of dataset/44k are missing" in shown
    assert "run svc preprocess --stage features" in shown
    assert shown.count("\n") == 1


def test_the_default_config_is_the_communitys(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """44.1 kHz: these clips have another rate, which is said before anything is built."""
    assert main(["train-vocoder", "-d", "cpu"]) == 2
    assert "has 8000 Hz and the config says 44100 Hz" in capsys.readouterr().err


def test_the_flags_and_files_of_the_page_exist() -> None:
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs/diffusion.md").read_text(encoding="utf-8")
    section = " ".join(page.split("## Training a vocoder\n")[1].split("\n## ")[0].split())
    actions = build_parser("train-vocoder")._subparsers._group_actions  # type: ignore[union-attr]
    parser = actions[0].choices["train-vocoder"]  # type: ignore[index]
    flags = {flag for action in parser._actions for flag in action.option_strings}
    named = set(re.findall(r"`(--?\w+)", section)) - {"--use_diff"}
    assert named
    assert named <= flags
    for name in re.findall(r"`(template_\w+\.json)`", section):
        assert (root / "configs" / name).is_file()
    keys = {item.name for item in dataclasses.fields(VocoderTrainConfig)}
    listed = section.split("names of a voice's (")[1].split(" ...")[0]
    assert set(re.findall(r"`(\w+)`", listed)) <= keys
