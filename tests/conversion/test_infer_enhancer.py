"""`svc infer -eh`: the vocoder goes over the voice, before its loudness is matched."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from svc.audio.io import read_audio
from svc.conversion import Converter, InferOptions
from svc.conversion.compute import ComputeChoice
from svc.conversion.options import DiffusionChoice
from svc.errors import ConfigError
from svc.vocoder.enhancer import Enhancer, load_enhancer


def _beside(path: Path) -> Any:
    """Import a module that lies beside this one."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE: Any = _beside(Path(__file__).with_name("small_diffusion.py"))
SR, HOP = 44100, 512
Run = Callable[..., Any]


@pytest.fixture
def vocoder(work: Path) -> Path:
    """A small one where so-vits-svc 4.1 has the community's."""
    path: Path = MAKE.write_vocoder(work / "pretrain" / "nsf_hifigan")
    return path


def sung(run: Run, *flags: str) -> np.ndarray:
    """Result of a run, at the voice's rate and as long as the song."""
    done = run("-n", "song", "--output", "out.wav", *flags)
    assert done.code == 0, done.err
    assert "svc: note" not in done.err
    wav, sr = read_audio("out.wav")
    assert (wav.size, sr) == (SR // 2, SR)
    return wav


def with_enhancer(converter: Converter, enhancer: Any) -> Converter:
    return Converter(dataclasses.replace(converter.voice, enhancer=enhancer))  # type: ignore[type-var]


# ---------------------------------------------------------------- the command


def test_the_command(run: Run, vocoder: Path, stub_encoder: None) -> None:
    plain = sung(run)
    enhanced = sung(run, "-eh")
    assert np.abs(enhanced).max() > 1e-2
    assert np.abs(enhanced - plain).max() > 1e-2
    np.testing.assert_array_equal(sung(run, "-eh"), enhanced)
    np.testing.assert_array_equal(sung(run, "-eh", "--vocoder", str(vocoder)), enhanced)
    np.testing.assert_array_equal(sung(run, "-eh", "--vocoder", str(vocoder.parent)), enhanced)
    for flags in (("-eak", "4"), ("-eak", "-5"), ("--seed", "1"), ("-lea", "0"), ("--compat",)):
        assert np.abs(sung(run, "-eh", *flags) - enhanced).max() > 1e-3, flags


def test_a_vocoder_of_another_rate_and_hop(run: Run, work: Path, stub_encoder: None) -> None:
    """The original writes its samples at the voice's rate: too slow or too fast (V2)."""
    changes = {"sampling_rate": 48000, "hop_size": 256, "upsample_rates": [8, 4, 2, 2, 2]}
    other: Path = MAKE.write_vocoder(work / "other", **changes)
    for flags in ((), ("-eak", "3"), ("--compat",)):
        assert np.abs(sung(run, "-eh", "--vocoder", str(other), *flags)).max() > 1e-3


def test_a_missing_vocoder(run: Run, work: Path, stub_encoder: None, no_reading: None) -> None:
    done = run("-n", "song", "-eh")
    assert done.code == 2
    assert "the vocoder's file pretrain/nsf_hifigan/model is missing" in done.error
    assert "nsf_hifigan_20221211.zip" in done.error
    done = run("-n", "song", "-eh", "--vocoder", "mine/model")
    assert done.code == 2
    assert "the vocoder's file mine/model is missing" in done.error


def test_a_vocoder_that_is_none(
    run: Run, vocoder: Path, stub_encoder: None, no_reading: None
) -> None:
    vocoder.write_bytes(b"x" * 100)
    done = run("-n", "song", "-eh")
    assert done.code == 2
    assert "pretrain/nsf_hifigan/model" in done.error


def test_a_key_without_an_enhancer(run: Run, work: Path, stub_encoder: None) -> None:
    plain = sung(run)
    done = run("-n", "song", "--output", "other.wav", "-eak", "3")
    assert done.code == 0
    assert "svc: note: -eak has no effect without -eh\n" in done.err
    np.testing.assert_array_equal(read_audio("other.wav")[0], plain)


def test_the_library_refuses_what_the_command_refuses(tmp_path: Path) -> None:
    diffusion = DiffusionChoice(tmp_path / "model_1.pt")
    for model in (None, tmp_path / "G_1.pth"):
        with pytest.raises(ConfigError, match="-eh/--enhance and diffusion"):
            Converter.from_files(model, diffusion=diffusion, enhancer=tmp_path / "model")
    compute = ComputeChoice("onnx")
    with pytest.raises(ConfigError, match="-eh/--enhance and an exported voice"):
        Converter.from_files(tmp_path, enhancer=tmp_path / "model", compute=compute)
    for key in (-25, 25):
        with pytest.raises(ConfigError, match="-eak/--enhancer_adaptive_key"):
            InferOptions(enhancer_key=key)


# ---------------------------------------------------------------- what it is given


class Spy:
    """Stands in for an enhancer: tells what it was given, and returns a tone of its own."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self, wav: Tensor, sr: int, f0: Tensor, hop_length: int, **settings: Any
    ) -> Tensor:
        self.calls.append({"wav": wav, "sr": sr, "f0": f0, "hop": hop_length, **settings})
        return torch.sin(torch.arange(wav.shape[0]) * 0.02) * 0.25


def test_it_hears_the_voice_and_its_melody(make_converter: Any, song: Any) -> None:
    wav = song([(0.5, 0.5)])
    spy = Spy()
    converter = with_enhancer(make_converter(), spy)
    converter.convert(wav, SR, "bob", InferOptions(transpose=12, enhancer_key=4, seed=7))
    (call,) = spy.calls
    assert (call["sr"], call["hop"], call["adaptive_key"]) == (SR, HOP, 4)
    assert call["generator"].initial_seed() == 7
    assert call["f0"].shape == (call["wav"].shape[0] // HOP,)
    assert set(call["f0"].tolist()) == {0.0, 440.0}  # 0 in the silence around the song
    spy.calls.clear()
    converter.convert(wav, SR, "bob", InferOptions(auto_f0=True))
    (call,) = spy.calls
    assert not torch.isin(call["f0"], torch.tensor([0.0, 220.0, 440.0])).any()  # the voice's own


def test_loudness_is_matched_after_it(
    make_converter: Any, song: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy()
    shaped: list[Tensor] = []

    def match(source: Tensor, source_sr: int, output: Tensor, *_: object) -> Tensor:
        shaped.append(output)
        return output * 0.5

    monkeypatch.setattr("svc.conversion.voice.match_envelope", match)
    converter = with_enhancer(make_converter(), spy)
    made = converter.convert(song([(0.5, 0.5)]), SR, "bob", InferOptions(loudness_envelope=0.0))
    (output,) = shaped
    assert len(spy.calls) == 1
    assert float(output.abs().max()) == pytest.approx(0.25, abs=1e-3)
    assert np.abs(made).max() == pytest.approx(0.125, abs=1e-3)


@pytest.mark.parametrize(("key", "n"), [(0, 44032), (3, 43952), (-5, 43790)])
def test_compat_keeps_the_originals_lengths(
    make_converter: Any, work: Path, vocoder: Path, key: int, n: int
) -> None:
    """Of a stretch; its end is cut or filled up as for any stretch of the original."""
    options = InferOptions(enhancer_key=key, loudness_envelope=0.5)
    window = 0.3 * np.sin(np.arange(SR, dtype=np.float32) * 0.03)
    for compat, expected in ((True, n), (False, 44032)):
        enhancer = load_enhancer(vocoder, compat=compat)
        converter = with_enhancer(make_converter(compat=compat), enhancer)
        assert converter.voice.render(window, 0, options).shape == (expected,)
        assert converter.convert(window, SR, 0, options).shape == (SR,)


def test_a_song_of_many_stretches(make_converter: Any, vocoder: Path, song: Any) -> None:
    wav = song([(1.5, 0.5), (0.7, 0.0), (2.3, 0.4)])
    enhancer = load_enhancer(vocoder)
    assert isinstance(enhancer, Enhancer)
    converter = with_enhancer(make_converter(), enhancer)
    options = InferOptions(clip_seconds=0.9, enhancer_key=2)
    made = converter.convert(wav, SR, "alice", options)
    assert made.shape == wav.shape
    assert np.isfinite(made).all()
    np.testing.assert_array_equal(made, converter.convert(wav, SR, "alice", options))
