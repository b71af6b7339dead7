"""Recordings written block by block: any format, whole or not at all, the same bytes every time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from svc.audio.formats import BIT_DEPTHS, OUTPUT_SUFFIXES, output_format
from svc.audio.io import AudioWriter, audio_info, read_audio, read_tags, write_audio
from svc.errors import AudioError

SR = 48000  # which every format can have
TAGS = {
    "title": "-Tï歌 = x",
    "artist": "A;B\\c",
    "album": "Al",
    "date": "2020",
    "tracknumber": "3/9",
    "comment": 'said "so"\nline 2',
    "genre": "G",
    "copyright": "me",
}
SNDFILE = [suffix for suffix in OUTPUT_SUFFIXES if not output_format(Path(f"a{suffix}")).by_ffmpeg]
FFMPEG = sorted(set(OUTPUT_SUFFIXES) - set(SNDFILE))


@pytest.fixture
def stereo() -> np.ndarray:
    time = np.arange(SR) / SR
    return np.stack((0.5 * np.sin(2764 * time), 0.2 * np.sin(4147 * time))).astype(np.float32)


@pytest.mark.parametrize("suffix", SNDFILE)
def test_blocks_make_the_same_file_as_the_whole(
    tmp_path: Path, stereo: np.ndarray, suffix: str
) -> None:
    stereo = np.tile(stereo, 4)
    write_audio(tmp_path / f"a{suffix}", stereo, SR, tags=TAGS)
    with AudioWriter(tmp_path / f"b{suffix}", SR, 2, tags=TAGS) as writer:
        for start in range(0, stereo.shape[1], 7919):
            writer.write(stereo[:, start : start + 7919])
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    assert abs(audio_info(tmp_path / f"b{suffix}").n_samples - 4 * SR) <= 1200  # mp3 pads


@pytest.mark.parametrize("suffix", [".ogg", ".opus", ".wav", ".aiff"])
def test_the_clock_leaves_no_trace(tmp_path: Path, stereo: np.ndarray, suffix: str) -> None:
    depth = "32f" if suffix in (".wav", ".aiff") else None
    contents = set()
    for index in range(2):
        time.sleep(1.1 * index)  # libsndfile takes the time in seconds
        write_audio(tmp_path / f"a{suffix}", stereo, SR, bit_depth=depth)
        contents.add((tmp_path / f"a{suffix}").read_bytes())
    assert len(contents) == 1
    assert read_audio(tmp_path / f"a{suffix}")[0].size == SR  # its checksums are right


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".aiff", ".caf", ".w64"])
@pytest.mark.parametrize("bit_depth", BIT_DEPTHS)
def test_bit_depths(tmp_path: Path, stereo: np.ndarray, suffix: str, bit_depth: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".flac" and bit_depth == "32f":
        with pytest.raises(AudioError, match=r'\.flac has no bit depth "32f", it has 16, 24'):
            AudioWriter(path, SR, bit_depth=bit_depth)
        return
    write_audio(path, stereo, SR, bit_depth=bit_depth)
    names = {"16": "PCM_16", "24": "PCM_24", "32f": "FLOAT"}
    assert soundfile.info(path).subtype == names[bit_depth]
    step = {"16": 2**-16, "24": 2**-24, "32f": 0}[bit_depth]
    np.testing.assert_allclose(read_audio(path, mono=False)[0], stereo, rtol=0, atol=step)


@pytest.mark.parametrize("suffix", [".ogg", ".mp3", ".opus", ".webm"])
def test_codecs_have_no_bit_depth(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(AudioError, match="no bit depths: its codec is lossy"):
        AudioWriter(tmp_path / f"a{suffix}", SR, bit_depth="16")


@pytest.mark.parametrize(
    ("suffix", "sr", "channels"),
    [(".opus", 44100, 1), (".mp3", 96000, 1), (".mp3", 44100, 3), (".flac", 44100, 9)],
)
def test_what_a_format_cannot_have_is_told_at_once(
    tmp_path: Path, suffix: str, sr: int, channels: int
) -> None:
    with pytest.raises(AudioError, match=rf"cannot write .* at {sr} Hz with {channels} channels"):
        AudioWriter(tmp_path / "new" / f"a{suffix}", sr, channels)
    assert not list(tmp_path.iterdir())


def test_opus_has_rates_of_its_own() -> None:
    assert output_format(Path("a.opus")).natural_rate(44100) == 48000
    assert output_format(Path("a.opus")).natural_rate(24000) == 24000
    assert output_format(Path("a.opus")).natural_rate(22050) == 24000
    assert output_format(Path("a.flac")).natural_rate(44100) == 44100


def test_ffmpeg_is_asked_for_no_rate_that_it_would_change(
    tmp_path: Path, stereo: np.ndarray, stand_in: Callable[..., None]
) -> None:
    for suffix in (".m4a", ".mp4"):
        form = output_format(Path(f"a{suffix}"))
        rates = [form.natural_rate(sr) for sr in (7000, 44056, 44100, 48000, 60000, 192000)]
        assert rates == [8000, 44100, 44100, 48000, 64000, 96000]
        assert form.natural_rate(44056, "16") == 44056  # Apple Lossless
        for sr in (44056, 192000):
            with pytest.raises(AudioError, match=rf"at {sr} Hz .*: it has 96000, .*, 8000 Hz only"):
                AudioWriter(tmp_path / f"a{suffix}", sr)
            AudioWriter(tmp_path / f"a{suffix}", sr, bit_depth="24")
    with pytest.raises(AudioError, match="it has 48000 Hz only"):
        AudioWriter(tmp_path / "a.webm", 44100)
    assert output_format(Path("a.webm")).natural_rate(44100) == 48000


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_an_exception_inside_leaves_the_old_file(
    tmp_path: Path, stereo: np.ndarray, failure: type[BaseException]
) -> None:
    (tmp_path / "a.wav").write_bytes(b"old")

    def interrupted() -> None:
        with AudioWriter(tmp_path / "a.wav", SR) as writer:
            writer.write(stereo[0])
            raise failure

    with pytest.raises(failure):
        interrupted()
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.wav", b"old")]


def test_samples_that_cannot_be_written(tmp_path: Path, stereo: np.ndarray) -> None:
    writer = AudioWriter(tmp_path / "a.wav", SR)
    with pytest.raises(ValueError, match="is not open"):
        writer.write(stereo[0])
    with pytest.raises(ValueError, match="1 channels"), writer:
        writer.write(stereo)
    with pytest.raises(AudioError, match="NaN or infinite"), AudioWriter("a.wav", SR) as other:
        other.write(np.array([np.inf], dtype=np.float32))
    assert not list(tmp_path.iterdir())


def test_a_wav_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silence = np.broadcast_to(np.float32(0), (8, 200_000_000))  # 4.8 GB in the file, no memory
    monkeypatch.setattr(np, "isfinite", lambda x: np.ones(1, dtype=bool))
    with (
        AudioWriter(tmp_path / "a.wav", SR, 8, bit_depth="24") as writer,
        pytest.raises(AudioError, match=r"longer than \.wav can be \(4 GB\); choose \.flac"),
    ):
        writer.write(silence)
    (tmp_path / "a.wav").unlink()
    assert not list(tmp_path.iterdir())


def test_clipping_is_told_once_for_all_blocks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with AudioWriter(tmp_path / "a.wav", SR) as writer:
        for _ in range(3):
            writer.write(np.array([0.5, 1.0005, 1.5], dtype=np.float32))
    assert [record.getMessage() for record in caplog.records] == [
        "a.wav: 3 samples beyond full scale were clipped"
    ]
    caplog.clear()
    write_audio(tmp_path / "b.wav", np.array([1.5]), SR, bit_depth="32f")
    assert not caplog.records
    assert read_audio(tmp_path / "b.wav")[0] == [1.5]


def test_silence_stays_exact(tmp_path: Path) -> None:
    """There is no dither: what no piece of a song covers is zeros, also in 16 bits."""
    write_audio(tmp_path / "a.flac", np.zeros(SR, dtype=np.float32), SR)
    assert not read_audio(tmp_path / "a.flac")[0].any()


# ---------------------------------------------------------------- tags


@pytest.mark.parametrize("suffix", SNDFILE)
def test_tags(tmp_path: Path, stereo: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_audio(path, stereo, SR, tags={**TAGS, "software": "svc 1"})
    kept = {name for name in TAGS if suffix != ".w64"}
    if suffix == ".aiff":
        kept = {"title", "artist", "comment", "copyright"}
    found = read_tags(path)
    assert found.pop("software", "").startswith("" if suffix in (".w64", ".aiff") else "svc 1")
    assert found == {name: TAGS[name] for name in kept}
    assert abs(read_audio(path)[0].size - SR) <= 1200


def test_hostile_tags_are_cut(tmp_path: Path, stereo: np.ndarray) -> None:
    tags = {"title": "a\0b\x1b[31m", "comment": "x" * 10**6, "album": " \x07 ", "evil": "y"}
    write_audio(tmp_path / "a.mp3", stereo, SR, tags=tags)
    assert read_tags(tmp_path / "a.mp3") == {"title": "ab[31m", "comment": "x" * 4000}
    assert read_audio(tmp_path / "a.mp3")[0].size >= SR


# ---------------------------------------------------------------- through ffmpeg


def head_of(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_bytes()[5:].partition(b"\n")[0]))


@pytest.mark.parametrize("suffix", FFMPEG)
def test_ffmpeg_writes_the_rest(
    tmp_path: Path, stereo: np.ndarray, suffix: str, stand_in: Callable[..., None]
) -> None:
    path = tmp_path / f"-a{suffix}"
    with AudioWriter(path, SR, 2, tags={**TAGS, "software": "svc 1"}) as writer:
        writer.check()
        writer.write(2 * stereo[:, :5000])
        writer.write(stereo[:, 5000:])
    head = head_of(path)
    assert (head["sr"], head["channels"]) == (SR, 2)
    assert head["tags"]["title"] == TAGS["title"]
    assert head["tags"]["track"] == "3/9"
    assert head["tags"]["encoder"] == head["tags"]["encoding_tool"] == "svc 1"
    assert "+bitexact" in head["arguments"]
    expected = np.clip(np.concatenate((2 * stereo[:, :5000], stereo[:, 5000:]), 1), -1, 1)
    np.testing.assert_array_equal(read_audio(path, mono=False)[0], expected)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_lossless_m4a(tmp_path: Path, stereo: np.ndarray, stand_in: Callable[..., None]) -> None:
    for depth, words in (("16", "s16p"), ("24", "s32p")):
        write_audio(tmp_path / "a.m4a", stereo, SR, bit_depth=depth)
        arguments = head_of(tmp_path / "a.m4a")["arguments"]
        assert {"alac", words} < set(arguments)
        assert "-b:a" not in arguments
        levels = read_audio(tmp_path / "a.m4a", mono=False)[0] * 2.0 ** (int(depth) - 1)
        np.testing.assert_array_equal(levels, np.rint(levels))


def test_without_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AudioError, match=r"a\.m4a without ffmpeg, which is not on PATH"):
        AudioWriter(tmp_path / "a.m4a", SR).check()
    with pytest.raises(AudioError, match="without ffmpeg"):
        write_audio(tmp_path / "a.m4a", np.zeros(10), SR)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        ("Unknown encoder 'aac'", "AudioError", r"ffmpeg: Unknown encoder 'aac'; write a \.wav"),
        ("x: No space left on device", "OutputError", "no space left on the disk"),
    ],
)
def test_what_goes_wrong_in_ffmpeg(
    tmp_path: Path,
    stereo: np.ndarray,
    stand_in: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    kind: str,
    message: str,
) -> None:
    stand_in(tmp_path / "unused.m4a", stereo, SR)
    (tmp_path / "unused.m4a").unlink()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ffmpeg").write_text(f'#!/bin/sh\necho "{words}" >&2\nexit 1\n')
    (tmp_path / "bin" / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(Exception, match=message) as caught:
        write_audio(tmp_path / "a.m4a", np.tile(stereo, 10), SR)
    assert type(caught.value).__name__ == kind
    assert [p.name for p in tmp_path.iterdir()] == ["bin"]
