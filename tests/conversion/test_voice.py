from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.checkpoint import save_checkpoint
from svc.config import SPEECH_ENCODER_DIMS, encoder_dim, save_config
from svc.conversion import Converter, InferOptions
from svc.conversion.compute import Computing
from svc.conversion.options import HearingChoice
from svc.conversion.voice import Voice
from svc.errors import SvcError
from svc.synthesizer import Synthesizer

SR = 44100

CPU = HearingChoice(device="cpu")


@pytest.mark.parametrize(
    "model", [{}, {"vocoder_name": "nsf-snake-hifigan"}, {"vol_embedding": True}]
)
def test_a_voice_from_files_sounds_like_the_net_that_was_saved(
    make_converter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, song: Any, model: Any
) -> None:
    in_memory = make_converter(**model)
    voice: Voice = in_memory.voice
    config = make_converter.config(**model)
    save_checkpoint({"model": voice.synthesizer.state_dict(), "iteration": 7}, tmp_path / "G_7.pth")
    save_config(config, tmp_path / "config.json")
    monkeypatch.setitem(SPEECH_ENCODER_DIMS, "whisper-ppg-tiny", 8)
    monkeypatch.setattr(
        "svc.conversion.listening.build_speech_encoder", lambda *_, **__: voice.encoder
    )
    monkeypatch.setattr(
        "svc.conversion.listening.build_f0_predictor",
        lambda *_, **__: copy.copy(voice.f0_predictor),
    )
    wav = song([(0.5, 0.5)])
    expected = in_memory.convert(wav, SR, "bob", InferOptions())
    with Converter.from_files(tmp_path / "G_7.pth", choice=CPU) as converter:
        assert converter.speakers == {"alice": 0, "bob": 1}
        result = converter.convert(wav, SR, "bob", InferOptions())
        assert not converter.voice.compat
    np.testing.assert_allclose(result, expected, atol=2e-5)
    with Converter.from_files(tmp_path / "G_7.pth", choice=replace(CPU, compat=True)) as converter:
        assert converter.voice.synthesizer.compat


@pytest.fixture
def asked(
    make_converter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[str, dict[str, Path], str]]:
    """Name, paths and precision of each encoder that is built; the working folder is a new one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SPEECH_ENCODER_DIMS, "whisper-ppg-tiny", 8)
    encoder = make_converter().voice.encoder
    found: list[tuple[str, dict[str, Path], str]] = []

    def build(name: str, **settings: Any) -> Any:
        assert settings["device"] == torch.device("cpu")
        encoder.dim = encoder_dim(name)
        found.append((name, settings["path"], settings["precision"]))
        return encoder

    monkeypatch.setattr("svc.conversion.listening.build_speech_encoder", build)
    return found


def save_voice(config: Any) -> Path:
    save_checkpoint({"model": Synthesizer.from_config(config).state_dict()}, "G_1.pth")
    save_config(config, "config.json")
    return Path("G_1.pth")


def test_the_encoder_of_the_config_may_have_a_file_of_its_own(
    make_converter: Any, asked: list[Any]
) -> None:
    model = save_voice(make_converter.config(encoder_path="own.pt"))
    for name in ("own.pt", "other.pt"):
        Path(name).touch()
    for given in (None, "other.pt", Path("other.pt"), "whisper-ppg-tiny=other.pt"):
        Converter.from_files(model, choice=replace(CPU, encoder_path=given)).close()
    name = "whisper-ppg-tiny"
    assert asked == [
        (name, {name: Path("own.pt")}, "fp32"),
        *[(name, {name: Path("other.pt")}, "fp32")] * 3,
    ]


def test_two_fused_encoders_and_their_files(make_converter: Any, asked: list[Any]) -> None:
    fused = "whisper-ppg-tiny+dphubert"
    config = make_converter.config(
        speech_encoder=fused, ssl_dim=776, encoder_path="whisper-ppg-tiny=w.pt,dphubert=d.pth"
    )
    model = save_voice(config)
    for name in ("w.pt", "d.pth", "e.pth"):
        Path(name).touch()
    for given in (None, "dphubert=e.pth"):
        choice = replace(CPU, encoder_path=given, encoder_precision="bf16")
        Converter.from_files(model, choice=choice).close()
    assert asked == [
        (fused, {"whisper-ppg-tiny": Path("w.pt"), "dphubert": Path("d.pth")}, "bf16"),
        (fused, {"whisper-ppg-tiny": Path("w.pt"), "dphubert": Path("e.pth")}, "bf16"),
    ]


def test_what_is_wrong_with_the_encoder_is_found_before_a_net_is_loaded(
    make_converter: Any, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_voice(make_converter.config())

    def load(*_: Any, **__: Any) -> None:
        pytest.fail("a net was loaded")

    monkeypatch.setattr("svc.conversion.voice.load_synthesizer", load)
    Path("w.pt").touch()
    cases: tuple[tuple[dict[str, Any], dict[str, str], str], ...] = (
        ({}, {"encoder_path": "gone.pt"}, r"gone\.pt is not there, the weights of whisper"),
        ({"encoder_path": "lost"}, {}, r'lost is not there.*"model\.encoder_path"'),
        ({}, {"encoder_path": "dphubert=w.pt"}, "expected one ID=PATH"),
        ({}, {"encoder_precision": "fp8"}, 'precision "fp8"'),
        ({"speech_encoder": "vec768l12"}, {}, '"vec768l12", whose units are 768 wide.* 8 wide'),
        (
            {"speech_encoder": "dphubert+whisper-ppg-tiny"},
            {},
            r'"dphubert\+whisper-ppg-tiny", whose units are 776 wide.* 8 wide \("model.ssl_dim"\)',
        ),
    )
    for changes, settings, message in cases:
        save_config(make_converter.config(**changes), "config.json")
        with pytest.raises(SvcError, match=message) as caught:
            Converter.from_files(model, choice=replace(CPU, **settings))
        assert "\n" not in str(caught.value)
    assert not asked


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_sings_the_same(make_converter: Any, song: Any) -> None:
    wav = song([(1.0, 0.5)])
    expected = make_converter().convert(wav, SR, 0)
    converter = make_converter()
    converter.voice.synthesizer.to("cuda")
    result = converter.convert(wav, SR, 0)
    assert np.corrcoef(result, expected)[0, 1] > 0.999


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_nan_is_blamed_on_the_precision_first(make_converter: Any, precision: str) -> None:
    voice = replace(make_converter().voice, computing=Computing(precision=precision))
    with torch.no_grad():
        voice.synthesizer.dec.conv_post.weight_g.fill_(torch.nan)
    with pytest.raises(SvcError, match="the model produced NaN") as caught:
        voice.render(np.zeros(4096, np.float32), 0, InferOptions())
    advice = f"in {precision}: try --precision fp32 first; "
    assert (advice in str(caught.value)) == (precision != "fp32")
    assert "its checkpoint is damaged or its training diverged" in str(caught.value)
