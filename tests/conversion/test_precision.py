"""How a voice is computed: half precision on real singing, other engines, and what the manifest tells."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from svc.audio.io import read_audio
from svc.audio.pitch import F0Track
from svc.conversion import precision
from svc.conversion.compute import ComputeChoice, Computing
from svc.conversion.converter import Converter
from svc.conversion.diffusion_voice import DiffusionVoice
from svc.conversion.options import DiffusionChoice, HearingChoice, InferOptions
from svc.conversion.precision import exact_predictor, settle_choice, settle_voice, with_precision
from svc.conversion.voice import Voice
from svc.conversion.windows import Window
from svc.errors import ConfigError
from svc.f0 import build_f0_predictor
from svc.f0.settings import F0Settings
from svc.synthesizer.inference import Clip
from svc.vocoder.backends.blocks import BlockGenerator
from svc.vocoder.backends.onnx import OnnxGenerator
from svc.vocoder.backends.openvino import OpenvinoGenerator

SINGING = "audio/singing/gts_en_alto_2/EN_Alto_2_Mixed_Voice_and_Falsetto_Control.flac"
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CHOICE = HearingChoice(device="cpu", f0_predictor="pm")

Run = Callable[..., Any]


def sung(folder: Path, song: tuple[np.ndarray, int], compute: ComputeChoice | None) -> np.ndarray:
    with Converter.from_files(folder / "G_100.pth", choice=CHOICE, compute=compute) as converter:
        return converter.convert(*song, "alice")


def decibels(expected: np.ndarray, found: np.ndarray) -> float:
    error = found.astype(np.float64) - expected
    return float(
        10 * np.log10(np.square(expected, dtype=np.float64).sum() / np.square(error).sum())
    )


def cents_apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    praat = build_f0_predictor("pm", sampling_rate=44100, hop_length=512)
    a, b = praat(one), praat(other)
    both = (a.uv > 0) & (b.uv > 0)
    assert both.mean() > 0.3
    assert (a.uv != b.uv).mean() < 0.05
    return 1200 * np.abs(np.log2(b.f0[both] / a.f0[both]))


@pytest.fixture
def singing(shared: Path) -> tuple[np.ndarray, int]:
    wav, sr = read_audio(shared / SINGING)
    return wav[: 4 * sr], sr


def test_half_precision_on_real_singing(
    voice_folder: Path, singing: tuple[np.ndarray, int], stub_encoder: None
) -> None:
    """At least 30 dB, and the pitch within 5 cents."""
    exact = sung(voice_folder, singing, None)
    rounded = sung(voice_folder, singing, ComputeChoice(precision="bf16"))
    assert not np.array_equal(exact, rounded)
    assert decibels(exact, rounded) > 30
    cents = cents_apart(exact, rounded)
    assert np.median(cents) < 1
    assert np.percentile(cents, 95) < 5


@pytest.mark.parametrize(
    ("backend", "kind"), [("onnx", OnnxGenerator), ("openvino", OpenvinoGenerator)]
)
def test_other_engines_on_real_singing(
    voice_folder: Path,
    singing: tuple[np.ndarray, int],
    stub_encoder: None,
    backend: str,
    kind: type,
) -> None:
    exact = sung(voice_folder, singing, None)
    compute = ComputeChoice(backend)
    assert decibels(exact, sung(voice_folder, singing, compute)) > 90
    with Converter.from_files(
        voice_folder / "G_100.pth", choice=CHOICE, compute=compute
    ) as converter:
        voice = converter.voice
        assert isinstance(voice, Voice)
        decoder = cast("BlockGenerator", voice.synthesizer.dec)
        assert isinstance(getattr(decoder.sing, "__self__", None), kind)
        assert voice.computing == Computing(backend)
        names = dict(voice.synthesizer.named_parameters())
        assert not [name for name in names if name.startswith("dec.resblocks")]  # given back


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_clips_of_a_batch_are_what_they_are_alone(
    make_converter: Callable[..., Converter], backend: str
) -> None:
    voice = make_converter().voice
    assert isinstance(voice, Voice)
    net = voice.synthesizer
    net.fold_weight_norm()
    settle_voice(net, Computing(backend))
    torch.manual_seed(2)
    clips = [
        Clip(torch.randn(1, 8, n), torch.full((1, n), 220.0), torch.ones(1, n), n % 2)
        for n in (61, 40)
    ]
    together = net.infer_many(clips)
    for clip, (wav, _) in zip(clips, together):
        ((alone, _),) = net.infer_many([clip])
        assert alone.abs().max() > 0.01
        torch.testing.assert_close(wav, alone, atol=1e-5, rtol=0)


def test_the_library_is_exact_unless_asked(
    voice_folder: Path, singing: tuple[np.ndarray, int], stub_encoder: None
) -> None:
    plain = sung(voice_folder, singing, None)
    np.testing.assert_array_equal(plain, sung(voice_folder, singing, ComputeChoice()))
    choice = replace(CHOICE, compat=True)
    with Converter.from_files(voice_folder / "G_100.pth", choice=choice) as converter:
        voice = converter.voice
        assert isinstance(voice, Voice)
        # The original's convolutions, not those that are laid out anew.
        assert not voice.synthesizer.dec.conv_pre.channels_last
        assert voice.computing == Computing("torch", "fp32")


def test_what_is_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = ComputeChoice("auto", "auto")
    for fastest in ("bf16", "fp32"):
        monkeypatch.setattr(precision, "best_precision", lambda *_, f=fastest, **__: f)
        assert settle_choice(auto, CPU) == Computing("torch", fastest)
        assert settle_choice(auto, CPU, compat=True) == Computing("torch", "fp32")
        assert settle_choice(ComputeChoice("onnx", "auto"), CPU) == Computing("onnx", "fp32")
    assert settle_choice(ComputeChoice(), CPU) == Computing("torch", "fp32")
    for choice in (
        ComputeChoice("openvino"),
        ComputeChoice(precision="bf16"),
        ComputeChoice(compile=True),
    ):
        with pytest.raises(ConfigError, match="--compat is the original's arithmetic"):
            settle_choice(choice, CPU, compat=True)
    asked = []
    monkeypatch.setattr(precision, "check_compiler", asked.append)
    assert str(settle_choice(ComputeChoice(compile=True), CPU)) == "torch, fp32, compiled"
    assert asked == [CPU]


def test_an_older_gpu_takes_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    for capability, best in (((7, 5), "fp16"), ((6, 1), "fp32")):
        monkeypatch.setattr(
            torch.cuda, "get_device_capability", lambda device, found=capability: found
        )
        assert settle_choice(ComputeChoice("auto", "auto"), CUDA) == Computing("torch", best)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert settle_choice(ComputeChoice("auto", "auto"), CUDA) == Computing("torch", "bf16")


class SettingsSeen:
    """A predictor that tells whether float32 convolutions were exact when it was asked."""

    name, settings = "seen", F0Settings()

    def __call__(self, wav: object) -> F0Track:
        exact = np.float32(not torch.backends.cudnn.allow_tf32)
        return F0Track(np.full(1, exact), np.ones(1, np.float32))

    def track_batch(self, wavs: Sequence[object]) -> list[F0Track]:
        return [self(wav) for wav in wavs]


def test_a_predictor_on_a_gpu_is_exact_whoever_asks_it() -> None:
    wav, plain = np.zeros(512, np.float32), SettingsSeen()
    exact = exact_predictor(plain, CUDA)
    assert exact is not None
    assert (exact.name, exact.settings) == (plain.name, plain.settings)
    assert exact(wav).f0[0] == exact.track_batch([wav])[0].f0[0] == 1
    assert plain(wav).f0[0] == 0
    assert exact_predictor(plain, CPU) is plain
    assert exact_predictor(None, CUDA) is None


@pytest.mark.parametrize("kind", [Voice, DiffusionVoice])
def test_a_voice_on_a_gpu_sings_exactly(
    make_converter: Callable[..., Converter], monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    wav, seen = np.zeros(2048, np.float32), []

    def render(self: object, windows: Sequence[Window], *_: object) -> list[np.ndarray]:
        cudnn = torch.backends.cudnn
        seen.append((cudnn.allow_tf32, cudnn.deterministic))
        return [window.wav for window in windows]

    monkeypatch.setattr(kind, "_render", render)
    for device in (CPU, CUDA):
        voice: Any = make_converter().voice
        if kind is Voice:
            monkeypatch.setattr(Voice, "device", device)
        else:
            hears = SimpleNamespace(device=device, hop_length=512, compat=False)
            voice = DiffusionVoice(cast("Any", hears), cast("Any", None))
        voice.render(wav, 0, InferOptions())
    assert seen == [(True, False), (False, True)]


def test_diffusion_follows_unless_it_is_told() -> None:
    asked, silent = DiffusionChoice(Path("m.pt")), DiffusionChoice(Path("m.pt"), precision=None)
    bf16 = Computing("torch", "bf16")
    assert with_precision(asked, bf16).precision == "fp32"
    assert with_precision(silent, bf16).precision == "bf16"
    assert with_precision(silent, Computing("openvino", "fp16")).precision == "fp32"


# ------------------------------------------------------------------------------ the command line


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--precision", "bf16"], ("torch", "bf16")),
        (["--backend", "torch", "--precision", "fp32"], ("torch", "fp32")),
        (["--backend", "openvino", "--precision", "fp32"], ("openvino", "fp32")),
        (["--backend", "onnx"], ("onnx", "fp32")),
        (["--compat"], ("torch", "fp32")),
    ],
)
def test_the_manifest_tells(
    run: Run, work: Path, stub_encoder: None, flags: list[str], told: tuple[str, str]
) -> None:
    done = run("-n", "song", "--output", "out.wav", *flags)
    assert done.code == 0, done.err
    settings = json.loads(Path("out.wav.json").read_text())["settings"]
    assert (settings["backend"], settings["precision"]) == told
    assert settings["compiled"] is False


def test_what_auto_has_chosen_is_told_where_it_is_not_exact(
    run: Run, work: Path, stub_encoder: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fastest in ("bf16", "fp32"):
        monkeypatch.setattr(precision, "best_precision", lambda *_, f=fastest, **__: f)
        done = run("-n", "song", "--output", f"{fastest}.wav")
        assert done.code == 0, done.err
        note = "svc: computing with torch, bf16 on cpu (--precision fp32 is exact)\n"
        assert (note in done.err) == (fastest == "bf16")
        assert ("computing with" in done.err) == (fastest == "bf16")
        settings = json.loads(Path(f"{fastest}.wav.json").read_text())["settings"]
        assert (settings["backend"], settings["precision"]) == ("torch", fastest)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--precision", "fp16"], "--precision fp16 needs an accelerator"),
        (["--backend", "onnx", "--precision", "bf16"], "--precision bf16 and --backend onnx"),
        (["--compat", "--precision", "bf16"], "--compat is the original's arithmetic"),
        (["--backend", "onnx", "-m", "gone.pth"], "the model gone.pth is not there"),
    ],
)
def test_what_cannot_be_is_refused_before_any_song(
    run: Run, work: Path, no_reading: None, flags: list[str], message: str
) -> None:
    done = run("-n", "song", *flags)
    assert done.code == 2
    assert message in done.error


def test_a_missing_engine(
    run: Run, work: Path, no_reading: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    done = run("-n", "song", "--backend", "openvino")
    assert done.code == 2
    assert 'pip install "svc[openvino]"' in done.error


def test_a_missing_compiler(
    run: Run, work: Path, no_reading: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    done = run("-n", "song", "--compile")
    assert done.code == 2
    assert "--compile needs a C++ compiler" in done.error
