from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from svc.config.bundle import (
    ENCODER,
    SYNTHESIZER,
    file_sha256,
    parse_bundle,
    read_bundle,
    verify_bundle,
    write_bundle,
)
from svc.errors import CheckpointError, ConfigError, MissingFileError

GRAPH = {
    "sha256": "0" * 64,
    "bytes": 3,
    "opset": 17,
    "max_abs_error": 2e-6,
    "tolerance": 1e-4,
    "lengths": [43, 77],
}
RAW: dict[str, Any] = {
    "format": "svc-onnx",
    "version": 1,
    "sampling_rate": 44100,
    "hop_length": 512,
    "unit_interpolate_mode": "nearest",
    "speakers": {"alice": 0, "bob": 2},
    "n_speakers": 3,
    "units_dim": 384,
    "inter_channels": 192,
    "n_harmonics": 9,
    "has_auto_f0": False,
    "has_volume": True,
    "encoder": {"id": "whisper-ppg-tiny", "dim": 384, "usual_seconds": 15.0},
    "graphs": {ENCODER: GRAPH, SYNTHESIZER: GRAPH},
    "source": {"checkpoint": "G_800.pth", "sha256": "1" * 64, "step": 800},
    "svc_version": "1.0",
}


def changed(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(RAW), **changes}


def test_round_trip(tmp_path: Path) -> None:
    bundle = parse_bundle(RAW, where="test")
    assert bundle.encoder.most_samples == 480_000
    assert bundle.graphs[ENCODER].lengths == (43, 77)
    assert bundle.diffusion is None
    assert bundle.vocoder is None
    write_bundle(bundle, tmp_path)
    for name in bundle.graphs:
        (tmp_path / name).write_bytes(b"abc")
    assert read_bundle(tmp_path) == bundle
    assert read_bundle(tmp_path / "svc.json") == bundle
    assert json.loads((tmp_path / "svc.json").read_text())["format"] == "svc-onnx"


def test_parts_that_may_be_there() -> None:
    diffusion = {
        "sampling_rate": 44100, "hop_length": 512, "encoder": "vec768l12", "units_dim": 768,
        "unit_interpolate_mode": "nearest", "n_mels": 128, "n_hidden": 256, "timesteps": 1000,
        "k_step_max": 100, "n_speakers": 1, "method": "unipc", "speedup": 10, "speakers": {"a": 0},
    }  # fmt: skip
    vocoder = {
        "sampling_rate": 44100, "hop_length": 512, "n_mels": 128, "n_fft": 2048,
        "win_length": 2048, "fmin": 40, "fmax": None,
    }  # fmt: skip
    names = (
        "f0_rmvpe.onnx",
        "diffusion_condition.onnx",
        "diffusion_denoiser.onnx",
        "mel.onnx",
        "vocoder.onnx",
        "f0_decoder.onnx",
    )
    raw = changed(
        has_auto_f0=True,
        diffusion=diffusion,
        vocoder=vocoder,
        f0={"rmvpe": {"lowest": 31.7, "highest": 2005.5}},
        graphs={**RAW["graphs"], **dict.fromkeys(names, GRAPH)},
        voice_ranges={"alice": {"seconds": 3.0}},
        a_key_of_later=1,
    )
    bundle = parse_bundle(raw, where="test")
    assert bundle.diffusion is not None
    assert bundle.diffusion.mel_min == (-12.0,)
    assert bundle.vocoder is not None
    assert bundle.vocoder.fmin == 40.0
    assert bundle.f0["rmvpe"].threshold == 0.05
    assert bundle.voice_ranges["alice"] == {"seconds": 3.0}
    assert parse_bundle(bundle.to_dict(), where="again") == bundle


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ([], "not the manifest"),
        (changed(format="else"), "not the manifest"),
        (changed(version=2), "version 2"),
        (changed(sampling_rate="44100"), '"sampling_rate" must be a whole number'),
        (changed(sampling_rate=0), '"sampling_rate" must be at least 1'),
        (changed(speakers={"a": 3}), "ids from 0 to n_speakers - 1"),
        (changed(speakers={"a": "0"}), '"speakers" must be an object'),
        (changed(speakers={}), '"speakers"'),
        (changed(units_dim=768), "differ"),
        (changed(encoder=None), '"encoder" must be an object'),
        (changed(encoder={"id": "x", "dim": 384}), '"encoder.usual_seconds" is missing'),
        (changed(graphs={ENCODER: GRAPH}), "lacks synthesizer.onnx"),
        (changed(graphs={**RAW["graphs"], "../x.onnx": GRAPH}), "only files beside it"),
        (changed(has_auto_f0=True), "lacks f0_decoder.onnx"),
        (changed(f0={"fcpe": {"lowest": 1, "highest": 2}}), "lacks f0_fcpe.onnx"),
        (changed(f0=[]), '"f0" must be an object'),
        (changed(graphs={**RAW["graphs"], ENCODER: {"bytes": 1}}), "graphs.encoder.onnx.sha256"),
    ],
)
def test_wrong_values_are_named(raw: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=r"svc\.json: ") as caught:
        parse_bundle(raw, where="svc.json")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_graphs_must_be_there_and_whole(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="svc onnx-export"):
        read_bundle(tmp_path)
    bundle = parse_bundle(RAW, where="test")
    write_bundle(bundle, tmp_path)
    (tmp_path / ENCODER).write_bytes(b"abc")
    with pytest.raises(MissingFileError, match="synthesizer"):
        read_bundle(tmp_path)
    (tmp_path / SYNTHESIZER).write_bytes(b"abcd")
    with pytest.raises(CheckpointError, match="4 bytes, not 3"):
        read_bundle(tmp_path)
    (tmp_path / SYNTHESIZER).write_bytes(b"abc")
    with pytest.raises(CheckpointError, match="SHA-256"):
        verify_bundle(tmp_path, read_bundle(tmp_path))
    digest = file_sha256(tmp_path / ENCODER)
    assert digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    graphs = {name: {**GRAPH, "sha256": digest} for name in RAW["graphs"]}
    right = parse_bundle(changed(graphs=graphs), where="test")
    verify_bundle(tmp_path, right)


def test_damaged_json_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "svc.json").write_text('{"format": ')
    with pytest.raises(ConfigError, match="cannot be read"):
        read_bundle(tmp_path)


def test_reading_needs_no_torch() -> None:
    code = (
        "import sys, svc.config.bundle\n"
        "assert not {'torch', 'numpy', 'onnx', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
