"""swift: the graph of the swift-f0 package, against the package itself and against known pitch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from svc.audio.pitch import cents
from svc.errors import CheckpointError, ConfigError, MissingDependencyError
from svc.f0.settings import F0Settings
from svc.f0.swift import SwiftPredictor, _sample, build_swift, swift_asset
from svc.f0.wave import F0Wave

Wave = npt.NDArray[np.float32]

pytestmark = pytest.mark.skipif(swift_asset() is None, reason="swift-f0 is not installed")

# What the package's own class says, in a process of its own: this project never imports it.
PACKAGE = """
import sys
import numpy as np
import swift_f0
data = np.load(sys.argv[1])
detector = swift_f0.SwiftF0(threads=1, spin=False)
found = detector.detect(data["wav"], 16000, fmin=float(data["low"]), fmax=float(data["high"]))
np.savez(sys.argv[2], pitch=found.pitch_hz, confidence=found.confidence, at=found.timestamps)
"""


def settings(**changes: float) -> F0Settings:
    return F0Settings(**{"threshold": 0.5, **changes})  # type: ignore[arg-type]


def vibrato(voice: Callable[..., Wave], seconds: float, hz: float = 300.0) -> tuple[Wave, Wave]:
    """A tone with ±50 cents at 6 Hz, and its pitch per frame of 512 samples."""
    time = np.arange(round(44100 * seconds)) / 44100
    pitch = hz * 2 ** (50 / 1200 * np.sin(2 * np.pi * 6 * time))
    return voice(pitch), pitch[np.arange(len(pitch) // 512) * 512]


@pytest.mark.parametrize("seconds", [0.5, 70.0])
def test_the_same_as_the_package(
    voice: Callable[..., Wave], tmp_path: Path, rng: np.random.Generator, seconds: float
) -> None:
    """At 16 kHz nothing is resampled: pitch to 1e-6 Hz (measured 3e-13), confidence to the bit.

    70 s are read in pieces by both, cut at different places.
    """
    time = np.arange(round(16000 * seconds)) / 16000
    wav = voice(200 * 2 ** np.sin(time), 16000) * (np.sin(3 * time) > -0.5)
    wav = (wav + 0.002 * rng.standard_normal(len(wav))).astype(np.float32)
    np.savez(tmp_path / "in.npz", wav=wav, low=50.0, high=1100.0)
    files = [str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    subprocess.run([sys.executable, "-c", PACKAGE, *files], check=True)
    expected = np.load(files[1])
    predictor = build_swift(settings(sampling_rate=16000, hop_length=256))
    pitch, confidence = predictor.raw_f0(F0Wave(wav, 16000))
    np.testing.assert_allclose(pitch, expected["pitch"], atol=1e-6, rtol=0)
    np.testing.assert_allclose(confidence, expected["confidence"], atol=1e-6, rtol=0)
    np.testing.assert_allclose(expected["at"], np.arange(len(pitch)) * 0.016, atol=1e-9)
    assert 0.5 < np.mean(confidence >= 0.5) < 0.95
    # With frames of the net's own length the track is what the net says.
    track = predictor(wav)
    np.testing.assert_array_equal(track.uv, confidence >= 0.5)
    voiced = track.uv > 0
    np.testing.assert_allclose(track.f0[voiced], pitch[voiced], rtol=1e-6)


def test_pieces_of_a_long_wave_are_what_one_would_be(voice: Callable[..., Wave]) -> None:
    wav, _ = vibrato(voice, 65)
    predictor = build_swift(settings())
    wave = F0Wave(wav, 44100)
    pitch, confidence = predictor.raw_f0(wave)
    whole = predictor._infer(wave.at_16k()[0].numpy())
    assert len(pitch) == 65 * 16000 // 256
    np.testing.assert_allclose(pitch, whole[0], atol=1e-6, rtol=0)
    np.testing.assert_allclose(confidence, whole[1], atol=1e-6, rtol=0)


def test_it_follows_a_vibrato_in_time(voice: Callable[..., Wave]) -> None:
    """The net's frames are 16 ms apart, those of the track 11.6 ms: read between, not beside, they
    are right to 10 cents at 95 of 100 (measured 4.9), where the nearer one would miss by 15.
    """
    wav, truth = vibrato(voice, 4)
    track = build_swift(settings())(wav)
    assert track.uv[2:-2].all()
    error = np.abs(cents(track.f0, truth))[2:-2]
    assert np.percentile(error, 95) < 10
    assert track.confidence is not None
    assert 0.8 < track.confidence[2:-2].min() <= track.confidence.max() <= 1


def test_between_notes_and_beside_silence_the_nearer_frame_counts() -> None:
    pitch = np.array([200.0, 200.0, 400.0, 400.0, 100.0])
    confidence = np.array([0.9, 0.9, 0.9, 0.9, 0.1], dtype=np.float32)
    at = np.array([0.5, 1.4, 1.6, 3.4, 3.6, 9.0])
    f0, sure = _sample(pitch, confidence, at, 0.5)
    np.testing.assert_allclose(f0, [200, 200, 400, 400, 0, 0])
    np.testing.assert_allclose(sure, [0.9, 0.9, 0.9, 0.58, 0.42, 0.1], atol=1e-6)
    f0, _ = _sample(np.array([200.0, 220.0]), np.ones(2, np.float32), np.array([0.5]), 0.5)
    np.testing.assert_allclose(f0, np.sqrt(200 * 220))


@pytest.mark.parametrize("gain", [0.01, 0.002])
def test_quiet_recordings(voice: Callable[..., Wave], gain: float) -> None:
    """The net does not know the level of a recording; ours is as sure of a quiet one."""
    wav, _ = vibrato(voice, 1)
    loud, quiet = (build_swift(settings())(wav * np.float32(g)) for g in (1, gain))
    np.testing.assert_array_equal(quiet.uv[2:], loud.uv[2:])
    assert np.nanmax(np.abs(cents(quiet.f0, loud.f0))[2:]) < 10
    assert loud.uv.mean() > 0.95


def test_the_threshold(shared: Path) -> None:
    from svc.audio.io import read_audio

    wav, sr = read_audio(shared / "audio" / "singing" / "martin" / "note_G3-3.flac")
    tracks = {
        level: build_swift(settings(sampling_rate=sr, threshold=level))(wav)
        for level in (0.0, 0.05, 0.5, 0.9)
    }
    voiced = [track.uv.sum() for track in tracks.values()]
    assert voiced == sorted(voiced, reverse=True)
    assert voiced[0] == len(wav) // 512
    assert voiced[-1] < voiced[0]
    for level, track in tracks.items():
        assert track.confidence is not None
        np.testing.assert_array_equal(track.uv, track.confidence >= level)


def test_the_package_is_not_imported(voice: Callable[..., Wave]) -> None:
    build_swift(settings())(vibrato(voice, 0.2)[0])
    assert "swift_f0" not in sys.modules


@pytest.mark.parametrize(("low", "high"), [(3000.0, 4000.0), (10.0, 40.0), (200.0, 205.0)])
def test_a_range_without_any_pitch_of_the_net(low: float, high: float) -> None:
    with pytest.raises(ConfigError, match=f"47 to 2094 Hz.*f0_min {low}.*{high}"):
        build_swift(settings(f0_min=low, f0_max=high))


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"onnxruntime.*svc\[swift\]"):
        build_swift(settings())
    monkeypatch.setattr("svc.f0.swift.importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r'"swift-f0".*svc\[swift\].*or use fcpe'):
        build_swift(settings())


def test_other_graphs_are_refused(tmp_path: Path) -> None:
    """That of version 0.1 has other inputs; a damaged one is no graph."""
    onnx = pytest.importorskip("onnx")
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    node = make.make_node("Identity", ["input_audio"], ["pitch_hz"])
    ports = [make.make_tensor_value_info(n, kind, [1, "N"]) for n in ("input_audio", "pitch_hz")]
    graph = make.make_graph([node], "old", ports[:1], ports[1:])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=8)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    with pytest.raises(CheckpointError, match=r"not the graph of swift-f0.*input_audio.*-U"):
        SwiftPredictor(path, settings())
    asset = swift_asset()
    assert asset is not None
    path.write_bytes(asset.read_bytes()[:50_000])
    with pytest.raises(CheckpointError, match=r"onnxruntime .* can run"):
        SwiftPredictor(path, settings())
