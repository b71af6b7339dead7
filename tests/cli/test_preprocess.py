"""`svc preprocess` as a user runs it, with the encoder and predictors that need no download."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from svc.cli.main import main
from svc.config import load_config
from svc.dataset.features import FeatureCache
from svc.dataset.filelist import read_filelist

Sine = Callable[..., np.ndarray]
TINY = ["--speech_encoder", "whisper-ppg-tiny", "-d", "cpu"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sine: Sine) -> Path:
    """A working folder with a prepared data set of two voices."""
    monkeypatch.chdir(tmp_path)
    for speaker, pitch in (("alice", 300), ("keys", 150)):
        for index in range(3 if speaker == "alice" else 2):
            write(f"dataset/44k/{speaker}/{index} 歌.wav", sine(pitch + 9 * index, 0.6))
    return tmp_path


def write(path: str, wav: np.ndarray, sr: int = 44100) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wav, sr)


def test_one_command_does_all(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preprocess", *TINY]) == 0
    captured = capsys.readouterr()
    assert "alice (id 0): 1 training and 2 validation clips" in captured.out
    assert "keys (id 1): 1 training and 1 validation clips" in captured.out
    assert "wrote filelists/train.txt, filelists/val.txt, configs/config.json" in captured.out
    assert "features: 5 clips computed, 0 up to date" in captured.out
    assert "check: 5/5" in captured.err
    assert "features: 5/5" in captured.err
    config = load_config("configs/config.json")
    cache = FeatureCache.from_config(config)
    for wav in read_filelist(Path("filelists/train.txt")):
        features = cache.load(wav)
        assert features.units.shape[0] == config.model.ssl_dim == 384
        assert len(features.f0) == soundfile.info(wav).frames // 512
        assert abs(float(features.f0.median()) / (300 if "alice" in str(wav) else 150) - 1) < 0.15
    # Once more: nothing is computed, and every file stays as it is.
    times = {path: path.stat().st_mtime_ns for path in Path("dataset").rglob("*")}
    lists = {path: path.read_bytes() for path in Path().glob("*/*.*")}
    assert main(["preprocess", *TINY]) == 0
    assert "features: 0 clips computed, 5 up to date" in capsys.readouterr().out
    assert times == {path: path.stat().st_mtime_ns for path in Path("dataset").rglob("*")}
    assert lists == {path: path.read_bytes() for path in Path().glob("*/*.*")}


def test_the_originals_two_steps_with_their_flags(place: Path) -> None:
    lists = ["--train_list", "l/t.txt", "--val_list", "l/v.txt", "--source_dir", "dataset/44k"]
    config = ["--config", "c/config.json"]
    flags = ["--speech_encoder", "whisper-ppg-tiny", "--vol_aug", "--tiny", "--seed", "7"]
    assert main(["preprocess", "--stage", "config", *lists, *config, *flags]) == 0
    written = json.loads(Path("c/config.json").read_text(encoding="utf-8"))
    assert written["model"]["vol_embedding"]
    assert written["train"]["vol_aug"]
    assert written["model"]["filter_channels"] == 512
    assert written["data"]["training_files"] == "l/t.txt"
    assert not list(Path("dataset").rglob("*.pt"))
    features = ["--in_dir", "dataset/44k", "--f0_predictor", "pm", "-d", "cpu"]
    features += ["--num_processes", "1", "--f0-min", "60", "--f0_max", "900", "--spec_cache"]
    assert main(["preprocess", "--stage", "features", *config, *features]) == 0
    assert len(list(Path("dataset").rglob("*.soft.pt"))) == 5
    assert len(list(Path("dataset").rglob("*.vol.npy"))) == 5
    spec = torch.load(next(Path("dataset").rglob("*.spec.pt")), weights_only=True)
    assert spec.shape[0] == 1025
    meta = json.loads(next(Path("dataset").rglob("*.meta.json")).read_text(encoding="utf-8"))
    assert (meta["f0"]["f0_predictor"], meta["f0"]["f0_min"]) == ("pm", 60.0)


def test_a_bad_clip_is_listed_and_the_exit_code_is_1(
    place: Path, sine: Sine, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("dataset/44k/alice/empty.wav").write_bytes(b"")
    Path("dataset/44k/alice/text.wav").write_text("hello")
    write("dataset/44k/alice/silent.wav", np.zeros(44100))
    write("dataset/44k/alice/short.wav", sine(300, 0.1))
    write("dataset/44k/alice/rate.wav", sine(300, 1.0, 48000), 48000)
    assert main(["preprocess", *TINY, "--f0_predictor", "dio"]) == 1
    out = capsys.readouterr().out
    for name, reason in (
        ("empty", "empty"),
        ("text", "no readable audio"),
        ("silent", "silent"),
        ("short", "too short"),
        ("rate", "run svc resample"),
    ):
        (line,) = [text for text in out.splitlines() if f"{name}.wav" in text]
        assert line.startswith("left out: ")
        assert reason in line
    assert "features: 5 clips computed" in out
    assert "5 clips left out" in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--use_diff"], "the vocoder's file pretrain/nsf_hifigan/config.json is missing: unpack"),
        (["--f0_predictor", "rmvpe"], "rmvpe.pt is missing"),
        (["--f0_predictor", "ensemble:rmvpe+pm"], "rmvpe.pt is missing"),
        (["--speech_encoder", "vec768l12"], "checkpoint_best_legacy_500.pt"),
        (["--speech_encoder", "wavlmbase+"], "WavLM-Base+.pt is missing"),
        (["--speech_encoder", "dphubert+whisper-ppg-tiny"], "DPHuBERT-sp0.75.pth is missing"),
        (["--speech_encoder", "dphubert+whisper"], '"whisper" in "dphubert+whisper"; did you mean'),
        (["--speech_encoder", "dphubert+dphubert"], "two different ones"),
        (["--encoder_path", "nowhere"], "nowhere is not there, the weights of whisper-ppg-tiny"),
        (["--encoder_path", "vec256l9=x"], "expected one ID=PATH"),
        (["--encoder_batch", "0"], "--encoder_batch"),
        (["--source_dir", "nowhere"], "nowhere is not there"),
        (["--source_dir", "dataset/44k/alice"], "sub-folder named after the voice"),
        (["--stage", "features"], "configs/config.json"),
        (["-d", "cuda:7"], "cuda:7"),
        (["--template", "nothing"], "nothing"),
        (["--f0_min", "2000"], "--f0_min"),
        (["--num_processes", "-1"], "--num_processes"),
    ],
)
def test_trouble_is_one_line_exit_2_and_nothing_written(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    before = sorted(place.rglob("*"))
    assert main(["preprocess", *TINY, "--f0_predictor", "dio", *arguments]) == 2
    captured = capsys.readouterr()
    last = captured.err.strip().splitlines()[-1]
    assert last.startswith("svc: error: ")
    assert text in last
    assert "Traceback" not in captured.err
    assert sorted(place.rglob("*")) == before


def test_flags_with_wrong_values_are_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["--stage", "most"],
        ["--f0_predictor", "yin"],
        ["--f0_predictor", "ensemble:pm"],
        ["--seed", "x"],
        ["--encoder_precision", "fp8"],
    ):
        with pytest.raises(SystemExit) as caught:
            main(["preprocess", *arguments])
        assert caught.value.code == 2
        assert arguments[0] in capsys.readouterr().err


@pytest.mark.slow
def test_real_recordings(
    tmp_path: Path,
    shared: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A singer and a speaker through resample and preprocess with the default F0 predictor."""
    monkeypatch.chdir(tmp_path)
    for voice in ("singing/gts_es_bass_1", "speech/vcc16_sf1"):
        folder = tmp_path / "dataset_raw" / Path(voice).name
        folder.mkdir(parents=True)
        for file in sorted((shared / "audio" / voice).glob("*.flac"))[:3]:
            shutil.copy(file, folder)
    assert main(["resample"]) == 0
    assert main(["preprocess", *TINY]) == 0
    assert "features: 6 clips computed" in capsys.readouterr().out
    cache = FeatureCache.from_config(load_config("configs/config.json"))
    medians = {}
    for voice in ("gts_es_bass_1", "vcc16_sf1"):
        clips = [cache.load(path) for path in sorted(Path("dataset/44k", voice).glob("*.wav"))]
        voiced = torch.cat([clip.f0[clip.uv > 0] for clip in clips])
        medians[voice] = float(voiced.median())
        assert 0.3 < float(torch.cat([clip.uv for clip in clips]).mean()) < 1.0
    assert 70 < medians["gts_es_bass_1"] < 260
    assert 150 < medians["vcc16_sf1"] < 300
