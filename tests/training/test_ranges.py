"""What a run notes about the ranges of its voices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from svc.checkpoint import load_checkpoint, save_checkpoint
from svc.errors import CheckpointError, DatasetError
from svc.f0.range_files import RANGE_FILE, find_ranges, plain_ranges, read_ranges, write_ranges
from svc.f0.voice_range import VoiceRange
from svc.training.checks import CheckedList, read_lists
from svc.training.options import TrainOptions, TrainResult
from svc.training.ranges import measure_ranges
from svc.training.synthesizer import train

pytestmark = pytest.mark.usefixtures("no_pictures")
OTHER = VoiceRange.between(500, 600)


def go(voices: Any, **options: Any) -> TrainResult:
    return train(TrainOptions(model="m", config=voices.config_path, device="cpu", **options))


def edges(ranges: dict[str, VoiceRange]) -> dict[str, tuple[float, float]]:
    return {name: (voice.low, voice.high) for name, voice in ranges.items()}


# The clips of tests/training/conftest.py: alice has 110, 130, 150 and 170 Hz, bob 170 to 230.
KNOWN = {"alice": (110.0, 170.0), "bob": (170.0, 230.0)}


def test_every_checkpoint_and_the_side_car_tell_the_ranges(voices: Any) -> None:
    go(voices, max_steps=4, eval_interval=2)
    run_dir = Path("logs/m")
    side_car = read_ranges(run_dir / RANGE_FILE)
    assert edges(side_car) == KNOWN
    for step in (2, 4):
        content = load_checkpoint(run_dir / f"G_{step}.pth")
        assert content["svc"]["voice_range"] == json.loads(json.dumps(plain_ranges(side_car)))
        assert set(content) == {"model", "iteration", "optimizer", "learning_rate", "svc"}
        assert find_ranges(run_dir / f"G_{step}.pth") == side_car
        assert "voice_range" not in load_checkpoint(run_dir / f"D_{step}.pth")["svc"]
    # 60 + 45 + 70 + 52 frames of 8 ms; the first three of each clip are unvoiced.
    assert side_car["alice"].seconds == pytest.approx((60 + 45 + 70 + 52 - 12) * 64 / 8000)
    log = (run_dir / "train.log").read_text(encoding="utf-8")
    assert "range of alice: A2-F3, half of it above" in log


def test_held_out_clips_do_not_count(voices: Any) -> None:
    training, validation = read_lists(voices.config)
    assert len(validation.paths) == 2
    ranges, _ = measure_ranges(voices.config, training, Path("logs/m"), None)
    assert edges(ranges) == KNOWN


def test_a_resumed_run_measures_again_and_keeps_who_has_no_clips_now(voices: Any) -> None:
    go(voices, max_steps=2)
    path = Path("logs/m/G_2.pth")
    content = load_checkpoint(path)
    content["svc"]["voice_range"] = plain_ranges({"alice": OTHER, "bob": OTHER, "gone": OTHER})
    save_checkpoint(content, path)
    lines = [line for line in Path("train.txt").read_text().splitlines() if "alice" in line]
    Path("train.txt").write_text("\n".join(lines))
    go(voices, max_steps=3)
    expected = {"alice": KNOWN["alice"], "bob": (500.0, 600.0)}
    assert edges(find_ranges("logs/m/G_3.pth")) == expected
    assert edges(read_ranges(Path("logs/m") / RANGE_FILE)) == expected


def test_an_original_run_takes_the_side_car_along(voices: Any) -> None:
    """A checkpoint without our keys and a side-car of `svc voice-range`."""
    training, _ = read_lists(voices.config)
    alice = [path for path in training.paths if path.parent.name == "alice"]
    write_ranges(Path("logs/m") / RANGE_FILE, {"alice": OTHER, "bob": OTHER})
    only = CheckedList(alice, [60] * len(alice))
    ranges, _ = measure_ranges(voices.config, only, Path("logs/m"), {"model": {}})
    assert edges(ranges) == {"alice": KNOWN["alice"], "bob": (500.0, 600.0)}
    fresh, notes = measure_ranges(voices.config, only, Path("logs/m"), None)
    assert edges(fresh) == {"alice": KNOWN["alice"]}
    assert notes[-1] == "range of bob: not known, nothing is voiced"


@pytest.mark.parametrize("where", ["side-car", "checkpoint"])
def test_damaged_ranges_are_measured_anew(voices: Any, where: str) -> None:
    training, _ = read_lists(voices.config)
    extra: Any = {}
    Path("logs/m").mkdir(parents=True)
    if where == "side-car":
        (Path("logs/m") / RANGE_FILE).write_text("{")
    else:
        extra = {"voice_range": {"alice": 3}}
    ranges, notes = measure_ranges(
        voices.config, training, Path("logs/m"), {"model": {}, "svc": extra}
    )
    assert edges(ranges) == KNOWN
    assert any("earlier ranges of the voices are left out" in note for note in notes)


def test_a_damaged_pitch_file_stops_the_run_before_it_changes_anything(voices: Any) -> None:
    clip = voices.files("alice")[0]
    Path(f"{clip}.f0.npy").write_bytes(b"\x93NUMPY broken")
    with pytest.raises((DatasetError, CheckpointError), match=r"f0\.npy"):
        go(voices, max_steps=1)
    assert not Path("logs/m").exists()
