"""An edited F0 in a data set: exact, kept by `svc preprocess`, until somebody wants it anew."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.audio.io import write_audio
from svc.audio.pitch import F0Track
from svc.config import load_config
from svc.dataset.configs import ConfigOptions
from svc.dataset.edited_f0 import apply_curve
from svc.dataset.extraction import Extractor
from svc.dataset.features import FeatureCache, FeaturePaths, FeatureSettings
from svc.dataset.preprocess import PreprocessOptions, PreprocessReport, preprocess
from svc.errors import CurveError, DatasetError, MissingFileError
from svc.f0 import build_f0_predictor
from svc.f0.curve import FrameGrid, read_curve, write_curve
from svc.f0.extract import curve_from_file

GRID = FrameGrid()
CLIP = Path("dataset/44k/bob/01.wav")


def run(predictor: str = "dio", **changes: Any) -> PreprocessReport:
    configs = ConfigOptions(speech_encoder="whisper-ppg-tiny")
    return preprocess(
        PreprocessOptions(configs=configs, f0_predictor=predictor, device="cpu", **changes)
    )


@pytest.fixture
def data_set(place: Path, encoder: Any, voice: Callable[..., np.ndarray]) -> Any:
    """Three clips of half a second with their features."""
    for i in range(3):
        glide = np.linspace(150 + 20 * i, 260, 22050 + 100 * i)
        write_audio(CLIP.with_name(f"{i:02d}.wav"), voice(glide), 44100)
    run()
    return encoder


@pytest.fixture
def voice() -> Callable[..., np.ndarray]:
    def make(pitch: np.ndarray) -> np.ndarray:
        phase = 2 * np.pi * np.cumsum(pitch) / 44100
        return (0.2 * sum(np.sin(k * phase) / k for k in range(1, 12))).astype(np.float32)

    return make


def stored(clip: Path = CLIP) -> np.ndarray:
    return np.load(FeaturePaths.of(clip).f0)


def meta(clip: Path = CLIP) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(FeaturePaths.of(clip).meta.read_text())
    return loaded


def extract(path: str, predictor: str = "dio", change: float = 1.0) -> Path:
    track = curve_from_file(CLIP, build_f0_predictor(predictor), GRID)
    write_curve(path, F0Track(track.f0 * np.float32(change), track.uv), GRID)
    return Path(path)


@pytest.mark.parametrize("predictor", ["pm", "dio", "harvest", "fcpe"])
def test_extract_and_apply_give_the_bits_of_preprocess(data_set: Any, predictor: str) -> None:
    run(predictor)
    expected, before = FeaturePaths.of(CLIP).f0.read_bytes(), meta()
    curve = extract("a.csv", predictor)
    FeaturePaths.of(CLIP).f0.unlink()
    done = apply_curve(curve, CLIP, load_config("configs/config.json"))
    assert FeaturePaths.of(CLIP).f0.read_bytes() == expected
    assert done.absent == ()
    # Nothing else has changed, and the side-car tells what this F0 is.
    after = meta()
    assert after.pop("f0") == {
        "edited": True, "curve": "a.csv", "sampling_rate": 44100, "hop_length": 512,
    }  # fmt: skip
    before.pop("f0")
    assert after == before


def test_training_reads_the_edit_and_preprocess_keeps_it(data_set: Any) -> None:
    config = load_config("configs/config.json")
    original = stored()
    apply_curve(extract("a.csv", change=2), CLIP, config)
    features = FeatureCache.from_config(config).load(CLIP)
    assert np.array_equal(features.f0.numpy(), 2 * original[0])
    assert np.array_equal(features.uv.numpy(), original[1])
    report = run()
    assert (report.computed, report.fresh) == (0, 3)
    encoded = data_set.calls
    # Another predictor computes the F0 of the other clips anew, not this one.
    report = run("pm")
    assert (report.computed, report.fresh) == (2, 1)
    assert data_set.calls == encoded
    assert np.array_equal(stored()[0], 2 * original[0])
    (note,) = [note for note in report.notes if "svc f0 apply" in note]
    assert note.startswith("1 clips keep the F0")


def test_it_survives_when_other_parts_are_computed_anew(data_set: Any) -> None:
    original = stored()
    apply_curve(extract("a.csv", change=2), CLIP, load_config("configs/config.json"))
    FeaturePaths.of(CLIP).units.unlink()
    run()
    assert np.array_equal(stored()[0], 2 * original[0])
    assert meta()["f0"]["edited"] is True
    assert run().fresh == 3


def test_it_is_computed_anew_on_purpose(data_set: Any) -> None:
    original = stored()
    apply_curve(extract("a.csv", change=2), CLIP, load_config("configs/config.json"))
    report = run(overwrite_f0=True)
    assert (report.computed, report.fresh) == (1, 2)
    assert not any("svc f0 apply" in note for note in report.notes)
    assert np.array_equal(stored(), original)
    assert meta()["f0"]["f0_predictor"] == "dio"
    assert run().fresh == 3


def test_it_goes_when_the_clip_changes(data_set: Any, voice: Any) -> None:
    config = load_config("configs/config.json")
    apply_curve(extract("a.csv", change=2), CLIP, config)
    write_audio(CLIP, voice(np.full(22150, 200.0)), 44100)
    with pytest.raises(DatasetError, match="has changed"):
        FeatureCache.from_config(config).load(CLIP)
    assert run().computed == 1
    assert np.median(stored()[0]) == pytest.approx(200, rel=0.01)
    # A new time alone is no change.
    apply_curve(extract("a.csv", change=2), CLIP, config)
    os.utime(CLIP, (1, 1))
    assert run().fresh == 3


def test_another_hop_makes_it_stale(data_set: Any) -> None:
    apply_curve(extract("a.csv"), CLIP, load_config("configs/config.json"))
    for settings, fits in (((44100, 512), True), ((44100, 256), False), ((32000, 512), False)):
        cache = FeatureCache(FeatureSettings("whisper-ppg-tiny", *settings, f0_predictor="x"))
        assert ("f0" not in cache.stale(CLIP)) is fits
        assert cache.has_edited_f0(CLIP) is fits


def test_a_clip_without_features_gets_the_rest_later(data_set: Any) -> None:
    config = load_config("configs/config.json")
    curve, original = extract("a.csv", change=2), stored()
    for path in CLIP.parent.glob("01.wav.*"):
        path.unlink()
    done = apply_curve(curve, CLIP, config)
    assert done.absent == ("units", "volume")
    assert run().computed == 1
    assert np.array_equal(stored()[0], 2 * original[0])
    assert run().fresh == 3


def test_side_cars_of_the_original_program_have_none(data_set: Any) -> None:
    """Without a side-car the other files stay as they are and can still be read."""
    config = load_config("configs/config.json")
    units = FeaturePaths.of(CLIP).units.read_bytes()
    FeaturePaths.of(CLIP).meta.unlink()
    apply_curve(extract("a.csv", change=2), CLIP, config)
    assert FeaturePaths.of(CLIP).units.read_bytes() == units
    assert set(meta()) == {"version", "wav", "f0"}
    assert FeatureCache.from_config(config).load(CLIP).units.shape[0] == 384


def test_midi_and_what_does_not_fit(data_set: Any) -> None:
    config = load_config("configs/config.json")
    original = stored()
    track = read_curve(extract("a.csv"), GRID)
    write_curve("a.mid", track, GRID)
    apply_curve(Path("a.mid"), CLIP, config)
    voiced = original[1] > 0
    assert np.array_equal(stored()[1], original[1])
    away = 1200 * np.log2(stored()[0][voiced] / original[0][voiced])
    assert np.abs(away).max() < 0.08
    write_curve("long.csv", F0Track(np.full(90, 200.0), np.ones(90)), GRID)
    with pytest.raises(CurveError, match=r"long\.csv lasts 1\.04 s, the song 0\.50 s"):
        apply_curve(Path("long.csv"), CLIP, config)
    write_audio("other.wav", np.full(16000, 0.1, np.float32), 16000)
    with pytest.raises(DatasetError, match=r"other\.wav: its rate is 16000 Hz"):
        apply_curve(Path("a.csv"), Path("other.wav"), config)
    with pytest.raises(MissingFileError, match=r"no\.wav"):
        apply_curve(Path("a.csv"), Path("no.wav"), config)


def test_the_predictor_is_not_asked_about_an_edited_clip(
    data_set: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_curve(extract("a.csv", change=2), CLIP, load_config("configs/config.json"))
    FeaturePaths.of(CLIP).volume.unlink()
    seen: list[int] = []
    real = Extractor._f0

    def spy(self: Extractor, wav: np.ndarray) -> torch.Tensor:
        seen.append(len(wav))
        return real(self, wav)

    monkeypatch.setattr(Extractor, "_f0", spy)
    run()
    assert not seen
