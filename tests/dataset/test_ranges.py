from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from svc.audio.io import write_audio
from svc.checkpoint import save_checkpoint
from svc.dataset import ranges as module
from svc.dataset.features import FeaturePaths
from svc.dataset.ranges import (
    add_ranges,
    range_of_notes,
    ranges_of_clips,
    ranges_of_recordings,
    recordings_of,
)
from svc.errors import AudioError, ConfigError, DatasetError, MissingFileError
from svc.f0.range_files import plain_ranges, read_ranges
from svc.f0.voice_range import VoiceRange, hz_to_midi

Sine = Callable[..., np.ndarray]
FRAME = 512 / 44100


def write_f0(clip: Path, f0: list[float], *, pickled: bool = False) -> Path:
    """An F0 file of 86 frames a value, as ours or as the original writes it; 0 is unvoiced."""
    values = np.repeat(np.array(f0, dtype=np.float64), 86)
    pair = np.stack([np.where(values > 0, values, 300.0), (values > 0).astype(np.float64)])
    path = FeaturePaths.of(clip).f0
    path.parent.mkdir(parents=True, exist_ok=True)
    if pickled:
        np.save(path, np.array([*pair], dtype=object), allow_pickle=True)
    else:
        np.save(path, pair.astype(np.float32))
    return clip


def test_ranges_of_the_clips_of_a_list(tmp_path: Path) -> None:
    """Only the F0 files are read: there are no recordings here."""
    clips = [
        write_f0(tmp_path / "alice/1.wav", [200.0, 0.0, 220.0]),
        write_f0(tmp_path / "bob/1.wav", [100.0]),
        write_f0(tmp_path / "alice/2.wav", [400.0], pickled=True),
        write_f0(tmp_path / "mute/1.wav", [0.0, 0.0]),
    ]
    found = ranges_of_clips(clips, FRAME)
    assert list(found) == ["alice", "bob"]
    assert (found["alice"].low, found["alice"].high) == pytest.approx((200, 400), abs=0.01)
    assert found["alice"].median == pytest.approx(220, abs=0.01)
    assert found["alice"].seconds == pytest.approx(3 * 86 * FRAME, abs=1e-3)
    assert found["bob"].low == found["bob"].high == pytest.approx(100, abs=0.01)


def test_a_clip_without_its_pitch(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"1\.wav\.f0\.npy"):
        ranges_of_clips([tmp_path / "alice/1.wav"], FRAME)


def test_recordings_of_one_voice_and_of_several(place: Path, sine: Sine) -> None:
    for name in ("44k/alice/1.wav", "44k/alice/2.flac", "44k/bob/1.wav", "more/deep/3.ogg"):
        write_audio(Path(name), sine(220, 0.2), 44100)
    Path("44k/alice/1.wav.f0.npy").touch()
    Path("44k/alice/notes.txt").touch()
    assert {name: [path.name for path in paths] for name, paths in
            recordings_of([Path("44k")], None).items()} == {
        "alice": ["1.wav", "2.flac"], "bob": ["1.wav"],
    }  # fmt: skip
    found = recordings_of([Path("more"), Path("44k/bob/1.wav")], "carol")
    assert found == {"carol": [Path("more/deep/3.ogg"), Path("44k/bob/1.wav")]}


def test_no_recordings(place: Path) -> None:
    Path("empty").mkdir()
    Path("a.wav").touch()
    with pytest.raises(MissingFileError, match="nowhere is not there"):
        recordings_of([Path("nowhere")], "alice")
    with pytest.raises(DatasetError, match="empty holds no recordings"):
        recordings_of([Path("empty")], "alice")
    with pytest.raises(DatasetError, match="the folder empty is empty"):
        recordings_of([Path("empty")], None)
    with pytest.raises(DatasetError, match=r"whose voice is a\.wav\? Name it with -s"):
        recordings_of([Path("a.wav")], None)


def test_listening_to_recordings(place: Path, sine: Sine) -> None:
    write_audio("1.wav", sine(220, 1.0, 48000), 48000)
    write_audio("2.flac", sine(330, 1.0, 16000), 16000)
    seen: list[tuple[int, int, str]] = []
    found = ranges_of_recordings(
        {"alice": [Path("1.wav"), Path("2.flac")]}, progress=lambda *step: seen.append(step)
    )
    assert (found["alice"].low, found["alice"].high) == pytest.approx((220, 330), rel=0.005)
    assert found["alice"].seconds == pytest.approx(2.0, abs=0.15)
    assert seen == [(1, 2, "1.wav"), (2, 2, "2.flac")]


def test_long_recordings_are_heard_in_parts(
    place: Path, sine: Sine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wav = np.concatenate([sine(220, 1.7), sine(330, 1.55)])
    write_audio("1.wav", wav, 44100)
    whole = ranges_of_recordings({"a": [Path("1.wav")]})["a"]
    monkeypatch.setattr(module, "_PART_SECONDS", 1)
    parts = ranges_of_recordings({"a": [Path("1.wav")]})["a"]
    assert hz_to_midi(parts.low) == pytest.approx(hz_to_midi(whole.low), abs=0.05)
    assert hz_to_midi(parts.high) == pytest.approx(hz_to_midi(whole.high), abs=0.05)
    assert 0.8 * whole.seconds < parts.seconds <= whole.seconds + 0.1


def test_recordings_without_a_voice(place: Path) -> None:
    write_audio("1.wav", np.zeros(44100, np.float32), 44100)
    with pytest.raises(AudioError, match=r'nothing is voiced in the 1 recordings of "alice"'):
        ranges_of_recordings({"alice": [Path("1.wav")]})


def test_notes_instead_of_recordings() -> None:
    assert str(range_of_notes("A2", "E4")) == "A2-E4"
    for low, high, message in (("A2", "X4", "is no note"), ("E4", "A2", "must rise")):
        with pytest.raises(ConfigError, match=f"--notes: .*{message}"):
            range_of_notes(low, high)


def test_the_side_car_keeps_other_voices(place: Path) -> None:
    path = Path("logs/44k/voice_range.json")
    low, high = VoiceRange.between(100, 200), VoiceRange.between(200, 400)
    assert add_ranges(path, {"alice": low, "bob": low}) == []
    assert add_ranges(path, {"bob": high}) == []
    assert read_ranges(path) == {"alice": low, "bob": high}
    # The newest checkpoint beside it goes before the side-car.
    for step, extra in ((1, {"voice_range": plain_ranges({"bob": low})}), (2, {})):
        content = {"model": {"x": torch.zeros(1)}, "svc": extra}
        save_checkpoint(content, path.parent / f"G_{step}.pth")
    assert add_ranges(path, {"bob": high, "alice": low}) == []
    (path.parent / "G_2.pth").unlink()
    assert add_ranges(path, {"bob": high, "alice": low}) == ["bob"]
