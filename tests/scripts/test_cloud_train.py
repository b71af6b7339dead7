"""cloud_train.sh: wrong settings, and the road from recordings to a packed voice, stopped on its way."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from svc.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "cloud_train.sh"

pytestmark = [
    pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash"),
    pytest.mark.skipif(sys.platform != "linux", reason="a script for Linux machines"),
]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Settings for a machine without GPUs, on which svc is installed."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "SVC_PYTHON": sys.executable,
        "WORK": str(tmp_path / "work folder"),
        "VOICES": str(tmp_path / "recordings"),
        "DEVICE": "cpu",
        "GPUS": "1",
        "PORT": "0",
    }


def start(environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(SCRIPT), *words],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def run(environment: dict[str, str], *words: str) -> tuple[int, str]:
    process = start(environment, *words)
    told, _ = process.communicate(timeout=300)
    return process.returncode, told


def test_help_is_the_head_of_the_script() -> None:
    status, told = run({"PATH": os.environ["PATH"]}, "--help")
    assert status == 0
    assert told.startswith("Trains a voice on a rented machine")
    for setting in ("NAME", "WORK", "VOICES", "GPUS", "TRAIN_ARGS", "SVC_PYTHON", "TORCH"):
        assert f"\n  {setting} " in told or f"\n  {setting}," in told


@pytest.mark.parametrize(
    ("settings", "words", "text"),
    [
        ({}, ["begin"], "unknown word begin"),
        ({}, ["fetch", "now"], "too many"),
        ({"NAME": "a/b"}, [], "NAME=a/b"),
        ({"PORT": "http"}, [], "PORT=http"),
        ({}, [], "there is no folder"),
        ({"DEVICE": ""}, [], "torch sees no GPU"),
        ({"SVC_PYTHON": "/bin/false"}, [], "has no svc"),
    ],
)
def test_wrong_settings_are_one_line(
    environment: dict[str, str], settings: dict[str, str], words: list[str], text: str
) -> None:
    if settings.get("DEVICE") == "":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    status, told = run({**environment, **settings}, *words)
    assert status == 2
    assert text in told.splitlines()[-1]
    assert told.splitlines()[-1].startswith("error: ")


@pytest.fixture
def recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "demo", "--minutes", "0.2"]) == 0
    (tmp_path / "demo/dataset_raw").rename(tmp_path / "recordings")
    return tmp_path / "recordings"


@pytest.mark.usefixtures("recordings")
def test_a_stopped_training_goes_on_and_the_voice_is_packed(environment: dict[str, str]) -> None:
    work, port = Path(environment["WORK"]), free_port()
    environment |= {
        "NAME": "alice", "PORT": str(port), "ENCODER": "whisper-ppg-tiny", "F0": "pm",
        "TEMPLATE": "template_quick.json",
        "TRAIN_ARGS": "--threads 1 --log_interval 1 --batch_size 2",
    }  # fmt: skip

    # ---- the machine is taken away ----
    process, log = start(environment), work / "logs/alice/train.log"
    until = time.monotonic() + 300
    while not (log.is_file() and "step 2:" in log.read_text()):
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 143, told
    assert "Stopped; everything is saved" in told
    assert f"http://localhost:{port}" in told
    assert (work / "tensorboard.log").is_file()
    (step,) = (int(path.stem[2:]) for path in (work / "logs/alice").glob("G_*.pth"))
    with tarfile.open(work / "alice.tar") as archive:
        assert archive.getnames() == [
            f"logs/alice/G_{step}.pth", "logs/alice/config.json", "logs/alice/voice_range.json",
        ]  # fmt: skip

    # ---- the same command again: nothing is done twice ----
    times = {path: path.stat().st_mtime_ns for path in (work / "dataset").rglob("*.*")}
    environment |= {
        "TRAIN_ARGS": f"{environment['TRAIN_ARGS']} --max_steps {step + 1}",
        "PORT": "0",
    }
    status, told = run(environment)
    assert status == 0, told
    assert "resample" not in told
    assert "svc preprocess" not in told
    assert f"ended by max_steps at step {step + 1}" in told
    assert "The training is done." in told
    assert times == {path: path.stat().st_mtime_ns for path in (work / "dataset").rglob("*.*")}
    with tarfile.open(work / "alice.tar") as archive:
        assert archive.getnames()[0] == "logs/alice/G_best.pth"
        assert archive.getmember("logs/alice/G_best.pth").size > 10_000

    # ---- a machine that has only the pack; what svc refuses ends the script ----
    settings = {"VOICES": str(work / "gone"), "TRAIN_ARGS": "--max_steps 0"}
    status, told = run({**environment, **settings})
    assert status == 2
    assert "the voice learns from dataset/44k/features.pack" in told
    assert "--max_steps is 0" in told
    assert "the training ended with status 2" in told.splitlines()[-1]

    # ---- the voice is packed once more ----
    (work / "alice.tar").unlink()
    assert run(environment, "fetch")[0] == 0
    assert (work / "alice.tar").is_file()
