"""scripts/diffusion_run.py: its data, its road with a stand-in for svc, its table."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from svc.audio.io import write_audio
from svc.cli.main import build_parser
from svc.config import find_template, load_diffusion_config
from svc.dataset.filelist import read_filelist, write_filelist

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "diffusion_run.py"


@pytest.fixture
def script() -> Any:
    spec = importlib.util.spec_from_file_location("diffusion_run", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_road(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which commands run, in which order; their flags are those of the real parsers."""
    monkeypatch.chdir(tmp_path)
    commands: list[list[str]] = []

    def run(work: Path, *words: object, may_leave_out: bool = False) -> None:
        line = [str(word) for word in words]
        assert build_parser(line[0]).parse_args(line).command == line[0]
        commands.append(line)
        if line[0] == "preprocess":
            (work / "configs").mkdir()
            template = find_template("diffusion_template.yaml").read_text()
            (work / "configs/diffusion.yaml").write_text(template)
            write_filelist(work / "filelists/train.txt", [Path(f"{i:02d}.wav") for i in range(20)])
            write_filelist(work / "filelists/val.txt", [Path("x.wav"), Path("y.wav")])

    def measure(*_: Any) -> Any:
        assert Path.cwd() == tmp_path / "work"  # paths in lists and configs count from there
        rows = {"a/1": {"voice": 1.0, "k_step 20": 0.5}, "a/2": {"voice": 1.0, "k_step 20": 1.25}}
        return {"clips": rows, "models": {"voice": "G_5.pth", "diffusion": "model_6.pt"}}

    monkeypatch.setattr(script, "svc", run)
    monkeypatch.setattr(script, "measure", measure)
    rng = np.random.default_rng(0)
    for name, seconds in (("short", 1), ("long", 16)):
        wav = (0.1 * rng.standard_normal(8000 * seconds)).astype(np.float32)
        write_audio(Path("alice", f"{name}.wav"), wav, 8000)
    call = [
        "alice",
        "--work",
        "work",
        "--minutes",
        "3",
        "--vocoder_minutes",
        "0",
        "--device",
        "cpu",
    ]
    assert script.main(call) == 0
    work = tmp_path / "work"
    assert [line[0] for line in commands] == [
        "slice", "resample", "preprocess", "train", "train-diff",
    ]  # fmt: skip
    assert (work / "dataset_raw/alice/short.wav").is_file()
    assert (work / "long/alice/long.wav").is_file()
    assert commands[3] == ["train", "-m", "voice", "--max_minutes", "3.0", "-d", "cpu"]
    held_out = read_filelist(work / "filelists/val.txt")
    assert len(held_out) == 8
    assert not set(held_out) & set(read_filelist(work / "filelists/train.txt"))
    config = load_diffusion_config(work / "configs/diffusion.yaml")
    assert (config.model.n_layers, config.model.trained_steps) == (4, 100)
    assert config.env.expdir == "logs/diffusion"
    assert json.loads((work / "vocoder/config.json").read_text())["num_mels"] == 128
    text = (work / "result.md").read_text()
    assert text in capsys.readouterr().out
    assert "| **mean** | 1.000 | 0.875 |" in text
    assert "| nearer than the voice | - | 1 of 2 |" in text
    assert "| change | - | -12% |" in text
    # Again: the data stay, the training goes on.
    monkeypatch.chdir(tmp_path)
    assert script.main(["alice", "--work", "work", "--minutes", "1"]) == 0
    assert [line[0] for line in commands[5:]] == ["train-vocoder", "train", "train-diff"]


def test_what_it_makes_small_is_in_the_template(script: Any) -> None:
    raw = yaml.safe_load(find_template("diffusion_template.yaml").read_text())
    for section, values in script.SMALL.items():
        assert set(values) <= set(raw[section])


def test_no_recordings(script: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no folder with recordings"):
        script.main([str(tmp_path / "nothing"), "--work", str(tmp_path / "work")])
