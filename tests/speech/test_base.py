"""From an id to an encoder: what each takes from its file, and what is refused."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from svc.errors import CheckpointError, ConfigError, MissingFileError
from svc.speech import ENCODER_NAMES, build_speech_encoder
from svc.speech import base as base_module
from svc.speech.registry import ENCODERS
from svc.speech.wav2vec2 import Wav2Vec2Config
from svc.speech.wave_files import load_wave_net

Make = Callable[..., Path]

THIN = {"dim": 768, "ffn": 8, "layers": 12, "conv": 8}  # as wide as base nets, and small
WAVE = {  # id: format, sizes, layer, projected, zeros before and after
    "vec768l12": ("fairseq", {**THIN, "projection": 256}, 12, False, 0),
    "vec256l9": ("fairseq", {**THIN, "projection": 256}, 9, True, 0),
    "hubertsoft": ("hubert_soft", {**THIN, "projection": 256}, 12, True, 40),
    "cnhubertlarge": (
        "fairseq", {"dim": 1024, "ffn": 8, "layers": 3, "conv": 8, "large": True}, None, False, 0,
    ),
    "dphubert": ("dphubert", {**THIN, "ffn": 20, "projection": None}, None, False, 0),
    "wavlmbase+": ("wavlm", {**THIN, "projection": None}, None, False, 0),
}  # fmt: skip


@pytest.fixture
def wav() -> Tensor:
    return 0.2 * torch.randn(6400, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", WAVE)
def test_what_each_id_takes_from_its_file(make_wave_file: Make, wav: Tensor, name: str) -> None:
    """Its default file under pretrain/, layer, projection and padding; the wave is not normalised,
    although the large net's file asks for it.
    """
    kind, sizes, layer, project, padding = WAVE[name]
    path = make_wave_file(kind, **sizes)
    path = path.rename(path.with_name(ENCODERS[name].file.name))
    encoder = build_speech_encoder(name, pretrain_dir=path.parent)
    net = load_wave_net(path)
    with torch.no_grad():
        expected = net(F.pad(wav, (padding, padding))[None], layer)
        if project:
            assert net.final_projection is not None
            expected = net.final_projection(expected)
    units = encoder.encode(wav)
    torch.testing.assert_close(units, expected.transpose(1, 2), rtol=1e-5, atol=1e-5)
    assert units.shape == (1, ENCODERS[name].dim, 20 if padding else 19)
    assert (encoder.name, encoder.dim) == (name, ENCODERS[name].dim)
    (again,) = encoder.encode_batch([wav])
    torch.testing.assert_close(again, units, rtol=1e-5, atol=1e-5)


def config(**changes: Any) -> Wav2Vec2Config:
    settings: dict[str, Any] = {
        "conv_channels": (8,) * 7, "conv_bias": False, "conv_layer_norm": False, "dim": 768,
        "n_heads": (12,) * 12, "ffn_dims": (8,) * 12, "head_dim": 64, "pre_norm": False,
        "position_kernel": 128, "position_groups": 16, "projection_dim": 256,
    }  # fmt: skip
    settings |= changes
    layers = settings.pop("layers", 12)
    return Wav2Vec2Config(**{**settings, "n_heads": (12,) * layers, "ffn_dims": (8,) * layers})


CONTENTVEC = '"vec768l12" or "vec256l9"'


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("vec768l12", {"dim": 1024, "layers": 24},
         '1024 wide, but vec768l12 is layer 12 .*768 wide.*ContentVec.*or choose.*"cnhubertlarge"$'),
        ("vec768l12", {"dim": 512, "projection_dim": None}, r"it is 512 wide.*checkpoint_best_legacy_500\.pt\)$"),
        ("vec768l12", {"layers": 9}, 'has 9 layers, but .*layer 12.*choose.*"vec256l9"$'),
        ("vec768l12", {"relative_buckets": 320}, 'is a WavLM net.*HuBERT net.*"wavlmbase\\+"$'),
        ("vec768l12", {"feature_scale": True}, 'is a DPHuBERT net.*or choose.*"dphubert"$'),
        ("vec256l9", {"projection_dim": None}, 'projection is absent.*256 wide.*"vec768l12"$'),
        ("vec256l9", {"projection_dim": 24}, 'its final projection is 24 wide.*"vec768l12"$'),
        ("vec256l9", {"layers": 8}, "has 8 layers.*layer 9"),
        ("cnhubertlarge", {}, f"768 wide.*the end of a HuBERT net, 1024 wide.*{CONTENTVEC}$"),
        ("cnhubertlarge", {"dim": 1024, "relative_buckets": 320}, "is a WavLM net"),
        ("wavlmbase+", {}, rf"is a HuBERT net.*WavLM net.*WavLM-Base\+\.pt.*{CONTENTVEC}$"),
        ("wavlmbase+", {"dim": 1024, "relative_buckets": 320}, "1024 wide.*768 wide"),
        ("dphubert", {}, rf"is a HuBERT net.*DPHuBERT-sp0\.75\.pth.*{CONTENTVEC}$"),
        ("hubertsoft", {}, rf"is a HuBERT net.*hubert-soft-0d54a1f4\.pt.*{CONTENTVEC}$"),
    ],
)  # fmt: skip
def test_nets_that_do_not_fit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    changes: dict[str, Any],
    words: str,
) -> None:
    """One line: what it is, what the id needs, which id it fits."""
    net = SimpleNamespace(config=config(**changes))
    monkeypatch.setattr(base_module, "load_wave_net", lambda path: net)
    (tmp_path / "net.pt").touch()
    with pytest.raises(CheckpointError, match=rf"net\.pt does not fit {re.escape(name)}.*{words}"):
        build_speech_encoder(name, path=tmp_path / "net.pt")


@pytest.mark.parametrize("name", ["vec768l12", "vec256l9"])
def test_hubert_soft_is_not_contentvec(make_wave_file: Make, name: str) -> None:
    """Its net has the same shapes, and other units."""
    path = make_wave_file("hubert_soft", **THIN, projection=256)
    with pytest.raises(CheckpointError, match=r'is a hubert-soft net.*or choose.*"hubertsoft"$'):
        build_speech_encoder(name, path=path)


def test_contentvec_is_not_hubert_soft(make_wave_file: Make) -> None:
    path = make_wave_file("fairseq", **THIN, projection=256)
    with pytest.raises(CheckpointError, match=f"is a HuBERT net.*{CONTENTVEC}$"):
        build_speech_encoder("hubertsoft", path=path)


def test_files_of_the_wrong_family(make_wave_file: Make, tmp_path: Path) -> None:
    hubert = make_wave_file("hugging_face", path=tmp_path / "hubert.safetensors")
    with pytest.raises(CheckpointError, match="holds no Whisper encoder"):
        build_speech_encoder("whisper-ppg", path=hubert)
    graph = tmp_path / "vec-768-layer-12.onnx"
    graph.write_bytes(b"\x08\x08")
    with pytest.raises(CheckpointError, match=r"ONNX graph.*-onnx"):
        build_speech_encoder("vec768l12", path=graph)
    whisper = tmp_path / "medium.pt"
    torch.save({"dims": {}, "model_state_dict": {"encoder.blocks.0.attn_ln.bias": torch.ones(1)}},
               whisper)  # fmt: skip
    with pytest.raises(CheckpointError, match="Whisper model"):
        build_speech_encoder("vec768l12", path=whisper)


def test_a_hugging_face_folder(make_wave_file: Make, tmp_path: Path, wav: Tensor) -> None:
    folder = make_wave_file("hugging_face", path=tmp_path / "contentvec", **THIN, projection=256)
    assert folder.is_dir()
    encoder = build_speech_encoder("vec256l9", path=folder)
    alone = build_speech_encoder("vec256l9", path=folder / "model.safetensors")
    assert torch.equal(encoder.encode(wav), alone.encode(wav))


def test_a_hugging_face_folder_of_whisper(tmp_path: Path) -> None:
    from svc.checkpoint import load_safetensors, save_safetensors
    from svc.pretrained import whisper_tiny_asset

    folder = tmp_path / "whisper-tiny.en"
    folder.mkdir()
    with pytest.raises(MissingFileError, match=r"whisper-tiny\.en"):
        build_speech_encoder("whisper-ppg-tiny", path=folder)
    save_safetensors(load_safetensors(whisper_tiny_asset())[0], folder / "model.safetensors")
    assert build_speech_encoder("whisper-ppg-tiny", path=folder).dim == 384


def test_whisper_large_v3_is_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is as wide as large-v2 and its units are others."""
    net = torch.nn.Linear(1, 1)
    net.config = SimpleNamespace(dim=1280, n_mels=128, n_positions=1500)
    monkeypatch.setattr(base_module, "load_whisper", lambda path: net)
    (tmp_path / "large-v3.pt").touch()
    with caplog.at_level(logging.WARNING, "svc.speech"):
        build_speech_encoder("whisper-ppg-large", path=tmp_path / "large-v3.pt")
    assert "large-v3.pt hears 128 mel bands" in caplog.text
    assert "large-v2.pt" in caplog.text
    caplog.clear()
    net.config.n_mels = 80
    build_speech_encoder("whisper-ppg-large", path=tmp_path / "large-v3.pt")
    assert not caplog.text


