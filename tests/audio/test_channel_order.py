"""Channels are in the order of WAV, whatever the format: which of them is the voice depends on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from svc.audio.channel_order import order_when_reading, order_when_writing
from svc.audio.io import read_audio, write_audio

SR = 48000
TONES = (200, 300, 400, 60, 600, 700, 800, 900)  # Hz; low ones for the LFE of 5.1 to 7.1
# Vorbis I specification, section 4.3.9; in words of RFC 9639 section 9.1.3 for the order of WAV.
WAV_ORDER = {
    3: "L R C",
    4: "L R BL BR",
    5: "L R C BL BR",
    6: "L R C LFE BL BR",
    7: "L R C LFE BC SL SR",
    8: "L R C LFE BL BR SL SR",
}
VORBIS_ORDER = {
    3: "L C R",
    4: "L R BL BR",
    5: "L C R BL BR",
    6: "L C R BL BR LFE",
    7: "L C R SL SR BC LFE",
    8: "L C R SL SR BL BR LFE",
}


def tones(channels: int) -> np.ndarray:
    time = np.arange(2 * SR) / SR
    wav = np.stack([0.3 * np.sin(2 * np.pi * hz * time) for hz in TONES[:channels]])
    return wav.astype(np.float32)


def heard(wav: np.ndarray) -> list[int]:
    """Return the strongest frequency of each channel, Hz."""
    return [int(np.argmax(np.abs(np.fft.rfft(channel[:SR])))) for channel in wav]


@pytest.mark.parametrize("channels", range(1, 9))
@pytest.mark.parametrize("suffix", [".ogg", ".opus", ".flac", ".wav"])
def test_there_and_back(tmp_path: Path, channels: int, suffix: str) -> None:
    write_audio(tmp_path / f"a{suffix}", tones(channels), SR)
    back, _ = read_audio(tmp_path / f"a{suffix}", mono=False)
    assert heard(back) == list(TONES[:channels])


@pytest.mark.parametrize("channels", list(VORBIS_ORDER))
@pytest.mark.parametrize("suffix", [".ogg", ".opus"])
def test_inside_the_file_it_is_the_order_of_vorbis(
    tmp_path: Path, channels: int, suffix: str
) -> None:
    """libsndfile hands out what is in the file; other players go by the specification."""
    write_audio(tmp_path / f"a{suffix}", tones(channels), SR)
    names = WAV_ORDER[channels].split()
    expected = [TONES[names.index(name)] for name in VORBIS_ORDER[channels].split()]
    assert heard(soundfile.read(tmp_path / f"a{suffix}")[0].T) == expected


@pytest.mark.parametrize("channels", range(1, 10))
def test_writing_undoes_reading(tmp_path: Path, channels: int) -> None:
    (tmp_path / "a").write_bytes(b"")
    with (tmp_path / "a").open("rb") as stream:
        reading = order_when_reading("OGG", "VORBIS", channels, stream)
        assert order_when_reading("WAV", "PCM_16", channels, stream) is None
        assert order_when_reading("OGG", "PCM_16", channels, stream) is None  # FLAC in Ogg
    writing = order_when_writing("OGG", "VORBIS", channels)
    assert (reading is None) == (writing is None)
    if reading is not None and writing is not None:
        assert [writing[channel] for channel in reading] == list(range(channels))


def test_channels_that_are_no_loudspeakers(tmp_path: Path) -> None:
    """Opus of family 255 has channels without meaning: they stay as they are (RFC 7845 5.1.1.3)."""
    write_audio(tmp_path / "a.opus", tones(6), SR)
    content = bytearray((tmp_path / "a.opus").read_bytes())
    assert content[28:36] == b"OpusHead"
    assert content[46] == 1
    content[46] = 255
    (tmp_path / "b.opus").write_bytes(content)
    with (tmp_path / "b.opus").open("rb") as stream:
        assert order_when_reading("OGG", "OPUS", 6, stream) is None
