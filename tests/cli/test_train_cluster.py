from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.cli.main import main
from svc.retrieval import load_retriever


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the features of two voices at their default place."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, count in (("björk & 歌", 3), ("bob", 1)):
        home = tmp_path / "dataset/44k" / name
        home.mkdir(parents=True)
        for number in range(count):
            units = torch.from_numpy(rng.standard_normal((1, 8, 25)).astype(np.float32))
            torch.save(units, home / f"take {number}.wav.soft.pt")
            meta = {"version": 1, "units": {"speech_encoder": "vec768l12"}}
            (home / f"take {number}.wav.meta.json").write_text(json.dumps(meta))
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_with_no_flags_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    """Fewer frames than centres: no error as in the original, but a word."""
    assert main(["train-cluster"]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [
        "björk & 歌: 75 frames, 75 centres, inertia 0, 0.0% of the variance",
        "note: björk & 歌 has only 75 different frames, each is a centre",
        "bob: 25 frames, 25 centres, inertia 0, 0.0% of the variance",
        "note: bob has only 25 different frames, each is a centre",
        "centres of 2 voices in logs/44k/kmeans_10000.pt, 0.0 MB",
    ]
    assert "train-cluster: 1000/1000 " not in shown.out
    model = load_retriever("logs/44k/kmeans_10000.pt", dim=8, device="cpu", encoder="vec768l12")
    assert model.speakers == {"björk & 歌", "bob"}
    side_car = json.loads(Path("logs/44k/kmeans_10000.json").read_text(encoding="utf-8"))
    assert side_car["encoder"] == "vec768l12"
    assert side_car["speakers"]["bob"]["rows"] == 25


def test_the_originals_flags_and_ours(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "dataset/44k/empty").mkdir()
    arguments = ["--dataset", "dataset/44k", "--output", "out", "--k", "10", "--device", "cpu"]
    assert main(["train-cluster", *arguments, "--seed", "1", "--max_iter", "4"]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0].startswith("left out: dataset/44k/empty: neither features nor recordings")
    assert lines[1].startswith("björk & 歌: 75 frames, 10 centres, inertia ")
    assert lines[-1] == "centres of 2 voices in out/kmeans_10.pt, 0.0 MB"
    assert "train-cluster: 1000/1000 bob: done" in shown.err
    assert main(["train-cluster", *arguments, "--full", "--batch-size", "7", "--speakers", "bob"]) == 0  # fmt: skip
    assert "as before: björk & 歌" in capsys.readouterr().out
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "kmeans_10.json",
        "kmeans_10.pt",
    ]


def test_features_of_an_unknown_encoder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in folder.rglob("*.meta.json"):
        path.unlink()
    assert main(["train-cluster", "--k", "5"]) == 0
    assert "note: nothing says which encoder made the units" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--k", "0"], "--k is 0, and must be 1 or more"),
        (["--max_iter", "0"], "--max_iter is 0"),
        (["--batch_size", "-1"], "--batch_size is -1"),
        (["--seed", "-1"], "--seed is -1"),
        (["--speakers", "bobb"], 'no folder of a speaker "bobb"; did you mean "bob"?'),
        (["--dataset", "nowhere"], "the folder nowhere is not there"),
        (["--gpu", "--device", "cpu"], "--gpu and --device cpu contradict each other"),
        (["--device", "tpu"], 'the device "tpu" is not available'),
    ],
)
@pytest.mark.usefixtures("folder")
def test_mistakes_are_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train-cluster", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("svc: error: ")
    assert error.count("\n") == 1
    assert not Path("logs").exists()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("extra", [[], ["--device", "cuda:1"]])
def test_gpu_is_a_device(extra: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def resolve(name: str | None) -> torch.device:
        asked.append(name)
        return torch.device("cpu")

    monkeypatch.setattr("svc.training.clusters.resolve_device", resolve)
    assert main(["train-cluster", "--gpu", *extra]) == 0
    assert asked == [extra[-1] if extra else "cuda"]


def test_a_failed_run_leaves_the_earlier_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train-cluster", "--k", "5"]) == 0
    before = {path.name: path.read_bytes() for path in (folder / "logs/44k").iterdir()}

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("svc.training.clusters.fit_kmeans", stop)
    assert main(["train-cluster", "--k", "5"]) == 130
    assert {path.name: path.read_bytes() for path in (folder / "logs/44k").iterdir()} == before
