"""Recordings read block by block: the same samples, little memory, and headers that lie."""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from svc.audio.io import audio_info, read_audio, read_blocks, write_audio
from svc.audio.reader import HIGHEST_SR, LOWEST_SR, open_audio
from svc.errors import AudioError, MissingFileError

SR = 44100
StandIn = Callable[..., None]


@pytest.fixture
def stereo(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-0.9, 0.9, (2, SR)).astype(np.float32)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".aiff"])
@pytest.mark.parametrize("block_seconds", [0.0001, 0.33, 100.0])
def test_blocks_hold_what_the_file_holds(
    tmp_path: Path, stereo: np.ndarray, suffix: str, block_seconds: float
) -> None:
    path = tmp_path / f"a{suffix}"
    write_audio(path, stereo[:, : SR // 4] if block_seconds < 0.01 else stereo, SR)
    whole, sr = read_audio(path, mono=False)
    blocks = list(read_blocks(path, block_seconds, mono=False))
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), whole)
    assert {block.shape[1] for block in blocks[:-1]} <= {max(1, round(block_seconds * sr))}
    mono = np.concatenate(list(read_blocks(path, block_seconds)))
    np.testing.assert_array_equal(mono, read_audio(path)[0])
    assert all(block.dtype == np.float32 for block in blocks)


def test_an_open_file_tells_its_facts(tmp_path: Path, stereo: np.ndarray) -> None:
    write_audio(tmp_path / "a.flac", stereo, 48000, tags={"title": "歌"})
    with open_audio(tmp_path / "a.flac") as sound:
        assert (sound.sr, sound.channels, sound.n_samples) == (48000, 2, SR)
        assert sound.tags()["title"] == "歌"
        assert sound.count() == SR
        next(sound.blocks(0.1))
        with pytest.raises(ValueError, match="open it again"):
            next(sound.blocks(0.1))
    sound.close()
    with pytest.raises(ValueError, match="block_seconds"):
        next(read_blocks(tmp_path / "a.flac", 0.0))


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    silence = np.zeros(60 * 8000, dtype=np.float32)
    write_audio(tmp_path / "a.flac", np.tile(silence, 20), 8000)  # 38 MB as floats
    tracemalloc.start()
    try:
        n_samples = sum(block.size for block in read_blocks(tmp_path / "a.flac", 10.0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n_samples == 20 * silence.size
    assert peak < 3e6


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 8])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT"])
def test_channels_and_sample_formats(tmp_path: Path, channels: int, subtype: str) -> None:
    wav = np.random.default_rng(1).uniform(-0.9, 0.9, (channels, 4000)).astype(np.float32)
    write_audio(tmp_path / "a.wav", wav, 192000, subtype=subtype)
    back, sr = read_audio(tmp_path / "a.wav", mono=False)
    assert sr == 192000
    np.testing.assert_allclose(back, wav, atol=2**-7 if subtype == "PCM_U8" else 2**-15)
    mono, _ = read_audio(tmp_path / "a.wav")
    np.testing.assert_allclose(mono, back.mean(axis=0), atol=1e-6)


# ---------------------------------------------------------------- headers that lie


