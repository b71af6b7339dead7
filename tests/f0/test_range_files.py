from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from svc.checkpoint import load_checkpoint, save_checkpoint, save_safetensors
from svc.errors import CheckpointError, ConfigError, MissingFileError, OutputError
from svc.f0.range_files import (
    RANGE_FILE,
    find_ranges,
    own_ranges,
    plain_ranges,
    read_ranges,
    write_ranges,
)
from svc.f0.voice_range import VoiceRange

LOW, HIGH = VoiceRange.between(100, 200), VoiceRange.between(200, 400)


def write_model(path: Path, svc: Any = None) -> Path:
    content = {"model": {"weight": torch.zeros(3)}, "iteration": 1}
    save_checkpoint(content if svc is None else {**content, "svc": svc}, path)
    return path


def test_side_car_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / RANGE_FILE
    ranges = {"alice": LOW, "歌 手": HIGH}
    write_ranges(path, ranges)
    assert read_ranges(path) == ranges
    assert "歌 手" in path.read_text(encoding="utf-8")


def test_no_side_car_is_no_range(tmp_path: Path) -> None:
    assert read_ranges(tmp_path / RANGE_FILE) == {}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"speakers": 3}', '{"speakers": {"alice": {}}}', "[" * 100_000, "\x80"],
)
def test_damaged_side_cars_say_what_to_do(tmp_path: Path, text: str) -> None:
    path = tmp_path / RANGE_FILE
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"voice_range\.json .*svc voice-range") as caught:
        read_ranges(path)
    assert "\n" not in str(caught.value)


def test_a_side_car_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / RANGE_FILE).mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        read_ranges(tmp_path / RANGE_FILE)
    with pytest.raises(OutputError):
        write_ranges(tmp_path / RANGE_FILE, {"alice": LOW})


def test_the_checkpoint_goes_before_the_side_car(tmp_path: Path) -> None:
    model = write_model(tmp_path / "G_1.pth", {"voice_range": plain_ranges({"alice": LOW})})
    write_ranges(tmp_path / RANGE_FILE, {"alice": HIGH, "bob": HIGH})
    assert own_ranges(model) == {"alice": LOW}
    assert find_ranges(model) == {"alice": LOW, "bob": HIGH}


def test_checkpoints_of_other_programs_have_the_side_car(tmp_path: Path) -> None:
    model = write_model(tmp_path / "G_1.pth")
    assert find_ranges(model) == {}
    write_ranges(tmp_path / RANGE_FILE, {"bob": HIGH})
    assert find_ranges(model) == {"bob": HIGH}
    released = tmp_path / "voice.safetensors"
    save_safetensors(load_checkpoint(model)["model"], released)
    assert find_ranges(released) == {"bob": HIGH}


@pytest.mark.parametrize("svc", [3, {}, {"voice_range": None}, {"voice_range": {}}])
def test_checkpoints_without_ranges(tmp_path: Path, svc: Any) -> None:
    assert find_ranges(write_model(tmp_path / "G_1.pth", svc)) == {}


@pytest.mark.parametrize("values", [[], {"alice": 3}, {"alice": {"hz": {"1": "x"}}}, "x"])
def test_damaged_entries_name_the_checkpoint(tmp_path: Path, values: Any) -> None:
    model = write_model(tmp_path / "G_1.pth", {"voice_range": values})
    with pytest.raises(CheckpointError, match=r"G_1\.pth: damaged range of a voice"):
        find_ranges(model)


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        find_ranges(tmp_path / "G_1.pth")


def test_the_entry_is_plain(tmp_path: Path) -> None:
    """Nothing but what JSON knows: weights_only reading and other programs take it."""
    plain = plain_ranges({"alice": LOW})
    assert json.loads(json.dumps(plain)) == plain
    path = write_model(tmp_path / "G_1.pth", {"voice_range": plain})
    assert torch.load(path, weights_only=True)["svc"]["voice_range"] == plain
