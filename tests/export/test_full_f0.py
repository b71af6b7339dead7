"""f0_rmvpe.onnx and f0_fcpe.onnx against the predictors, on real singing."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from svc.audio.io import read_audio
from svc.audio.resample import resample
from svc.errors import ConfigError, MissingFileError
from svc.export.full_f0 import Predictor, export_f0, load_predictor
from svc.f0.fcpe import FcpePredictor
from svc.f0.rmvpe import RmvpePredictor
from svc.f0.settings import F0Settings
from svc.f0.wave import F0Wave

HZ = 0.01  # 0.02 cents at 800 Hz
SURE = 1e-5


@dataclass
class Exported:
    """A predictor and its graph."""

    predictor: Predictor
    path: Path
    session: Any


@pytest.fixture(scope="module")
def singing(shared: Path) -> np.ndarray:
    folder = shared / "audio" / "singing" / "chengu"
    wavs = [read_audio(path) for path in sorted(folder.glob("*.flac"))[:3]]
    return np.concatenate([resample(wav, sr, 16000) for wav, sr in wavs])


@pytest.fixture(scope="module", params=["rmvpe", "fcpe", "fcpe of torchfcpe"])
def exported(
    request: pytest.FixtureRequest, golden: Path, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    folder = tmp_path_factory.mktemp("f0")
    name = request.param.split()[0]
    if request.param == name:
        shutil.copyfile(golden / f"golden_enc_tiny_{name}.pt", folder / f"{name}.pt")
    predictor = load_predictor(name, folder)
    path = folder / f"f0_{name}.onnx"
    facts, check = export_f0(predictor, path, tolerance=1e-4, metadata={"svc_version": "x"})
    assert check.max_abs_error <= HZ
    assert (facts.sampling_rate, facts.hop_length) == (16000, 160)
    assert facts.lowest < 33
    assert facts.highest > 1970
    return Exported(predictor, path, onnxruntime.InferenceSession(path))


def read(exported: Exported, wav: np.ndarray, *limits: float) -> list[np.ndarray]:
    names = ("threshold", "f0_min", "f0_max")
    feed = {name: np.float32([value]) for name, value in zip(names, limits)}
    return exported.session.run(["f0", "confidence"], {"wav": wav[None], **feed})


def read_torch(
    predictor: Predictor, wav: np.ndarray, *limits: float
) -> tuple[np.ndarray, np.ndarray]:
    settings = F0Settings(16000, 160, limits[1], limits[2], limits[0])
    wave = F0Wave(wav, 16000)
    if isinstance(predictor, RmvpePredictor):
        found = RmvpePredictor(predictor.net, settings, high_register=False).raw_f0(wave)
        return found.f0.numpy(), found.confidence.numpy()
    return FcpePredictor(predictor.net, predictor.mel, settings)._read([wave])[0]


@pytest.mark.parametrize("n_samples", [1600, 5119, 40_000])
def test_graph_is_the_predictor(n_samples: int, exported: Exported, singing: np.ndarray) -> None:
    wav = singing[9000 : 9000 + n_samples]
    limits = (0.05, 50.0, 1100.0)
    f0, confidence = read(exported, wav, *limits)
    wanted, sure = read_torch(exported.predictor, wav, *limits)
    assert f0.shape == confidence.shape == (1, n_samples // 160 + 1)
    assert np.abs(f0[0] - wanted).max() <= HZ
    assert np.abs(confidence[0] - sure).max() <= SURE
    assert (wanted > 0).any()


def test_limits_are_inputs(exported: Exported, singing: np.ndarray) -> None:
    wav = singing[9000:29_000]
    usual = float(np.median(read(exported, wav, 0.05, 50.0, 1100.0)[0]))
    low, high = 0.9 * usual, 1.1 * usual
    f0, confidence = read(exported, wav, 0.05, low, high)
    wanted, _ = read_torch(exported.predictor, wav, 0.05, low, high)
    assert np.abs(f0[0] - wanted).max() <= HZ
    assert low <= f0[f0 > 0].min()
    assert f0.max() <= high
    level = float(np.median(confidence))
    voiced = read(exported, wav, level, low, high)[0] > 0
    assert np.array_equal(voiced, confidence > level)
    assert 0 < voiced.sum() < voiced.size


def test_graph_tells_what_it_is(exported: Exported) -> None:
    predictor = exported.predictor
    told = {prop.key: prop.value for prop in onnx.load(exported.path).metadata_props}
    assert told["f0_predictor"] == predictor.name
    assert told["svc_version"] == "x"
    assert ("high_register" in told) == (predictor.name == "rmvpe")


def test_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rmvpe and fcpe can"):
        load_predictor("pm", tmp_path)
    with pytest.raises(MissingFileError, match="rmvpe has no weights"):
        load_predictor("rmvpe", tmp_path)
