"""Songs in files: the first way through them, and what happens when they change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from svc.audio.io import read_audio, write_audio
from svc.audio.slicer import Slicer
from svc.conversion import file_source
from svc.conversion.channels import LevelImage, lost_in_mono
from svc.conversion.file_source import FileSource, SongFacts
from svc.errors import AudioError, MissingFileError

SR = 22050
Sine = Callable[..., np.ndarray]


@pytest.fixture
def song(tmp_path: Path, sine: Sine, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(file_source, "BLOCK_SECONDS", 0.3)
    tone = np.concatenate((sine(220, 2.0, SR), np.zeros(SR, np.float32), sine(330, 1.01, SR)))
    path = tmp_path / "a.flac"
    write_audio(path, np.stack((tone, -0.9 * tone)), SR, tags={"title": "T"})
    return path


def test_facts_are_those_of_the_whole_song(song: Path) -> None:
    channels, _ = read_audio(song, mono=False)
    wav, _ = read_audio(song)
    source = FileSource.of(song, tags=True)
    assert (source.sr, source.n_channels, source.n_samples) == (SR, 2, None)
    assert source.tags["title"] == "T"
    facts = SongFacts.of(source, -40.0, "keep")
    assert facts.source.n_samples == facts.survey.n_samples == wav.size
    assert facts.seconds == wav.size / SR
    assert list(facts.survey.segments) == Slicer(SR, threshold_db=-40.0).slice(wav)
    assert facts.lost_in_mono == lost_in_mono(channels)
    assert facts.mid_rms == pytest.approx(np.sqrt(np.mean(wav.astype(np.float64) ** 2)), rel=1e-12)
    assert facts.image is not None
    np.testing.assert_array_equal(facts.image.gains, LevelImage.of(channels, SR).gains)
    assert SongFacts.of(source, -40.0, "mid-side").image is None
    np.testing.assert_array_equal(np.concatenate(list(facts.source.blocks())), wav)
    blocks = list(facts.source.channel_blocks())
    assert len(blocks) > 5
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), channels)
    facts.source.check_unchanged()


@pytest.mark.parametrize(("sr", "keep"), [(SR, 0.5), (SR, 1.5), (16000, 1.0)])
def test_a_song_that_changes_meanwhile(song: Path, sr: int, keep: float) -> None:
    facts = SongFacts.of(FileSource.of(song), -40.0, "mono")
    wav, _ = read_audio(song, mono=False)
    write_audio(song, np.resize(wav, (2, round(keep * wav.shape[1]))), sr)
    for blocks in (facts.source.blocks(), facts.source.channel_blocks()):
        with pytest.raises(AudioError, match=r"a\.flac has changed while it was being read"):
            list(blocks)
    with pytest.raises(AudioError, match="has changed"):
        facts.source.check_unchanged()


def test_a_song_that_goes(song: Path) -> None:
    facts = SongFacts.of(FileSource.of(song), -40.0, "mono")
    song.unlink()
    with pytest.raises(MissingFileError):
        list(facts.source.blocks())
    with pytest.raises(AudioError, match="has changed"):
        facts.source.check_unchanged()
