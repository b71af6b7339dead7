"""Texts, recordings, feature files, formats, names, published files."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.audio.io import write_audio
from svc.checkpoint import save_tensor
from svc.config import SvcConfig, find_template, save_config
from svc.errors import ConfigError, MissingFileError
from svc.inspection import Report, inspect, load_settings
from svc.inspection.formats import detect
from svc.inspection.published import find_known
from svc.pretrained import PRETRAINED

# ---- texts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["template.json", "template_tiny.json", "template_quick.json"])
def test_templates(look: Callable[..., Report], name: str) -> None:
    report = look(find_template(name))
    assert (report.finding.kind, report.good) == ("config", True)
    assert report.finding.facts["sampling_rate"] == 44100


def test_a_diffusion_config(look: Callable[..., Report]) -> None:
    report = look(find_template("diffusion_template.yaml"))
    assert (report.finding.kind, report.good) == ("diffusion config", True)
    assert report.finding.facts["encoder"] == "vec768l12"


def test_broken_configs(
    look: Callable[..., Report], make_config: Callable[..., SvcConfig], tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    save_config(make_config(), path)
    whole = path.read_text()
    path.write_text(whole[:300])
    assert "not valid JSON at line" in str(look(path).damage)
    for bad in ('"ssl_dim": "x"', '"ssl_dim": 1' + 400 * "0", '"n_speakers": [1]'):
        key = bad.split(":")[0]
        line = next(line for line in whole.splitlines() if key in line)
        path.write_text(whole.replace(line.strip().rstrip(","), bad))
        report = look(path)
        assert (report.finding.kind, report.good) == ("config", False), bad
    path.write_text(whole.replace('"ssl_dim"', '"ssl_dmi"'))
    assert 'key "model.ssl_dim" is missing' in str(look(path).damage)
    path.write_text(whole.replace('"n_layers": 1', '"n_layers": 1, "n_leyers": 2'))
    assert any('did you mean "n_layers"' in note for note in look(path).notes)


def test_json_and_texts_of_other_kinds(look: Callable[..., Report], tmp_path: Path) -> None:
    cases: dict[str, Any] = {
        "voice ranges": {"format": 1, "speakers": {}},
        "feature side-car": {"version": 1, "wav": {"bytes": 3}, "units": {}},
        "MoeVoiceStudio config": {"Type": "SoVits", "Name": "x", "Rate": 44100},
        "Hugging Face config": {"model_type": "wavlm"},
        "index side-car": {"format": "svc-feature-index"},
        "unknown": {"a": 1},
    }
    for kind, content in cases.items():
        path = tmp_path / "a.json"
        path.write_text(json.dumps(content))
        report = look(path)
        assert (report.finding.kind, report.good) == (kind, True)
    path.write_text('{"format": 1, "speakers": {"a": 1}}')
    assert look(path).damage is not None
    path.write_text("[" * 100_000)
    assert not look(path).good
    for text in ("a|b\nc.wav|d", "cat\ndog\n", "import os\nimport sys\n", "a: [1", "ü" * 9000):
        path.write_text(text)
        assert look(path).finding.kind == "unknown", text[:9]


def test_settings_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="is not there"):
        load_settings(tmp_path / "a.json")
    for text in ("{", "x", "{}"):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ConfigError, match=r"a\.json"):
            load_settings(tmp_path / "a.json")


def test_a_manifest(look: Callable[..., Report], tmp_path: Path) -> None:
    fact = {"sha256": "0" * 64, "bytes": 4, "opset": 17}
    raw = {
        "format": "svc-onnx", "version": 1, "sampling_rate": 44100, "hop_length": 512,
        "unit_interpolate_mode": "nearest", "speakers": {"alice": 0}, "n_speakers": 1,
        "units_dim": 384, "inter_channels": 192, "n_harmonics": 9, "has_auto_f0": False,
        "has_volume": False, "svc_version": "0.1",
        "encoder": {"id": "whisper-ppg-tiny", "dim": 384, "usual_seconds": 15.0},
        "graphs": {"encoder.onnx": fact, "synthesizer.onnx": fact},
        "source": {"checkpoint": "G_1.pth", "sha256": "0" * 64, "step": 1},
    }  # fmt: skip
    path = tmp_path / "svc.json"
    path.write_text(json.dumps(raw))
    assert "not beside it: encoder.onnx, synthesizer.onnx" in str(look(path).damage)
    for name in raw["graphs"]:
        (tmp_path / name).write_bytes(b"1234")
    report = look(path)
    assert (report.finding.kind, report.good) == ("exported voice", True)
    assert report.finding.facts["speakers"] == ["alice"]
    folder = look(tmp_path)
    assert (folder.finding.kind, folder.finding.facts["speakers"]) == ("exported voice", ["alice"])
    (tmp_path / "encoder.onnx").write_bytes(b"12345")
    assert "not as long as it says: encoder.onnx" in str(look(path).damage)
    path.write_text(json.dumps({**raw, "version": 9}))
    assert "version 9" in str(look(path).damage)


# ---- recordings and features ----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".aiff"])
def test_recordings(
    look: Callable[..., Report], sine: Callable[..., np.ndarray], tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    write_audio(path, sine(440, 0.5), 44100)
    report = look(path)
    facts = report.finding.facts
    assert (report.finding.kind, facts["sampling_rate"], facts["channels"]) == ("audio", 44100, 1)
    assert facts["seconds"] == pytest.approx(0.5, abs=0.06)
    assert report.good


def test_a_truncated_recording(
    look: Callable[..., Report], sine: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "a.wav"
    write_audio(path, sine(440, 0.5), 44100)
    path.write_bytes(path.read_bytes()[:20000])
    assert "truncated" in str(look(path).damage)


def test_features(
    look: Callable[..., Report], make_config: Callable[..., SvcConfig], tmp_path: Path
) -> None:
    save_tensor(torch.zeros(1, 384, 50), tmp_path / "a.wav.soft.pt")
    save_tensor(torch.zeros(1025, 86), tmp_path / "a.spec.pt")
    np.save(tmp_path / "a.wav.f0.npy", np.zeros((2, 86), np.float32))
    np.save(tmp_path / "a.wav.vol.npy", np.zeros(86, np.float32))
    np.save(tmp_path / "a.wav.mel.npy", np.zeros((86, 128), np.float32))
    config = make_config()
    kinds = {"a.wav.soft.pt": "units", "a.spec.pt": "spectrogram", "a.wav.f0.npy": "F0"}
    kinds |= {"a.wav.vol.npy": "volume", "a.wav.mel.npy": "mel"}
    for name, kind in kinds.items():
        report = look(tmp_path / name, config=config)
        assert (report.finding.kind, report.good, report.notes) == (kind, True, ()), name
    units = look(tmp_path / "a.wav.soft.pt", config=config)
    assert (units.finding.facts["units"], units.finding.facts["seconds"]) == (384, 1.0)
    assert units.match is not None
    assert units.match.fits
    other = look(tmp_path / "a.wav.soft.pt", config=make_config(ssl_dim=24)).match
    assert other is not None
    assert not other.fits
    path = tmp_path / "a.wav.vol.npy"
    path.write_bytes(path.read_bytes()[:-4])
    assert "ends inside the array" in str(look(path).damage)


# ---- formats --------------------------------------------------------------------------------------

HEADS = {
    b"PK\x03\x04": "zip", b"\x93NUMPY\x01\x00": "npy", b"RIFF\0\0\0\0WAVE": "audio",
    b"fLaC": "audio", b"ID3\x04": "audio", b"\xff\xfb\x90\x64": "audio", b"MThd\0\0\0\6": "midi",
    b"\0\0\0\x20ftypM4A ": "video", b"\x80\x02}q\0.": "pickle", b"\x80\x04\x95": "pickle",
    struct.pack("<Q", 640) + b'{"a"': "safetensors", struct.pack("<Q", 99) + b"{}": "safetensors",
    b"IwFl\x18\0\0\0": "faiss", b"IxF2\0\x03\0\0": "faiss", b"\x08\x07\x12\x07pytorch": "onnx",
    b"hello": "text", b"\x7fELF": "binary", b"\0": "binary",
    b"\x80\x02X\x05\0\0\0a{" + b'"': "pickle", b"RIFF\0\0\0\0AVI ": "binary",
    b"I wrote a text": "text",
}  # fmt: skip


def test_formats(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for head, format_ in HEADS.items():
        path.write_bytes(head)
        assert detect(path)[0] == format_, head


def test_anything_else(look: Callable[..., Report], tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"\x7fELF" + bytes(100))
    report = look(path)
    assert report.finding.what == "not a file svc knows"
    assert report.finding.facts == {
        "first_bytes": "7f 45 4c 46 00 00 00 00 00 00 00 00 00 00 00 00  .ELF............"
    }
    assert (report.size, report.good) == (104, True)
    for name, content in (("b.npz", np.zeros(3)), ("c.npz", np.zeros(4))):
        np.savez(tmp_path / name, a=content)
        assert "npz" in look(tmp_path / name).finding.what
    with pytest.raises(MissingFileError):
        inspect(tmp_path / "absent")


# ---- names ----------------------------------------------------------------------------------------


def test_misleading_names(
    look: Callable[..., Report], golden: Path, sine: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    centres = (golden / "golden_kmeans_50.pt").read_bytes()
    for name in (
        "G_800.pth",
        "D_1.pth",
        "model_5.pt",
        "song.wav",
        "x.onnx",
        "rmvpe.pt",
        "a.soft.pt",
    ):
        (tmp_path / name).write_bytes(centres)
        (note,) = look(tmp_path / name).notes
        assert note.startswith(f"misleading name: {name}"), note
    for name in ("kmeans_10000.pt", "anything.bin"):
        (tmp_path / name).write_bytes(centres)
        assert look(tmp_path / name).notes == ()
    write_audio(tmp_path / "a.wav", sine(440, 0.2), 16000)
    assert (
        "promises a voice, the content is recording"
        in (look((tmp_path / "a.wav").rename(tmp_path / "G_5.pth")).notes[0])
    )


# ---- published files ------------------------------------------------------------------------------


def test_published_files() -> None:
    file = PRETRAINED["rmvpe.pt"]
    for form in file.published:
        known, note = find_known(form.size, form.sha256)
        assert known is not None
        assert (known.name, known.checked, note) == ("rmvpe.pt", True, None)
        assert form.note in known.what
        known, note = find_known(form.size, None)
        assert known is not None
        assert not known.checked
        assert "--hash" in str(note)
        known, note = find_known(form.size, "0" * 64)
        assert known is None
        assert "another content" in str(note)
    assert find_known(1, None) == (None, None)


def test_large_files_are_hashed_on_demand(
    look: Callable[..., Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(100))
    assert look(path).sha256 is not None
    monkeypatch.setattr("svc.inspection.inspector.HASHED", 99)
    assert look(path).sha256 is None
    assert look(path, hash_large=True).sha256 is not None
