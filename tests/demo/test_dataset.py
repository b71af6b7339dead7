from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from svc.audio.io import audio_info, read_audio
from svc.demo.dataset import CLIP_SECONDS, DemoFiles, clip_lengths, sing_clip, sing_song, write_demo
from svc.demo.singer import DEMO_HIGH, DEMO_LOW, VOICES
from svc.errors import OutputError


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoFiles:
    return write_demo(tmp_path_factory.mktemp("demo"), seed=3, minutes=0.1)


def test_clips_are_what_a_data_set_needs(demo):
    assert set(demo.clips) == {"demo_low", "demo_high"}
    for name, clips in demo.clips.items():
        assert len(clips) >= 4  # two go to validation
        for path in clips:
            info = audio_info(path)
            assert path.parent.name == name
            assert path.parent.parent.name == "dataset_raw"
            assert (info.sr, info.channels) == (44100, 1)
            assert CLIP_SECONDS[0] - 0.1 < info.duration_s < CLIP_SECONDS[1] + 0.1
            assert path.read_bytes()[34] == 16  # bits per sample in the WAV header


def test_a_minute_is_about_a_minute():
    for voice in VOICES:
        for minutes in (1.0, 3.0):
            assert sum(clip_lengths(voice, minutes, seed=0)) == pytest.approx(60 * minutes, abs=6)


def test_song_has_its_truth_beside_it(demo):
    wav, sr = read_audio(demo.song)
    assert 10 <= len(wav) / sr <= 15
    rows = list(csv.DictReader(demo.truth.read_text().splitlines()))
    assert list(rows[0]) == ["time_s", "f0_hz"]
    f0 = np.array([float(row["f0_hz"]) for row in rows])
    time = np.array([float(row["time_s"]) for row in rows])
    song = sing_song(seed=3)
    index = np.round(time * sr).astype(int)
    assert np.allclose(f0, song.f0[index], atol=1e-3)
    assert len(wav) - 512 <= index[-1] < len(wav)
    assert 0.5 < np.mean(f0 > 0) < 0.9  # it has rests and consonants
    assert demo.truth.parent == demo.song.parent


def test_song_suits_the_target_an_octave_lower():
    song = sing_song(seed=0)
    midi = 69 + 12 * np.log2(song.f0[song.voiced] / 440)
    low, high = np.percentile(midi - 12, (1, 99))
    assert low > DEMO_LOW.range_midi[0] - 1
    assert high < DEMO_LOW.range_midi[1] + 1


def test_the_seed_decides_everything():
    first = sing_clip(DEMO_LOW, 2, 3.0, seed=1).wav
    assert np.array_equal(first, sing_clip(DEMO_LOW, 2, 3.0, seed=1).wav)
    for other in (
        sing_clip(DEMO_LOW, 2, 3.0, seed=2),
        sing_clip(DEMO_LOW, 1, 3.0, seed=1),
        sing_clip(DEMO_HIGH, 2, 3.0, seed=1),
    ):
        assert not np.array_equal(first, other.wav)


def test_writing_again_leaves_no_clips_of_another_run(tmp_path):
    stale = tmp_path / "dataset_raw" / "demo_low" / "demo_low_017.wav"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"an older and longer run")
    seen: list[tuple[int, int]] = []
    files = write_demo(
        tmp_path, minutes=0.1, progress=lambda done, total, what: seen.append((done, total))
    )
    found = sorted((tmp_path / "dataset_raw").rglob("*.wav"))
    assert found == sorted(path for clips in files.clips.values() for path in clips)
    assert [done for done, _ in seen] == list(range(1, seen[-1][1] + 1))  # progress gets there


def test_somebody_elses_recordings_are_not_mixed_in(tmp_path):
    mine = tmp_path / "dataset_raw" / "me"
    mine.mkdir(parents=True)
    with pytest.raises(OutputError, match="me"):
        write_demo(tmp_path, minutes=0.1)
    assert list((tmp_path / "dataset_raw").iterdir()) == [mine]


@pytest.mark.parametrize("arguments", [{"minutes": 0.0}, {"minutes": 100.0}, {"seed": -1}])
def test_values_out_of_range_are_refused(tmp_path: Path, arguments):
    with pytest.raises(ValueError, match="must be"):
        write_demo(tmp_path, **arguments)