def lying_wav(path: Path, *, sr: int = SR, channels: int = 1) -> None:
    """Write 0.1 s of silence whose header claims another rate or number of channels."""
    soundfile.write(path, np.zeros(SR // 10), SR, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    struct.pack_into("<HIIH", content, 22, channels, sr, min(2 * sr, 2**32 - 1), 2 * channels)
    path.write_bytes(content)


@pytest.mark.parametrize("sr", [1, LOWEST_SR - 1, HIGHEST_SR + 1, 2**31 - 1])
def test_rates_that_no_recording_has(tmp_path: Path, sr: int) -> None:
    lying_wav(tmp_path / "a.wav", sr=sr)
    for function in (audio_info, read_audio):
        with pytest.raises(AudioError, match=rf"a\.wav says it has {sr} samples per second"):
            function(tmp_path / "a.wav")


def test_too_many_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    lying_wav(tmp_path / "a.wav", channels=200)
    with pytest.raises(AudioError, match="200 channels; up to 64 are read"):
        read_audio(tmp_path / "a.wav")


def test_a_flac_that_claims_days_of_sound(tmp_path: Path, stereo: np.ndarray) -> None:
    """The claim is no reason to ask for memory; what can be read decides."""
    write_audio(tmp_path / "a.flac", stereo[0], SR)
    content = bytearray(tmp_path.joinpath("a.flac").read_bytes())
    content[21] |= 0x0F  # upper bits of the 36-bit number of samples (RFC 9639 section 8.2)
    tmp_path.joinpath("a.flac").write_bytes(content)
    assert audio_info(tmp_path / "a.flac").n_samples > 2**33
    with pytest.raises(AudioError, match=r"a\.flac is (truncated|damaged): "):
        read_audio(tmp_path / "a.flac")


def test_the_first_bad_sample_is_named(tmp_path: Path, stereo: np.ndarray) -> None:
    stereo[1, SR // 2 : SR // 2 + 3] = np.nan
    soundfile.write(tmp_path / "a.wav", stereo.T, SR, subtype="FLOAT")
    blocks = read_blocks(tmp_path / "a.wav", 0.3)
    assert next(blocks).size == round(0.3 * SR)
    with pytest.raises(AudioError, match=r"3 samples that are NaN .* 0\.500 s"):
        next(blocks)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(AudioError, match="no ordinary file"):  # and does not wait for a writer
        read_audio(tmp_path / "a.wav")


# ---------------------------------------------------------------- through ffmpeg


def test_ffmpeg_is_read_block_by_block(
    tmp_path: Path, stereo: np.ndarray, stand_in: StandIn
) -> None:
    stand_in(tmp_path / "a.m4a", stereo, 96000, tags={"TITLE": "x", "track": "2/9"})
    blocks = list(read_blocks(tmp_path / "a.m4a", 0.1, mono=False))
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), stereo)
    assert [block.shape[1] for block in blocks] == [9600] * 4 + [SR - 4 * 9600]
    with open_audio(tmp_path / "a.m4a") as sound:
        assert (sound.sr, sound.channels, sound.n_samples) == (96000, 2, None)
        assert sound.tags() == {"title": "x", "tracknumber": "2/9"}


def test_ffmpeg_is_not_left_behind(tmp_path: Path, stereo: np.ndarray, stand_in: StandIn) -> None:
    stand_in(tmp_path / "a.m4a", np.tile(stereo, 20), SR)
    with open_audio(tmp_path / "a.m4a") as sound:
        next(sound.blocks(0.01))
        process = sound._decoder._process  # type: ignore[union-attr]
    assert process.returncode is not None  # ended in the middle of the file


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"code": 1, "says": "moov atom not found"}, "ffmpeg: moov atom not found"),
        ({"code": 1}, "ffmpeg: exit code 1"),
        ({"gives": 2 * SR}, "truncated: 0.25 s of 1.00 s"),
        ({"gives": 0}, "holds no samples"),
        ({"claims": {"channels": 0}}, "no readable audio"),
        ({"claims": {"sr": 3}}, "3 samples per second"),
    ],
)
def test_what_goes_wrong_in_ffmpeg(
    tmp_path: Path, stereo: np.ndarray, stand_in: StandIn, facts: dict[str, object], message: str
) -> None:
    stand_in(tmp_path / "a.m4a", stereo, SR, **facts)
    with pytest.raises(AudioError, match=message) as caught:
        read_audio(tmp_path / "a.m4a")
    assert "\n" not in str(caught.value)


def test_what_ffmpeg_says_is_told(
    tmp_path: Path, stereo: np.ndarray, stand_in: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    # It read some of the file, and nobody knows how long it was.
    stand_in(tmp_path / "a.mka", stereo, SR, gives=8 * 1000, timed=False, says="a\nbad packet")
    assert read_audio(tmp_path / "a.mka")[0].size == 1000
    assert "a.mka: ffmpeg reports: bad packet" in caplog.text


def test_without_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(500))
    with pytest.raises(AudioError, match="ffmpeg, which is not on PATH") as caught:
        next(read_blocks(tmp_path / "a.m4a"))
    assert "\n" not in str(caught.value)
    with pytest.raises(MissingFileError, match=r"gone\.m4a"):
        next(read_blocks(tmp_path / "gone.m4a"))
