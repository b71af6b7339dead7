"""`Backend.render_many`: what is rendered of a window does not depend on what is rendered with it."""

from __future__ import annotations

import dataclasses
import importlib.util
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.audio.pitch import F0Track
from svc.config import SPEECH_ENCODER_DIMS
from svc.conversion import Converter, InferOptions
from svc.conversion.batches import BatchSize
from svc.conversion.diffusion_voice import DiffusionVoice
from svc.conversion.options import DiffusionChoice, HearingChoice
from svc.conversion.refine import load_refiner
from svc.conversion.voice import Voice
from svc.conversion.windows import Window
from svc.vocoder.enhancer import load_enhancer


def _beside(path: Path) -> Any:
    """Import a module that lies beside this one."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DIFFUSION: Any = _beside(Path(__file__).with_name("small_diffusion.py"))
HOP = 512
FRAMES = (26, 22, 26, 9, 8)  # the two short ones are all end: shorter than twice the reach
BATCH = 4096
THROUGH_A_MEL = 5e-5  # the logarithm of a quiet band magnifies the rounding of what it hears
Make = Callable[..., Converter]


class Remembered:
    """A retriever whose vectors follow the loudness of what is heard."""

    speakers = {"alice": 0, "bob": 1}  # noqa: RUF012

    def match(self, units: torch.Tensor, name: str, speaker_id: int) -> torch.Tensor:
        return units.flip(1) * (1.0 + speaker_id)


@pytest.fixture
def windows(rng: np.random.Generator) -> list[Window]:
    """Windows of different lengths and loudness, one of them not in whole frames."""
    made = []
    for index, n_frames in enumerate(FRAMES):
        n = HOP * n_frames + 100 * (index == 1)
        tone = np.sin(np.arange(n) * (0.02 + 0.005 * index)) * np.linspace(0.1, 0.6, n)
        made.append(Window((tone + 0.02 * rng.standard_normal(n)).astype(np.float32)))
    return made


def tracked(windows: list[Window], rng: np.random.Generator) -> list[Window]:
    """The same with melodies, partly unvoiced; no two alike."""
    found = []
    for window in windows:
        n_frames = window.wav.size // HOP
        uv = (rng.random(n_frames) > 0.2).astype(np.float32)
        found.append(
            dataclasses.replace(window, track=F0Track(150 + 200 * rng.random(n_frames), uv))
        )
    return found


def mixed(windows: list[Window], rng: np.random.Generator) -> list[Window]:
    """All but the first with a mix of their own."""
    weights = [rng.random((window.wav.size // HOP, 2), np.float32) for window in windows]
    rest = [dataclasses.replace(window, weights=table) for window, table in zip(windows, weights)]
    return [windows[0], *rest[1:]]


def worst(voice: Any, windows: list[Window], options: InferOptions) -> float:
    """Largest difference between windows rendered together and alone; checks that they were."""
    together = dataclasses.replace(voice, batch=BatchSize(BATCH))
    assert together.batch_frames == BATCH
    alone = [voice.render_many([window], 1, options)[0] for window in windows]
    found = together.render_many(windows, 1, options)
    assert [one.size for one in found] == [window.wav.size // HOP * HOP for window in windows]
    assert max(float(np.abs(one).max()) for one in alone) > 0.05
    return max(float(np.abs(one - other).max()) for one, other in zip(alone, found, strict=True))


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "another seed and key": ({}, {"seed": 3, "transpose": 7, "noise_scale": 1.0}),
    "its own pitch": ({}, {"auto_f0": True}),
    "snake": ({"vocoder_name": "nsf-snake-hifigan"}, {}),
    "transformer flow": ({"use_transformer_flow": True}, {}),
    "all of it": (
        {"vol_embedding": True, "flow_share_parameter": True, "resblock": "2"},
        {"auto_f0": True, "loudness_envelope": 0.3, "cluster_ratio": 0.7, "protect": 0.5},
    ),
    "sounds of the source": ({}, {"keep_breath": 1.0, "keep_unvoiced": 0.5}),
}


@pytest.mark.parametrize("case", list(CASES))
def test_a_window_is_rendered_as_if_alone(
    make_converter: Make, windows: list[Window], rng: np.random.Generator, case: str
) -> None:
    model, settings = CASES[case]
    voice = dataclasses.replace(make_converter(**model).voice, retriever=Remembered())  # type: ignore[type-var]
    options = InferOptions(**settings)
    assert worst(voice, tracked(windows, rng), options) <= 1e-5


def test_mixes_of_speakers_in_one_batch(
    make_converter: Make, windows: list[Window], rng: np.random.Generator
) -> None:
    voice = make_converter().voice
    assert worst(voice, mixed(windows, rng), InferOptions(auto_f0=True)) <= 1e-5


def test_who_sings_reaches_every_window(make_converter: Make, windows: list[Window]) -> None:
    voice = dataclasses.replace(make_converter().voice, batch=BatchSize(BATCH))  # type: ignore[type-var]
    alice, bob = (voice.render_many(windows, who, InferOptions()) for who in (0, 1))
    assert min(float(np.abs(a - b).max()) for a, b in zip(alice, bob, strict=True)) > 1e-4


def test_windows_go_through_the_net_together(
    make_converter: Make, windows: list[Window], monkeypatch: pytest.MonkeyPatch
) -> None:
    voice: Any = dataclasses.replace(make_converter().voice, batch=BatchSize(BATCH))  # type: ignore[type-var]
    asked: list[Any] = []
    synthesize = voice.synthesizer.synthesize

    def spy(*args: Any, **given: Any) -> Any:
        asked.append((tuple(args[1].shape), given.get("lengths")))
        return synthesize(*args, **given)

    monkeypatch.setattr(voice.synthesizer, "synthesize", spy)
    voice.render_many(windows, 0, InferOptions())
    assert asked == [((3, 26), [26, 26, 22]), ((2, 9), [9, 8])]
    asked.clear()
    assert voice.render_many([], 0, InferOptions()) == []
    voice.render(windows[0].wav, 0, InferOptions())
    assert asked == [((1, 26), None)]  # exactly as it was before there were batches


def test_compat_renders_one_by_one(
    make_converter: Make, windows: list[Window], monkeypatch: pytest.MonkeyPatch
) -> None:
    voice: Any = make_converter(compat=True).voice
    together = dataclasses.replace(voice, batch=BatchSize(BATCH))
    assert together.batch_frames == 0
    options = InferOptions()
    alone = [voice.render(window.wav, 0, options) for window in windows]
    for one, found in zip(alone, together.render_many(windows, 0, options), strict=True):
        np.testing.assert_array_equal(one, found)


# ---- diffusion and the enhancer ------------------------------------------------------------------


@pytest.fixture
def choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DiffusionChoice:
    monkeypatch.setitem(SPEECH_ENCODER_DIMS, "whisper-ppg-tiny", 8)
    vocoder = DIFFUSION.write_vocoder(tmp_path / "vocoder")
    config = DIFFUSION.diffusion_config(
        vocoder, {"alice": 0, "bob": 1}, encoder="whisper-ppg-tiny", width=8
    )
    folder = tmp_path / "diffusion"
    return DiffusionChoice(DIFFUSION.write_diffusion(folder, config), method="ddim", speedup=5)


@pytest.mark.parametrize("second", [False, True])
def test_diffusion_goes_over_windows_as_if_alone(
    make_converter: Make,
    choice: DiffusionChoice,
    windows: list[Window],
    rng: np.random.Generator,
    second: bool,
) -> None:
    made = make_converter()
    refiner = load_refiner(choice, make_converter.config(), device=torch.device("cpu"))  # type: ignore[attr-defined]
    voice = dataclasses.replace(made.voice, refiner=refiner)  # type: ignore[type-var]
    given = mixed(tracked(windows, rng), rng)
    assert worst(voice, given, InferOptions(k_step=20, second_encoding=second)) <= THROUGH_A_MEL


def test_diffusion_alone_sings_windows_as_if_alone(
    make_converter: Make, choice: DiffusionChoice, windows: list[Window], rng: np.random.Generator
) -> None:
    voice: Any = make_converter().voice
    refiner = load_refiner(choice, None, device=torch.device("cpu"))
    alone = DiffusionVoice(voice.listener, refiner)
    assert worst(alone, tracked(windows, rng), InferOptions(k_step=20)) <= THROUGH_A_MEL


def test_the_enhancer_hears_every_window_by_itself(
    make_converter: Make, tmp_path: Path, windows: list[Window], rng: np.random.Generator
) -> None:
    vocoder = DIFFUSION.write_vocoder(tmp_path / "vocoder")
    voice = dataclasses.replace(make_converter().voice, enhancer=load_enhancer(vocoder))  # type: ignore[type-var]
    assert worst(voice, tracked(windows, rng), InferOptions(enhancer_key=2)) <= THROUGH_A_MEL


# ---- memory --------------------------------------------------------------------------------------


def test_a_batch_that_does_not_fit_is_halved(
    make_converter: Make,
    windows: list[Window],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    voice: Any = make_converter().voice
    alone = [voice.render(window.wav, 0, InferOptions()) for window in windows]
    together = dataclasses.replace(voice, batch=BatchSize(BATCH))
    synthesize = voice.synthesizer.synthesize

    def cramped(units: torch.Tensor, *args: Any, **given: Any) -> Any:
        if units.shape[0] * units.shape[2] > 40:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return synthesize(units, *args, **given)

    monkeypatch.setattr(voice.synthesizer, "synthesize", cramped)
    for _ in range(2):
        found = together.render_many(windows, 0, InferOptions())
        for one, other in zip(alone, found, strict=True):
            np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)
    assert together.batch_frames == 39
    assert caplog.text.count("do not fit into the memory") == 1


def test_nothing_of_a_voice_survives_its_converter(
    make_converter: Make, choice: DiffusionChoice, tmp_path: Path, windows: list[Window]
) -> None:
    vocoder = DIFFUSION.write_vocoder(tmp_path / "enhancer")
    voice: Any = dataclasses.replace(
        make_converter().voice,  # type: ignore[type-var]
        refiner=load_refiner(choice, make_converter.config(), device=torch.device("cpu")),  # type: ignore[attr-defined]
        batch=BatchSize(BATCH),
    )
    enhanced: Any = dataclasses.replace(voice, refiner=None, enhancer=load_enhancer(vocoder))
    parts: list[Any] = [
        voice.synthesizer, voice.encoder, voice.f0_predictor, voice.refiner.diffusion,
        voice.refiner.vocoder, enhanced.enhancer.vocoder, *voice.synthesizer.parameters(),
    ]  # fmt: skip
    left = [weakref.ref(part) for part in parts]
    with Converter(voice) as first, Converter(enhanced) as second:
        del voice, enhanced, parts
        for converter in (first, second):
            loaded: Any = converter.voice
            loaded.render_many(windows[3:], 0, InferOptions(k_step=5))
            del loaded
        assert all(part() is not None for part in left)
    assert [part() for part in left if part() is not None] == []


def test_a_loaded_voice_is_ready_for_inference_alone(
    work: Path, stub_encoder: None, song: Any
) -> None:
    with Converter.from_files(
        "logs/44k/G_100.pth", choice=HearingChoice(device="cpu")
    ) as converter:
        voice: Any = converter.voice
        assert isinstance(voice, Voice)
        assert voice.batch_frames == 0  # a CPU is filled by one window
        names = list(voice.synthesizer.state_dict())
        assert not [name for name in names if name.endswith(("weight_g", "weight_v"))]
        assert not [name for name in names if name.startswith("enc_q.")]
        assert not [p for p in voice.synthesizer.parameters() if p.requires_grad]
        seen: list[bool] = []
        voice.synthesizer.dec.register_forward_pre_hook(
            lambda *_: seen.append(torch.is_inference_mode_enabled())
        )
        voice.render(song([(0.3, 0.5)]), 0, InferOptions())
        assert seen == [True]
