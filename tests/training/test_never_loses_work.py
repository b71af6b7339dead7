"""What all three trainers promise: full disks, signals and damaged files cost no work that is done."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from svc.checkpoint import load_checkpoint
from svc.cli.main import main
from svc.errors import CheckpointError
from svc.progress import Progress
from svc.training import diffusion, synthesizer, vocoder
from svc.training.diffusion_options import DiffusionTrainOptions
from svc.training.diffusion_task import DiffusionTask
from svc.training.options import TrainOptions
from svc.training.vocoder_options import VocoderTrainOptions

pytestmark = pytest.mark.usefixtures("no_pictures")

VOCODER: dict[str, Any] = {
    "resblock": "2", "upsample_rates": [8, 4, 2], "upsample_kernel_sizes": [16, 8, 4],
    "upsample_initial_channel": 32, "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]], "num_mels": 20, "n_fft": 256, "win_size": 256,
    "hop_size": 64, "sampling_rate": 8000, "fmin": 40, "fmax": 3800,
    "train": {
        "segment_size": 16 * 64, "batch_size": 2, "learning_rate": 2e-3, "log_interval": 100,
        "seed": 7, "lr_decay": 0.9, "discriminator_width": 0.03,
    },
}  # fmt: skip
ENTRIES = {
    "format", "version", "step", "epoch", "batch", "order", "scheduler", "rng", "scaler", "config",
    "config_hash",
}  # fmt: skip


@dataclass(frozen=True)
class Trainer:
    """One of the three, with a data set for it in the working folder."""

    names: tuple[str, ...]
    """Patterns of the files of a save; a resume looks for the first."""
    log: str
    task: type
    command: tuple[str, ...]
    library: Callable[..., Any]
    """Trains with options given by name, into the folder below."""
    run_dir: Path = Path("logs/m")

    def paths(self, step: int) -> list[Path]:
        """Files of the save of a step."""
        return [self.run_dir / name.format(step) for name in self.names]

    def steps(self) -> set[int]:
        """Steps that are saved."""
        files = {file.name for file in self.run_dir.iterdir()}
        return {step for step in range(20) if self.names[0].format(step) in files}

    def cli(self, *more: str) -> int:
        return main([*self.command, *more, "--eval_interval", "2", "--keep", "3"])

    def train(self, progress: Progress | None = None, **options: Any) -> Any:
        return self.library(progress, eval_interval=2, keep=3, **options)


def voice(make_voices: Callable[..., Any], make_run: Callable[..., Any]) -> Trainer:
    make_voices(lengths=(40, 30, 35, 32), train={"log_interval": 100})

    def train(progress: Progress | None, model: str = "m", **options: Any) -> Any:
        given = TrainOptions(model, Path("config.json"), device="cpu", **options)
        return synthesizer.train(given, progress=progress)

    command = ("train", "-m", "m", "-c", "config.json", "-d", "cpu")
    names = ("G_{}.pth", "D_{}.pth")
    return Trainer(names, "train.log", synthesizer.SynthesizerTask, command, train)


def mel_vocoder(make_voices: Callable[..., Any], make_run: Callable[..., Any]) -> Trainer:
    make_voices(lengths=(40, 30, 35, 32))
    Path("vocoder.json").write_text(json.dumps(VOCODER))

    def train(progress: Progress | None, model: str = "m", **options: Any) -> Any:
        given = VocoderTrainOptions(
            dataset=Path("clips"), config=Path("vocoder.json"), device="cpu",
            output=Path("logs", model), **options,
        )  # fmt: skip
        return vocoder.train_vocoder(given, progress=progress)

    command = (
        "train-vocoder", "--dataset", "clips", "-c", "vocoder.json", "-d", "cpu", "-o", "logs/m",
    )  # fmt: skip
    names = ("V_{}.pth", "D_{}.pth")
    return Trainer(names, "train.log", vocoder.VocoderTask, command, train)


def mel_diffusion(make_voices: Callable[..., Any], make_run: Callable[..., Any]) -> Trainer:
    make_run(train={"interval_log": 100, "interval_force_save": 100})

    def train(progress: Progress | None, model: str = "m", **options: Any) -> Any:
        where, folder = Path("diffusion.yaml"), Path("logs", model)
        given = DiffusionTrainOptions(where, expdir=folder, val_samples=1, **options)
        return diffusion.train(given, progress=progress)

    command = ("train-diff", "-c", "diffusion.yaml", "--expdir", "logs/m", "--val_samples", "1")
    return Trainer(("model_{}.pt",), "log_info.txt", DiffusionTask, command, train)


@pytest.fixture(params=[voice, mel_vocoder, mel_diffusion], ids=["voice", "vocoder", "diffusion"])
def trainer(
    request: pytest.FixtureRequest, make_voices: Callable[..., Any], make_run: Callable[..., Any]
) -> Trainer:
    made: Trainer = request.param(make_voices, make_run)
    return made


@dataclass
class Disk:
    full: bool = False


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A disk that can be full."""
    disk = Disk()
    usage = shutil.disk_usage

    def tell(path: Any) -> Any:
        return usage(path)._replace(free=0) if disk.full else usage(path)

    monkeypatch.setattr(shutil, "disk_usage", tell)
    return disk


def content_of(trainer: Trainer, step: int) -> list[dict[str, Any]]:
    return [load_checkpoint(path) for path in trainer.paths(step)]


