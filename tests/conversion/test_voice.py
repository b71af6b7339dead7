from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.checkpoint import save_checkpoint
from svc.config import save_config
from svc.conversion import Converter, InferOptions, Voice
from svc.synthesizer import Synthesizer

SR = 44100


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
    monkeypatch.setattr("svc.conversion.voice.SPEECH_ENCODER_DIMS", {"whisper-ppg-tiny": 8})
    monkeypatch.setattr("svc.conversion.voice.build_speech_encoder", lambda *_, **__: voice.encoder)
    monkeypatch.setattr(
        "svc.conversion.voice.build_f0_predictor", lambda *_, **__: copy.copy(voice.f0_predictor)
    )
    wav = song([(0.5, 0.5)])
    expected = in_memory.convert(wav, SR, "bob", InferOptions())
    with Converter.from_files(tmp_path / "G_7.pth", device="cpu") as converter:
        assert converter.speakers == {"alice": 0, "bob": 1}
        result = converter.convert(wav, SR, "bob", InferOptions())
        assert not converter.voice.compat
    np.testing.assert_allclose(result, expected, atol=2e-5)
    with Converter.from_files(tmp_path / "G_7.pth", device="cpu", compat=True) as converter:
        assert converter.voice.synthesizer.compat


def test_the_encoder_of_the_config_may_have_a_file_of_its_own(
    make_converter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_converter.config(encoder_path="own.pt")
    save_checkpoint({"model": Synthesizer.from_config(config).state_dict()}, tmp_path / "G_1.pth")
    save_config(config, tmp_path / "config.json")
    asked: list[Any] = []
    encoder = make_converter().voice.encoder

    def build(name: str, **settings: Any) -> Any:
        asked.append((name, settings["path"], settings["device"]))
        return encoder

    monkeypatch.setattr("svc.conversion.voice.SPEECH_ENCODER_DIMS", {})
    monkeypatch.setattr("svc.conversion.voice.build_speech_encoder", build)
    for given in (None, "other.pt"):
        Converter.from_files(tmp_path / "G_1.pth", device="cpu", encoder_path=given).close()
    cpu = torch.device("cpu")
    assert asked == [
        ("whisper-ppg-tiny", Path("own.pt"), cpu),
        ("whisper-ppg-tiny", Path("other.pt"), cpu),
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_sings_the_same(make_converter: Any, song: Any) -> None:
    wav = song([(1.0, 0.5)])
    expected = make_converter().convert(wav, SR, 0)
    converter = make_converter()
    converter.voice.synthesizer.to("cuda")
    result = converter.convert(wav, SR, 0)
    assert np.corrcoef(result, expected)[0, 1] > 0.999
