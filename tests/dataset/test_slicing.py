"""Long recordings to clips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from svc.dataset.slicing import SliceOptions, slice_dataset
from svc.errors import ConfigError, DatasetError

Sine = Callable[..., np.ndarray]


def phrases(sr: int, lengths: tuple[float, ...], gap: float = 1.0) -> np.ndarray:
    """Tones of the given lengths in seconds, each its own pitch, with silence between."""
    parts: list[np.ndarray] = []
    for index, seconds in enumerate(lengths):
        time = np.arange(round(sr * seconds)) / sr
        parts += [0.5 * np.sin(2 * np.pi * (200 + 40 * index) * time), np.zeros(round(sr * gap))]
    return np.concatenate(parts[:-1]).astype(np.float32)


def write(path: Path, wav: np.ndarray, sr: int, subtype: str = "PCM_16") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wav, sr, subtype=subtype)
    return path


def test_clips_hold_every_phrase_and_the_lengths(tmp_path: Path) -> None:
    sr = 22050
    wav = phrases(sr, (6.0, 8.0, 7.0, 6.5), gap=2.0)
    write(tmp_path / "long/alice/concert.wav", wav, sr)
    report = slice_dataset(SliceOptions(tmp_path / "long", tmp_path / "raw"))
    names = [clip.name for clip in report.files[0].clips]
    assert names == [f"concert_{number:03d}.wav" for number in range(1, len(names) + 1)]
    clips = [soundfile.read(tmp_path / "raw/alice" / name, dtype="float32") for name in names]
    assert all(rate == sr for _, rate in clips)
    assert all(5.0 <= len(clip) / sr <= 15.0 for clip, _ in clips)
    # Nothing that sounds is lost, and every sample is the recording's.
    kept = np.concatenate([clip for clip, _ in clips])
    loud = np.abs(wav) > 0.05
    assert np.count_nonzero(np.abs(kept) > 0.05) == np.count_nonzero(loud)
    # Kept and dropped add up.
    file = report.files[0]
    dropped = sum(part.end_s - part.start_s for part in file.dropped)
    assert file.kept_s + dropped == pytest.approx(len(wav) / sr, abs=1e-3)
    assert file.kept_s == pytest.approx(len(kept) / sr, abs=1e-6)
    assert {part.reason for part in file.dropped} <= {"silent"}


def test_a_phrase_without_a_pause_is_cut_at_the_hard_maximum(tmp_path: Path) -> None:
    sr = 8000
    write(tmp_path / "long/alice/drone.flac", phrases(sr, (40.0,)), sr)
    report = slice_dataset(SliceOptions(tmp_path / "long", tmp_path / "raw", max_seconds=12.0))
    lengths = [soundfile.info(clip).duration for clip in report.files[0].clips]
    assert sum(lengths) == pytest.approx(40.0, abs=1e-3)
    assert max(lengths) <= 12.0


def test_what_is_too_short_is_dropped_with_its_place(tmp_path: Path) -> None:
    sr = 16000
    wav = np.concatenate(
        [phrases(sr, (7.0,)), np.zeros(20 * sr), phrases(sr, (0.4,)), np.zeros(20 * sr)]
    ).astype(np.float32)
    write(tmp_path / "long/alice/a.wav", wav, sr)
    report = slice_dataset(SliceOptions(tmp_path / "long", tmp_path / "raw"))
    assert report.clip_count == 1
    short = [part for part in report.files[0].dropped if part.reason == "too short"]
    assert len(short) == 1
    assert short[0].start_s <= 27.0 <= 27.4 <= short[0].end_s
    assert any(part.reason == "silent" for part in report.files[0].dropped)


@pytest.mark.parametrize(
    ("subtype", "suffix", "expected"),
    [
        ("PCM_16", ".wav", "PCM_16"),
        ("PCM_24", ".wav", "PCM_24"),
        ("PCM_U8", ".wav", "PCM_16"),
        ("FLOAT", ".wav", "PCM_24"),
        ("PCM_16", ".flac", "PCM_16"),
        ("PCM_24", ".flac", "PCM_24"),
    ],
)
def test_the_sample_format_is_kept(
    tmp_path: Path, rng: np.random.Generator, subtype: str, suffix: str, expected: str
) -> None:
    wav = (0.1 * rng.standard_normal((48000 * 6, 2))).astype(np.float32)
    source = write(tmp_path / f"long/alice/a{suffix}", wav, 48000, subtype)
    report = slice_dataset(SliceOptions(tmp_path / "long", tmp_path / "raw"))
    (clip,) = report.files[0].clips
    info = soundfile.info(clip)
    assert (info.subtype, info.channels, info.samplerate) == (expected, 1, 48000)
    stored, _ = soundfile.read(source)
    cut, _ = soundfile.read(clip)
    assert np.abs(cut - stored.mean(axis=1)).max() <= 2.0 ** -(15 if expected == "PCM_16" else 23)


def test_floats_beyond_full_scale_stay(tmp_path: Path) -> None:
    wav = 4 * phrases(16000, (6.0,))
    write(tmp_path / "long/alice/a.wav", wav, 16000, "FLOAT")
    report = slice_dataset(SliceOptions(tmp_path / "long", tmp_path / "raw"))
    cut, _ = soundfile.read(report.files[0].clips[0], dtype="float32")
    np.testing.assert_array_equal(cut, wav)


def test_loose_recordings_need_a_name(tmp_path: Path) -> None:
    write(tmp_path / "long/one.wav", phrases(8000, (6.0,)), 8000)
    with pytest.raises(DatasetError, match="--speaker NAME"):
        slice_dataset(SliceOptions(tmp_path / "long", tmp_path / "raw"))
    write(tmp_path / "long/bob/two.wav", phrases(8000, (6.0,)), 8000)
    report = slice_dataset(SliceOptions(tmp_path / "long", tmp_path / "raw"))
    assert [file.source.name for file in report.files] == ["two.wav"]
    assert "one.wav" in report.notes[0]
    report = slice_dataset(SliceOptions(tmp_path / "long", tmp_path / "raw", speaker="al|ice 歌"))
    folders = {clip.parent.name for file in report.files for clip in file.clips}
    assert folders == {"bob", "al|ice 歌"}


def test_bad_recordings_stop_nothing(tmp_path: Path, sine: Sine) -> None:
    write(tmp_path / "long/alice/good.wav", phrases(8000, (6.0,)), 8000)
    write(tmp_path / "long/alice/silent.wav", np.zeros(8000 * 9), 8000)
    write(tmp_path / "long/alice/tiny.wav", sine(300, 0.1, 8000), 8000)
    (tmp_path / "long/alice/empty.wav").write_bytes(b"")
    (tmp_path / "long/alice/text.flac").write_text("hello")
    report = slice_dataset(SliceOptions(tmp_path / "long", tmp_path / "raw"))
    assert report.clip_count == 1
    reasons = {item.path.name: item.reason for item in report.left_out}
    assert reasons.keys() == {"silent.wav", "tiny.wav", "empty.wav", "text.flac"}
    assert "silent" in reasons["silent.wav"]
    assert "too short" in reasons["tiny.wav"]


def test_no_clip_at_all_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "long/alice/short.wav", phrases(8000, (2.0,)), 8000)
    with pytest.raises(DatasetError, match=r"no clip came out of the 1 recordings.*too short"):
        slice_dataset(SliceOptions(tmp_path / "long", tmp_path / "raw"))
    # Beside a long one, what is a clip already is pointed out.
    write(tmp_path / "long/alice/long.wav", phrases(8000, (6.0,)), 8000)
    (note,) = slice_dataset(SliceOptions(tmp_path / "long", tmp_path / "raw")).notes
    assert "short.wav" in note
    assert "no cutting" in note


def test_same_stems_and_earlier_clips(tmp_path: Path) -> None:
    for name in ("a.wav", "a.flac"):
        write(tmp_path / "long/alice" / name, phrases(8000, (6.0,)), 8000)
    write(tmp_path / "raw/alice/a_009.wav", phrases(8000, (6.0,)), 8000)
    report = slice_dataset(SliceOptions(tmp_path / "long", tmp_path / "raw"))
    clips = sorted(clip.name for file in report.files for clip in file.clips)
    assert clips == ["a_001.wav", "a_flac_001.wav"]
    assert len(report.notes) == 1
    assert "a_009.wav" in report.notes[0]


@pytest.mark.parametrize(
    "options",
    [
        {"min_seconds": 15.0},
        {"min_seconds": 0.0},
        {"threshold_db": 3.0},
        {"hop_ms": 0},
        {"hop_ms": 60},
        {"min_interval_ms": ()},
        {"max_silence_ms": 1},
        {"speaker": "a/b"},
        {"speaker": ".."},
        {"speaker": " "},
    ],
)
def test_bad_options_name_the_flag(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="--"):
        SliceOptions(**options)  # type: ignore[arg-type]


def test_the_output_may_not_lie_in_the_input(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose another folder"):
        slice_dataset(SliceOptions(tmp_path / "long", tmp_path / "long/raw"))


def test_a_real_recording(tmp_path: Path, shared: Path) -> None:
    """An unaccompanied cantor, 48 s, 24 kHz: clips of legal length that hold all of the voice."""
    source = shared / "audio/singing/trope_cantor/haftarah-3.flac"
    target = tmp_path / "long/cantor/haftarah-3.flac"
    target.parent.mkdir(parents=True)
    target.write_bytes(source.read_bytes())
    report = slice_dataset(SliceOptions(tmp_path / "long", tmp_path / "raw"))
    wav, sr = soundfile.read(source)
    lengths = [soundfile.info(clip).duration for clip in report.files[0].clips]
    assert len(lengths) >= 3
    assert all(5.0 <= length <= 15.0 for length in lengths)
    energy = sum(float(np.square(soundfile.read(clip)[0]).sum()) for clip in report.files[0].clips)
    assert energy > 0.98 * float(np.square(wav).sum())
    assert sr == soundfile.info(report.files[0].clips[0]).samplerate