def test_every_file_says_where_its_run_stands_and_any_torch_reads_it(trainer: Trainer) -> None:
    trainer.train(max_steps=3)
    for path in trainer.paths(3):
        # The way the original reads, with the strictest setting.
        content = torch.load(path, map_location="cpu", weights_only=True)
        entry = content["svc"]
        assert set(entry) >= ENTRIES
        assert entry["step"] == 3
        assert set(entry["order"]) >= {"clips", "batch_size", "seed", "names", "frames"}
        assert len(entry["config_hash"]) == 64
        assert content["optimizer"]["state"]


def test_a_disk_that_is_full_for_a_while_costs_nothing(
    trainer: Trainer, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    def watch(step: int, total: int, text: str) -> None:
        disk.full = step == 2

    with caplog.at_level(logging.WARNING):
        result = trainer.train(watch, max_steps=4)
    assert (result.reason, result.step) == ("max_steps", 4)
    assert trainer.steps() == {4}
    told = [text for text in caplog.messages if "cannot write" in text and "are not saved" in text]
    assert len(told) == 1
    assert "0 MB free; free some space" in told[0]
    assert told[0].endswith(
        "Steps 1 to 2 are not saved: there is no checkpoint yet. The next attempt is at step 4."
    )
    assert told[0] in (trainer.run_dir / trainer.log).read_text()
    # Trained is what a run on an empty disk trains.
    trainer.train(model="straight", max_steps=4)
    for one, two in zip(
        content_of(trainer, 4),
        content_of(replace(trainer, run_dir=Path("logs/straight")), 4),
        strict=True,
    ):
        assert all(torch.equal(one["model"][name], two["model"][name]) for name in two["model"])


def test_a_disk_that_is_full_at_the_end_is_an_error_and_the_old_files_stay(
    trainer: Trainer, disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trainer.cli("--max_steps", "2") == 0
    before = {path: path.read_bytes() for path in trainer.paths(2)}
    capsys.readouterr()
    disk.full = True
    assert trainer.cli("--max_steps", "5") == 2
    *told, error = [line for line in capsys.readouterr().err.splitlines() if "not saved" in line]
    assert error.startswith("svc: error: cannot write ")
    assert error.endswith("Steps 3 to 5 are not saved: the newest checkpoint is of step 2.")
    assert len(told) == 1
    assert "Steps 3 to 4 are not saved" in told[0]
    assert trainer.steps() == {2}
    assert {path: path.read_bytes() for path in before} == before
    assert not list(trainer.run_dir.rglob(".tmp-*"))
    # With room again the same command goes on.
    disk.full = False
    assert trainer.cli("--max_steps", "5") == 0
    assert trainer.steps() == {2, 4, 5}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_a_signal_in_an_evaluation_leaves_it_and_saves(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    evaluate = trainer.task.evaluate
    stopped: list[bool] = []

    def interrupted(self: Any, step: int, stopping: Callable[[], bool]) -> None:
        os.kill(os.getpid(), number)
        evaluate(self, step, lambda: stopped.append(stopping()) or stopping())  # type: ignore[func-returns-value]

    with monkeypatch.context() as patch:
        patch.setattr(trainer.task, "evaluate", interrupted)
        result = trainer.train(max_steps=9)
    assert (result.reason, result.step) == (number.name, 2)
    assert trainer.steps() == {2}
    assert stopped[0]  # it asks, and before it has done anything that takes long
    assert len(stopped) <= 2
    for path in trainer.paths(2):
        load_checkpoint(path, verify=True)
    assert trainer.train(max_steps=3).steps_run == 1


def test_a_signal_in_a_save_lets_it_end(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = torch.save

    def interrupted(content: object, stream: Any) -> None:
        stream.write(b"")
        os.kill(os.getpid(), signal.SIGTERM)
        save(content, stream)

    monkeypatch.setattr(torch, "save", interrupted)
    assert trainer.cli("--max_steps", "9") == 143
    assert "ended by SIGTERM at step 2" in capsys.readouterr().out
    for path in trainer.paths(2):
        load_checkpoint(path, verify=True)
    assert not list(trainer.run_dir.rglob(".tmp-*"))


def flip(path: Path) -> None:
    """Change one bit in the largest tensor of a file."""
    with zipfile.ZipFile(path) as archive:
        records = [record for record in archive.infolist() if "/data/" in record.filename]
        tensor = archive.read(max(records, key=lambda record: record.file_size))
    bytes_ = bytearray(path.read_bytes())
    bytes_[bytes(bytes_).index(tensor) + len(tensor) // 2] ^= 4
    path.write_bytes(bytes_)
    load_checkpoint(path)  # by itself that is not seen


def test_one_changed_bit_in_the_newest_save_is_an_error_that_names_the_last_good_one(
    trainer: Trainer,
) -> None:
    trainer.train(max_steps=6)
    for step, names in ((6, trainer.paths(6)[-1:]), (4, trainer.paths(4)[:1])):
        assert step in trainer.steps()
        flip(names[0])
    newest, last_good = trainer.paths(6)[-1].name, trainer.paths(2)[0]
    with pytest.raises(
        CheckpointError, match=rf"{newest}: not a readable .*checksum.*--resume {last_good}$"
    ):
        trainer.train(max_steps=7)
    assert trainer.train(max_steps=7, resume=str(last_good)).steps_run == 5


def test_what_a_killed_save_leaves_is_removed(trainer: Trainer) -> None:
    trainer.train(max_steps=2)
    left = [trainer.run_dir / ".tmp-0123.pth", trainer.run_dir / "best/.tmp-0123"]
    for file in left:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"half a file")
    trainer.train(max_steps=3)
    assert not any(file.exists() for file in left)
    assert "half of a save that was killed" in (trainer.run_dir / trainer.log).read_text()
