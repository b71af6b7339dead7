"""Files that end too early are named, whatever their format."""

from __future__ import annotations

import io
import logging
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from svc.audio.io import audio_info, read_audio
from svc.audio.shortfall import shortfall
from svc.errors import AudioError

SR = 48000
FORMATS = [
    ("WAV", "PCM_16"),
    ("AIFF", "PCM_24"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("CAF", "PCM_24"),
    ("AU", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
]
OPEN_SIZES = [
    ("AU", b".snd", 8, ">I", 0xFFFFFFFF),
    ("W64", b"data", 16, "<Q", 2**63 - 1),
    ("CAF", b"data", 4, ">q", -1),
]


@pytest.fixture
def wav(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-0.5, 0.5, 5 * SR).astype(np.float32)


@pytest.mark.parametrize(("form", "subtype"), FORMATS)
def test_a_cut_off_file_is_named(
    tmp_path: Path, wav: np.ndarray, form: str, subtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # ffmpeg reads what is there of some of them
    path = tmp_path / "a.sound"
    soundfile.write(path, wav, SR, format=form, subtype=subtype)
    assert read_audio(path)[0].size == wav.size
    content = path.read_bytes()
    for kept in (0.5, 0.95):
        path.write_bytes(content[: int(kept * len(content))])
        for function in (audio_info, read_audio):
            with pytest.raises(AudioError, match=r"a\.sound is truncated: \d+ bytes") as caught:
                function(path)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("form", "chunk", "at", "layout", "value"), OPEN_SIZES)
def test_sizes_left_open_promise_nothing(
    tmp_path: Path, wav: np.ndarray, form: str, chunk: bytes, at: int, layout: str, value: int
) -> None:
    path = tmp_path / "a.sound"
    soundfile.write(path, wav, SR, format=form, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    struct.pack_into(layout, content, content.index(chunk) + at, value)
    path.write_bytes(content)
    back, _ = read_audio(path)
    # Where the size is open, all that follows is sound, a few bytes of other chunks included.
    np.testing.assert_allclose(back[: wav.size], wav, atol=2**-15)


def test_an_rf64_whose_size_is_open() -> None:
    """libsndfile does not take such; whoever does need not hear that they are cut off."""
    for size in (0, 2**64 - 1):
        head = b"RF64" + bytes(4) + b"WAVEds64" + struct.pack("<IQQQI", 28, 0, size, 0, 0)
        content = head + b"data\xff\xff\xff\xff" + bytes(100)
        assert shortfall(io.BytesIO(content), len(content)).n_bytes == 0


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_that_ends_between_pages(
    tmp_path: Path, wav: np.ndarray, subtype: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Recordings of broadcasts end so as well: what is there is read, and a line says so."""
    caplog.set_level(logging.WARNING, logger="svc")  # a command may have been quieter
    path = tmp_path / "a.ogg"
    soundfile.write(path, wav, SR, format="OGG", subtype=subtype)
    read_audio(path)
    assert "cut off" not in caplog.text
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"OggS")])
    assert 0 < read_audio(path)[0].size < wav.size
    assert caplog.text.count("a.ogg does not say that it ends where it does") == 1
