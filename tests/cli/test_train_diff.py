"""`svc preprocess --use_diff` and `svc train-diff` as commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from svc.audio.io import write_audio
from svc.checkpoint import load_checkpoint
from svc.cli.main import main
from svc.demo.dataset import sing_clip
from svc.demo.singer import DEMO_LOW, SAMPLING_RATE
from svc.diffusion import load_diffusion

VOCODER = {
    "resblock": "1", "upsample_rates": [8, 8, 2, 2, 2], "upsample_kernel_sizes": [16, 16, 4, 4, 4],
    "upsample_initial_channel": 32, "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3, 5]], "num_mels": 16, "n_fft": 2048, "win_size": 2048,
    "hop_size": 512, "sampling_rate": 44100, "fmin": 40, "fmax": 16000,
}  # fmt: skip
VOICE = "björk & 歌"


class FakeEncoder:
    """50 frames a second, 384 wide."""

    name, dim, device = "whisper-ppg-tiny", 384, torch.device("cpu")

    def encode(self, wav16k: torch.Tensor) -> torch.Tensor:
        draws = torch.Generator().manual_seed(len(wav16k))
        return torch.randn(1, 384, max(1, len(wav16k) // 320), generator=draws)

    def encode_batch(self, wavs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [self.encode(wav) for wav in wavs]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder after `svc preprocess --use_diff` on four clips of the synthetic singer."""
    place = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr("svc.dataset.extraction.build_speech_encoder", lambda *_, **__: FakeEncoder())
        Path("voc").mkdir()
        Path("voc/config.json").write_text(json.dumps(VOCODER))
        for index in range(4):
            wav = sing_clip(DEMO_LOW, index, 2.0, seed=0).wav
            write_audio(Path(f"dataset/44k/{VOICE}/take {index}.wav"), wav, SAMPLING_RATE)
        command = ["preprocess", "--speech_encoder", "whisper-ppg-tiny", "--f0_predictor", "dio"]
        assert main([*command, "--use_diff", "--vocoder", "voc", "-d", "cpu"]) == 0
        path = Path("configs/diffusion.yaml")
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        raw["model"] |= {"n_layers": 2, "n_chans": 16, "n_hidden": 12, "timesteps": 40}
        raw["data"]["duration"] = 0.5
        path.write_text(yaml.safe_dump(raw, allow_unicode=True), encoding="utf-8")
    return place


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of its own; the clips are those of all tests."""
    for name in ("configs", "filelists", "dataset", "voc"):
        (tmp_path / name).symlink_to(prepared / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}


def test_from_clips_to_a_model_that_sings(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The template's values are the original's, but for save_opt."""
    raw = yaml.safe_load(Path("configs/diffusion.yaml").read_text(encoding="utf-8"))
    assert (raw["train"]["save_opt"], raw["train"]["batch_size"]) == (True, 48)
    assert raw["vocoder"]["ckpt"] == "voc"
    assert main(["train-diff", "-d", "cpu", "--max_steps", "2", "--val_samples", "1"]) == 0
    shown = capsys.readouterr()
    assert "2 steps in" in shown.out
    assert "ended by max_steps at step 2, epoch" in shown.out
    assert "newest model: logs/44k/diffusion/model_2.pt" in shown.out
    assert "best on held-out clips: logs/44k/diffusion/best/model_2.pt" in shown.out
    assert "train-diff: 2/2" in shown.err  # a plain line where there is no terminal
    place = Path("logs/44k/diffusion")
    assert {"model_2.pt", "best", "config.yaml", "log_info.txt", "logs", "metrics.jsonl"} == {
        path.name for path in place.iterdir()
    }
    net, config = load_diffusion(place / "model_2.pt")
    assert (net.global_step, net.n_mels, config.spk) == (2, 16, {VOICE: 0})
    assert net.infer(torch.zeros(1, 30, 384), torch.full((1, 30), 220.0), torch.ones(1, 30)).shape == (
        1, 16, 30,
    )  # fmt: skip
    # A second call goes on; the original's flag names the config.
    assert (
        main(["train-diff", "-c", "configs/diffusion.yaml", "-d", "cpu", "--max-steps", "3"]) == 0
    )
    assert "1 steps in" in capsys.readouterr().out