def test_every_file_of_a_fusion_is_looked_for_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_module, "load_whisper", lambda path: pytest.fail("was read"))
    with pytest.raises(MissingFileError, match=r"WavLM-Base\+\.pt is missing"):
        build_speech_encoder("whisper-ppg-tiny+wavlmbase+", pretrain_dir=tmp_path)


def test_a_fusion_needs_to_know_whose_file_it_is(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.touch()
    with pytest.raises(ConfigError, match="two encoders, say whose file"):
        build_speech_encoder("vec768l12+whisper-ppg-tiny", path=path)
    with pytest.raises(ConfigError, match='given for "dphubert"'):
        build_speech_encoder("vec768l12", path={"dphubert": path})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vec768l2", 'unknown speech encoder "vec768l2".*did you mean "vec768l12"'),
        ("vec768l12+vec768l12", "two different ones"),
        ("", "speech encoder"),
    ],
)
def test_unknown_names(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_speech_encoder(name)


@pytest.mark.parametrize("name", ["whisper-ppg-tiny", "vec768l12-onnx"])
def test_an_unknown_precision_is_refused_before_anything_is_read(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='precision "fp8" is unknown'):
        build_speech_encoder(name, pretrain_dir=tmp_path, precision="fp8")


def test_the_precision_reaches_the_net(make_wave_file: Make, wav: Tensor) -> None:
    path = make_wave_file("fairseq", **THIN, projection=256)
    full = build_speech_encoder("vec768l12", path=path).encode(wav)
    half = build_speech_encoder("vec768l12", path=path, precision="bf16").encode(wav)
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)
    assert float((half - full).norm() / full.norm()) < 0.1


@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_no_id_is_put_off(tmp_path: Path, name: str) -> None:
    """Each is there, or says which file it misses."""
    if name == "whisper-ppg-tiny":
        assert build_speech_encoder(name, pretrain_dir=tmp_path).dim == 384
        return
    with pytest.raises(MissingFileError) as caught:
        build_speech_encoder(name, pretrain_dir=tmp_path)
    assert str(tmp_path / ENCODERS[name].file.name) in str(caught.value)
