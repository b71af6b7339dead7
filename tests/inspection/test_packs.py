"""A pack of features says what is in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from svc.cli.main import main
from svc.dataset.pack import Array, Pack
from svc.dataset.pack_writer import NewClip, write_pack
from svc.inspection.inspector import inspect


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    path = tmp_path / "44k" / "features.pack"
    f0 = {"f0_predictor": "rmvpe", "hop_length": 512, "sampling_rate": 44100}
    edited = {"edited": True, "curve": "a.csv", "hop_length": 512, "sampling_rate": 44100}
    with write_pack(path, 1000) as writer:
        for number, speaker in enumerate(("bob", "alice\x1b[2J", "bob")):
            arrays: dict[str, Array] = {
                "wav": np.zeros(44100 * 2, np.int16),
                "units": np.zeros((100, 768), np.float32),
                "f0": np.ones((2, 172), np.float32),
            }
            if number == 0:
                arrays["volume"] = np.ones(172, np.float32)
            made = {
                "units": {"speech_encoder": "vec768l12", "encoder_file": None},
                "f0": f0 if number else edited,
            }
            writer.add(NewClip((speaker, f"{number}.wav"), 44100, 0.5, {}, made, arrays))
    return path


def test_what_is_in_it(pack: Path) -> None:
    report = inspect(pack)
    assert report.finding.kind == "pack"
    assert report.finding.damage is None
    assert report.safety.safe is True
    assert report.finding.facts == {
        "clips": 3,
        "speakers": {"alice\\x1b[2J": 1, "bob": 2},
        "minutes": 0.1,
        "sampling_rate": 44100,
        "parts": {"f0": 3, "units": 3, "volume": 1},
        "ssl_dim": 768,
        "speech_encoder": "vec768l12",
        "f0_predictor": ["edited", "rmvpe"],
        "hop_length": 512,
    }
    assert "vec768l12" in report.finding.fits[0]


def test_a_cut_off_one_is_damaged(pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(pack)]) == 0
    assert "pack of recordings and features" in capsys.readouterr().out
    pack.write_bytes(pack.read_bytes()[:-1])
    assert main(["inspect", str(pack)]) == 1
    assert "it is cut off, or its index was changed" in capsys.readouterr().out


def test_a_folder_with_a_pack_is_a_data_set(pack: Path) -> None:
    folder = pack.parent / "bob"
    folder.mkdir()
    (folder / "0.wav").write_bytes(b"RIFF")
    report = inspect(pack.parent)
    assert report.finding.kind == "data set"
    assert report.finding.facts["features.pack"] == "pack of recordings and features of a data set"
    (pack.parent / "notes.txt").write_text("hello")
    assert inspect(pack.parent).finding.kind == "folder"


def test_a_pack_without_side_cars_cannot_say_what_made_it(tmp_path: Path) -> None:
    path = tmp_path / "features.pack"
    arrays: dict[str, Array] = {
        "wav": np.zeros(99, np.int16),
        "units": np.zeros((3, 256), np.float32),
    }
    with write_pack(path, 1000) as writer:
        writer.add(NewClip(("a", "0.wav"), 44100, 0.5, {}, None, arrays))
    facts = inspect(path).finding.facts
    assert facts["speech_encoder"] is facts["f0_predictor"] is facts["hop_length"] is None
    assert facts["ssl_dim"] == 256
    assert len(Pack(path)) == 1