def test_flags_reach_the_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(
        ["train-diff", "-d", "cpu", "--expdir", "else where", "--epochs", "3", "--seed", "5",
         "--batch_size", "1", "--learning-rate", "0.002", "--eval_interval", "2", "--keep", "0",
         "--log_interval", "1", "--val_samples", "0", "--num_workers", "0", "--threads", "1"]
    )  # fmt: skip
    assert code == 0
    assert "ended by epochs at step 6, epoch 3" in capsys.readouterr().out
    saved = {path.name for path in Path("else where").glob("*.pt")}
    assert saved == {"model_2.pt", "model_4.pt", "model_6.pt"}
    extra = load_checkpoint("else where/model_6.pt")["svc"]
    train = extra["config"]["train"]
    assert (train["batch_size"], train["lr"], extra["order"]["seed"]) == (1, 0.002, 5)
    assert "step 5: loss" in Path("else where/log_info.txt").read_text(encoding="utf-8")
    assert main(["train-diff", "-d", "cpu", "--expdir", "else where", "--resume", "never",
                 "--max_minutes", "0.00001", "--val_samples", "0"]) == 0  # fmt: skip
    assert "ended by max_minutes" in capsys.readouterr().out


def test_a_signal_saves_and_exits(folder: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "svc", "train-diff", "-d", "cpu", "--log_interval", "1"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        log = folder / "logs/44k/diffusion/log_info.txt"
        deadline = time.monotonic() + 120
        while not (log.is_file() and "step 2:" in log.read_text(encoding="utf-8")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "ended by SIGINT" in out
    assert "Traceback" not in err
    newest = Path(out.split("newest model: ")[1].splitlines()[0])
    step = load_checkpoint(newest)["global_step"]
    assert step >= 2
    assert newest.name == f"model_{step}.pt"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-c", "nowhere.yaml"], "nowhere.yaml is not there"),
        (["--resume", "logs/model_5.pt"], "--resume logs/model_5.pt is not there"),
        (["--batch_size", "0"], "--batch_size is 0"),
        (["-d", "cuda:7"], "cuda:7"),
        (["--keep", "-1"], "--keep is -1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["train-diff", "-d", "cpu", "--max_steps", "1", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("svc: error: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not Path("logs").exists()


def test_a_config_of_the_original_needs_its_features(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Preprocessed without --use_diff, and with nothing packed: the line says what to run."""
    place = Path("dataset/44k", VOICE)
    packs = Path("dataset/44k").glob("*.pack")
    files = {path: path.read_bytes() for path in (*place.glob("*.mel.npy"), *packs)}
    try:
        for path in files:
            path.unlink()
        assert main(["train-diff", "-d", "cpu", "--max_steps", "1"]) == 2
    finally:
        for path, content in files.items():
            path.write_bytes(content)
    err = capsys.readouterr().err
    assert "2 feature files of filelists/train.txt are missing" in err
    assert "run svc preprocess --stage features --use_diff" in err


def test_an_unknown_key_is_named(folder: Path, caplog: Any) -> None:
    raw = yaml.safe_load(Path("configs/diffusion.yaml").read_text(encoding="utf-8"))
    raw["train"]["batchsize"] = 3
    Path("mine.yaml").write_text(yaml.safe_dump(raw, allow_unicode=True), encoding="utf-8")
    assert main(["train-diff", "-c", "mine.yaml", "-d", "cpu", "--max_steps", "1",
                 "--val_samples", "0"]) == 0  # fmt: skip
    assert '"train.batchsize" (did you mean "batch_size"?)' in caplog.text
