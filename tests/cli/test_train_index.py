from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.audio.io import write_audio
from svc.cli.main import main
from svc.config import load_config
from svc.dataset.features import FeatureCache
from svc.retrieval import load_retriever

RATE, HOP, DIM = 8000, 64, 384
CONFIG: dict[str, Any] = {
    "train": {"segment_size": 20 * HOP, "seed": 7},
    "data": {
        "training_files": "filelists/train.txt", "validation_files": "filelists/val.txt",
        "sampling_rate": RATE, "filter_length": 256, "hop_length": HOP, "win_length": 256,
    },
    "model": {
        "inter_channels": 8, "hidden_channels": 8, "filter_channels": 16, "n_heads": 2,
        "n_layers": 1, "kernel_size": 3, "p_dropout": 0.1, "resblock": "1",
        "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3, 5]],
        "upsample_rates": [8, 4, 2], "upsample_initial_channel": 16,
        "upsample_kernel_sizes": [16, 8, 4], "n_flow_layer": 1, "gin_channels": 6, "ssl_dim": DIM,
        "n_speakers": 2, "speech_encoder": "whisper-ppg-tiny",
    },
    "spk": {"björk & 歌": 0, "bob": 1},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a config and a data set of two voices at their default places."""
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    Path("configs/config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    cache = FeatureCache.from_config(load_config("configs/config.json"))
    rng = np.random.default_rng(0)
    for name, count in (("björk & 歌", 3), ("bob", 1)):
        for number in range(count):
            path = Path("dataset/44k") / name / f"take {number}.wav"
            write_audio(path, 0.1 * rng.standard_normal(40 * HOP).astype(np.float32), RATE)
            cache.save(
                path,
                units=torch.from_numpy(rng.standard_normal((DIM, 25)).astype(np.float32)),
                f0=torch.tensor([[220.0] * 40, [1.0] * 40]),
            )
    return tmp_path


def test_with_no_flags_at_all(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train-index"]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0] == "björk & 歌: 75 frames in 1 list"
    assert lines[1] == "bob: 25 frames without lists"
    assert lines[2] == "index of 2 voices in logs/44k/feature_index, 0.2 MB"
    assert "train-index: 50/50 bob: written" in shown.err
    retriever = load_retriever(
        "logs/44k/feature_index", dim=DIM, device="cpu", encoder="whisper-ppg-tiny"
    )
    assert retriever.speakers == {0, 1}
    units = FeatureCache.from_config(load_config("configs/config.json")).load(
        Path("dataset/44k/bob/take 0.wav")
    )
    torch.testing.assert_close(
        retriever.match(units.units.T, "bob", 1), units.units.T, atol=0, rtol=0
    )


def test_every_flag(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("dataset").rename("data")
    Path("data/44k/bob/take 1.wav").write_bytes(Path("data/44k/bob/take 0.wav").read_bytes())
    arguments = ["--root_dir", "data/44k", "-c", "configs/config.json", "--output-dir", "out"]
    assert main(["train-index", *arguments, "--legacy"]) == 0
    capsys.readouterr()
    more = ["--speakers", "bob", "--seed", "3", "--max_rows", "20", "--nprobe", "2"]
    assert main(["train-index", *arguments, *more]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "left out: data/44k/bob/take 1.wav: no features; run svc preprocess",
        "björk & 歌: 75 frames in 1 list (as before)",
        "bob: 25 frames, reduced to 20 centres without lists",
        "index of 2 voices in out/feature_index, 0.1 MB",
        "note: out/feature_and_index.pkl is of an earlier index; --legacy writes it anew",
    ]
    record = json.loads(Path("out/feature_index/feature_index.json").read_text(encoding="utf-8"))
    bob = record["speakers"]["bob"]
    assert (bob["seed"], bob["rows"], bob["nprobe"], bob["reduced"]) == (3, 20, 2, True)
    assert main(["train-index", *arguments, "--legacy"]) == 0
    assert "for so-vits-svc 4.1: out/feature_and_index.pkl" in capsys.readouterr().out
    old = load_retriever("out/feature_and_index.pkl", dim=DIM, device="cpu", encoder=None)
    assert old.speakers == {0, 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-c", "nowhere.json"], "nowhere.json is not there"),
        (["--root_dir", "nowhere"], 'no features of the speaker "björk & 歌"; run svc preprocess'),
        (["--speakers", "bop"], 'did you mean "bob"?'),
        (["--nprobe", "0"], "--nprobe is 0"),
        (["--max_rows", "-1"], "--max_rows is -1"),
        (["--seed", "-1"], "--seed is -1"),
        (["-d", "cuda:7"], "cuda:7"),
        (["--output_dir", "configs/config.json"], "a file of that name"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["train-index", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("svc: error: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not Path("logs").exists()
