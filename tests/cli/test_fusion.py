"""Two fused encoders, one of them in a folder of its own, through the real commands: preprocess, train,
infer; and what each of them says when config and encoder do not agree.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml

from svc.checkpoint import load_checkpoint, save_safetensors
from svc.cli.main import main
from svc.config import find_template

FUSED, OWN = "whisper-ppg-tiny+cnhubertlarge", "cnhubertlarge=my hubert"
SINE_SECONDS = 0.8


def write_hubert(folder: Path, dim: int = 1024, conv: int = 8, ffn: int = 16) -> None:
    """A HuBERT of one layer as Hugging Face's transformers saves it: wide units, few weights."""
    draw = torch.Generator().manual_seed(0)

    def weight(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw) / torch.Size(shape[1:]).numel() ** 0.5

    tensors: dict[str, torch.Tensor] = {}
    for index, kernel in enumerate((10, 3, 3, 3, 3, 2, 2)):
        name = f"feature_extractor.conv_layers.{index}.conv.weight"
        tensors[name] = weight(conv, conv if index else 1, kernel)
    linear = {
        "feature_projection.projection": (dim, conv),
        "encoder.layers.0.feed_forward.intermediate_dense": (ffn, dim),
        "encoder.layers.0.feed_forward.output_dense": (dim, ffn),
        **{f"encoder.layers.0.attention.{x}_proj": (dim, dim) for x in ("q", "k", "v", "out")},
    }
    for name, shape in linear.items():
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = weight(*shape), torch.zeros(shape[0])
    norms = {
        "feature_extractor.conv_layers.0.layer_norm": conv,
        "feature_projection.layer_norm": conv,
        "encoder.layer_norm": dim,
        "encoder.layers.0.layer_norm": dim,
        "encoder.layers.0.final_layer_norm": dim,
    }
    for name, width in norms.items():
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = torch.ones(width), torch.zeros(width)
    position = "encoder.pos_conv_embed.conv"
    tensors[f"{position}.bias"] = torch.zeros(dim)
    tensors[f"{position}.weight_g"] = torch.ones(1, 1, 128)
    tensors[f"{position}.weight_v"] = weight(dim, dim // 16, 128)
    folder.mkdir()
    save_safetensors(tensors, folder / "model.safetensors")
    config = {
        "model_type": "hubert",
        "num_attention_heads": 16,
        "do_stable_layer_norm": False,
        "feat_extract_norm": "group",
        "num_conv_pos_embeddings": 128,
        "num_conv_pos_embedding_groups": 16,
    }
    (folder / "config.json").write_text(json.dumps(config))


def write_template(path: Path) -> None:
    template = json.loads(find_template("template_quick.json").read_text())
    template["model"].update(
        hidden_channels=8,
        filter_channels=16,
        inter_channels=8,
        gin_channels=8,
        n_layers=1,
        n_flow_layer=1,
        upsample_initial_channel=32,
        discriminator_width=0.0625,
    )
    template["train"].update(
        batch_size=1, segment_size=4096, eval_interval=2, log_interval=1, gan_start_step=0
    )
    path.write_text(json.dumps(template))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a voice on two fused encoders was trained for two steps."""
    folder = tmp_path_factory.mktemp("fused voice")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        rng = np.random.default_rng(0)
        time = np.arange(round(SINE_SECONDS * 44100)) / 44100
        for index in range(3):
            tone = 0.4 * np.sin(2 * np.pi * (200 + 30 * index) * time)
            tone += 0.01 * rng.standard_normal(len(time))
            Path("dataset/44k/voice").mkdir(parents=True, exist_ok=True)
            soundfile.write(f"dataset/44k/voice/{index}.wav", tone, 44100)
        shutil.copy("dataset/44k/voice/0.wav", "song.wav")
        write_hubert(Path("my hubert"))
        write_template(Path("small.json"))
        flags = ["--speech_encoder", FUSED, "--encoder_path", OWN, "--f0_predictor", "dio"]
        assert main(["preprocess", "--template", "small.json", *flags, "-d", "cpu"]) == 0
        assert main(["train", "-m", "44k", "--max_steps", "2", "-d", "cpu"]) == 0
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder to work in."""
    shutil.copytree(trained, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def infer(*flags: str) -> int:
    return main(["infer", "-n", "song.wav", "-wf", "wav", "-d", "cpu", *flags])


def test_the_fused_voice_sings(place: Path) -> None:
    config = json.loads(Path("logs/44k/config.json").read_text())["model"]
    assert (config["speech_encoder"], config["encoder_path"]) == (FUSED, OWN)
    assert config["ssl_dim"] == 384 + 1024
    diffusion = yaml.safe_load(Path("configs/diffusion.yaml").read_text())["data"]
    assert (diffusion["encoder"], diffusion["encoder_out_channels"]) == (FUSED, 1408)
    units = torch.load("dataset/44k/voice/0.wav.soft.pt", weights_only=True)
    assert units.shape[:2] == (1, 1408)
    assert float(units[:, :384].std()) > 0.1
    assert float(units[:, 384:].std()) > 0.1
    assert load_checkpoint("logs/44k/G_2.pth")["model"]["pre.weight"].shape[1] == 1408
    # The config says where the second encoder lies, and a flag may say so again.
    results = []
    for flags in ([], ["--encoder_path", OWN]):
        assert infer(*flags) == 0
        (path,) = Path("results").glob("*.wav")
        wav, sr = soundfile.read(path)
        assert (sr, len(wav)) == (44100, round(SINE_SECONDS * 44100))
        assert np.isfinite(wav).all()
        results.append(path.read_bytes())
        path.unlink()
    assert results[0] == results[1]


def test_features_are_made_again_only_where_something_changed(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = ["preprocess", "--stage", "features", "--f0_predictor", "dio", "-d", "cpu"]
    assert main(features) == 0
    assert "0 clips computed, 3 up to date" in capsys.readouterr().out
    before = torch.load("dataset/44k/voice/0.wav.soft.pt", weights_only=True)
    assert main([*features, "--encoder_batch", "3", "--encoder_precision", "bf16"]) == 0
    assert "3 clips computed" in capsys.readouterr().out
    after = torch.load("dataset/44k/voice/0.wav.soft.pt", weights_only=True)
    assert 0 < float((after - before).norm() / before.norm()) < 0.05
    Path("my hubert").rename("elsewhere")
    assert main(features) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "my hubert is not there, the weights of cnhubertlarge" in error
    assert main([*features, "--encoder_path", "cnhubertlarge=elsewhere"]) == 0
    captured = capsys.readouterr()
    assert "3 clips computed" in captured.out
    assert "give it to  svc infer  too" in captured.out
    assert torch.equal(torch.load("dataset/44k/voice/0.wav.soft.pt", weights_only=True), before)


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        (
            {"speech_encoder": "vec256l9", "encoder_path": None},
            ['"vec256l9", whose units are 256 wide', '1408 wide ("model.ssl_dim")'],
        ),
        (
            {"speech_encoder": "vec768l12+whisper-ppg-tiny", "encoder_path": None},
            ['"vec768l12+whisper-ppg-tiny", whose units are 1152 wide', "1408 wide"],
        ),
        ({"ssl_dim": 768}, [f'"{FUSED}", whose units are 1408 wide', "768 wide", "vec768l12"]),
        ({"speech_encoder": "vec768l12+whisper"}, ['"whisper" in "vec768l12+whisper"']),
        ({"encoder_path": "my hubert"}, ['"model.encoder_path" my hubert', "say whose file"]),
    ],
)
@pytest.mark.parametrize("command", ["preprocess", "train", "infer"])
def test_each_command_refuses_a_config_whose_encoder_does_not_fit(
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    change: dict[str, Any],
    texts: list[str],
) -> None:
    monkeypatch.chdir(trained)
    config = json.loads(Path("configs/config.json").read_text())
    config["model"].update(change)
    other = tmp_path / "other.json"
    other.write_text(json.dumps(config))
    arguments = {
        "preprocess": ["--stage", "features", "-c", str(other), "--f0_predictor", "dio"],
        "train": ["-m", "new", "-c", str(other), "--max_steps", "1"],
        "infer": ["-n", "song.wav", "-m", "logs/44k/G_2.pth", "-c", str(other)],
    }
    files: Callable[[], list[Path]] = lambda: sorted(  # noqa: E731
        path for path in trained.rglob("*") if path.is_file()
    )
    before = files()
    assert main([command, *arguments[command], "-d", "cpu"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("svc: error: ")
    assert "other.json" in line
    for text in texts:
        assert text in line
    assert files() == before
