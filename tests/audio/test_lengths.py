"""Files that do not say how long they are, or say it wrongly: all of their sound is read."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from svc.audio import flac_length, mpeg
from svc.audio.io import audio_info, read_audio, read_blocks, write_audio
from svc.audio.reader import open_audio
from svc.audio.view import Edit, FileView
from svc.errors import AudioError

SR = 44100
FRAME = 1152  # samples of MPEG-1; half as many of MPEG-2
DELAY = 529  # samples of a decoder, which are left out at the beginning


@pytest.fixture
def song(rng: np.random.Generator) -> np.ndarray:
    """Eight seconds: a quiet tone, then noise, so that frames of variable bit rate grow."""
    time = np.arange(8 * SR) / SR
    wav = 0.2 * np.sin(2 * np.pi * 300 * time)
    wav[2 * SR :] += rng.uniform(-0.5, 0.5, 6 * SR)
    return wav.astype(np.float32)


def mp3(wav: np.ndarray, sr: int = SR, mode: str = "VARIABLE") -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, wav.T, sr, format="MP3", bitrate_mode=mode, compression_level=0.4)
    return stream.getvalue()


def without_info(content: bytes) -> bytes:
    """Cut off the frame that says how many others there are."""
    header = mpeg.parse_header(content[:4])
    assert header is not None
    assert content[header.tag_at : header.tag_at + 4] in (b"Xing", b"Info")
    return content[header.size :]


def n_frames_of(content: bytes) -> int:
    at = n_frames = 0
    while (header := mpeg.parse_header(content[at : at + 4])) is not None:
        n_frames += 1
        at += header.size
    assert at == len(content)
    return n_frames


def id3(size: int) -> bytes:
    # No null bytes alone: pictures hold what looks like the beginning of frames.
    return (
        b"ID3\x04\0\0" + bytes((0, 0, size >> 7, size & 0x7F)) + (b"\xff\xfb\x90\x64" * size)[:size]
    )


# ---------------------------------------------------------------- MP3


@pytest.mark.parametrize("mode", ["VARIABLE", "AVERAGE", "CONSTANT"])
@pytest.mark.parametrize(
    ("sr", "channels", "tag"),
    [(SR, 1, b""), (SR, 2, id3(5000)), (22050, 1, id3(5000)), (22050, 2, b""), (8000, 1, b"")],
    ids=["mono", "stereo", "mono of MPEG-2", "stereo of MPEG-2", "mono of MPEG-2.5"],
)
def test_an_mp3_that_does_not_say_its_length(
    tmp_path: Path, song: np.ndarray, mode: str, sr: int, channels: int, tag: bytes
) -> None:
    wav = np.stack([song, song[::-1]])[:channels]
    content = without_info(mp3(wav, sr, mode))
    path = tmp_path / "a.mp3"
    path.write_bytes(tag + content)
    n_samples = n_frames_of(content) * (FRAME if sr == SR else FRAME // 2) - DELAY
    assert n_samples >= song.size
    assert audio_info(path).n_samples == n_samples
    back, _ = read_audio(path, mono=False)
    assert back.shape == (channels, n_samples)
    blocks = list(read_blocks(path, 0.3, mono=False))
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), back)
    if channels == 1 and sr == SR:  # the noise after the tone, whose frames are longer
        assert np.square(back[0, -2 * SR :]).mean() > 0.05


def test_an_mp3_with_its_count_is_left_alone(tmp_path: Path, song: np.ndarray) -> None:
    """The delays of the encoder, which stand beside the count, go on being cut off."""
    for mode in ("VARIABLE", "CONSTANT"):
        content = mp3(song, mode=mode)
        assert mpeg.length_edit(io.BytesIO(content), len(content)) is None
        (tmp_path / "a.mp3").write_bytes(content)
        assert read_audio(tmp_path / "a.mp3")[0].size == song.size


def test_songs_one_behind_the_other(
    tmp_path: Path, song: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    """The count of the first does not end the reading, with tags between them or without."""
    one = mp3(song)
    for between in (b"", b"TAG".ljust(128, b"\0"), id3(700), b"TAG".ljust(128, b"\0") + id3(700)):
        (tmp_path / "a.mp3").write_bytes(one + between + one)
        n_samples = audio_info(tmp_path / "a.mp3").n_samples
        assert abs(n_samples - 2 * song.size) < 4 * FRAME
        assert read_audio(tmp_path / "a.mp3")[0].size == n_samples
    assert capfd.readouterr().err == ""


def test_a_song_of_another_rate_behind_the_first_is_told(tmp_path: Path, song: np.ndarray) -> None:
    for sr in (48000, 22050):
        (tmp_path / "a.mp3").write_bytes(mp3(song) + mp3(song, sr))
        with pytest.raises(AudioError, match=r"truncated: 8\.\d\d s of "):
            read_audio(tmp_path / "a.mp3")


def test_what_stands_behind_an_mp3(tmp_path: Path, song: np.ndarray) -> None:
    content = without_info(mp3(song))
    n_samples = n_frames_of(content) * FRAME - DELAY
    ape = struct.pack("<8sIIII8x", b"APETAGEX", 2000, 40, 1, 0xA0000000) + b"\xff\xfb" * 20
    for behind in (b"TAG".ljust(128, b"x"), ape, bytes(3000), content[:100]):
        (tmp_path / "a.mp3").write_bytes(content + behind)
        assert audio_info(tmp_path / "a.mp3").n_samples == n_samples
        assert read_audio(tmp_path / "a.mp3")[0].size == n_samples


@pytest.mark.parametrize("kind", ["Xing", "VBRI"])
def test_an_mp3_that_was_cut_off_is_told(
    tmp_path: Path, song: np.ndarray, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    content = mp3(song)
    header = mpeg.parse_header(content[:4])
    assert header is not None
    if kind == "VBRI":  # as another encoder writes it (always 32 bytes behind the header)
        says = struct.pack(">4sHHHII", b"VBRI", 1, 0, 75, len(content), n_frames_of(content) - 1)
        content = (content[:4] + bytes(32) + says).ljust(header.size, b"\0") + without_info(content)
    (tmp_path / "a.mp3").write_bytes(content)
    assert abs(read_audio(tmp_path / "a.mp3")[0].size - song.size) < 3 * FRAME
    (tmp_path / "b.mp3").write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=r"b\.mp3 is truncated: .* s of 8\.\d\d s"):
        read_audio(tmp_path / "b.mp3")
    assert capfd.readouterr().err == ""


def test_chance_makes_no_mp3(rng: np.random.Generator) -> None:
    noise = rng.integers(0, 256, 100_000, dtype=np.uint8).tobytes()
    for content in (b"", b"ID3", b"\xff\xfb", noise, b"ID3\x04\0\0\0\0\0\x05" + noise, id3(900)):
        assert mpeg.length_edit(io.BytesIO(content), len(content)) is None
    cut_in_its_first_frame = mp3(np.zeros(SR, dtype=np.float32))[:100]
    assert mpeg.length_edit(io.BytesIO(cut_in_its_first_frame), 100) is None
    flac = io.BytesIO()
    soundfile.write(flac, np.frombuffer(noise, "<i2"), SR, format="FLAC")
    tagged = id3(900) + flac.getvalue()
    assert mpeg.length_edit(io.BytesIO(tagged), len(tagged)) is None


def test_a_layer_whose_length_is_guessed(
    tmp_path: Path, song: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libsndfile's guess for layers I and II is no promise: a healthy file may hold less."""
    write_audio(tmp_path / "a.flac", song, SR)
    kinds = property(lambda sound: "MPEG_LAYER_II")
    monkeypatch.setattr(soundfile.SoundFile, "subtype", kinds)
    with open_audio(tmp_path / "a.flac") as sound:
        assert sound.n_samples is None
        assert sound.count() == song.size


@pytest.mark.parametrize("mode", ["VARIABLE", "AVERAGE", "CONSTANT"])
def test_blocks_of_an_mp3_are_those_of_the_whole(
    tmp_path: Path, song: np.ndarray, mode: str
) -> None:
    """What one frame leaves for the next one is there, too, where a block begins."""
    (tmp_path / "a.mp3").write_bytes(mp3(song, mode=mode))
    whole, _ = read_audio(tmp_path / "a.mp3")
    for seconds in (0.1, 0.3, 1.0):
        blocks = np.concatenate(list(read_blocks(tmp_path / "a.mp3", seconds)))
        np.testing.assert_array_equal(blocks, whole)


# ---------------------------------------------------------------- FLAC


def open_flac(content: bytes) -> bytes:
    """Leave the number of samples open, as one does who writes to a pipe."""
    return content[:21] + bytes((content[21] & 0xF0,)) + bytes(4) + content[26:]


@pytest.mark.parametrize(
    ("sr", "channels"), [(SR, 1), (8000, 2), (96000, 2), (37000, 1), (655350, 1)]
)
@pytest.mark.parametrize("n_samples", [1, 17, 4096, 4097, 100_000, 600_001])
def test_a_flac_that_does_not_say_its_length(
    tmp_path: Path, rng: np.random.Generator, sr: int, n_samples: int, channels: int
) -> None:
    wav = rng.uniform(-0.9, 0.9, (channels, n_samples)).astype(np.float32)
    path = tmp_path / "a.flac"
    write_audio(path, wav, sr)
    whole, _ = read_audio(path, mono=False)
    content = open_flac(path.read_bytes())
    path.write_bytes(content + b"TAG".ljust(128, b"\xff"))
    assert audio_info(path).n_samples == n_samples
    np.testing.assert_array_equal(read_audio(path, mono=False)[0], whole)
    blocks = list(read_blocks(path, 0.1, mono=False))
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), whole)


def test_a_flac_without_length_that_was_cut_off(tmp_path: Path, song: np.ndarray) -> None:
    write_audio(tmp_path / "a.flac", song, SR)
    content = open_flac((tmp_path / "a.flac").read_bytes())
    (tmp_path / "a.flac").write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=r"a\.flac is (truncated|damaged): "):
        read_audio(tmp_path / "a.flac")


def test_other_flacs_are_left_alone(tmp_path: Path, song: np.ndarray) -> None:
    write_audio(tmp_path / "a.flac", song, SR)
    content = (tmp_path / "a.flac").read_bytes()
    for other in (content, content[:20], b"", open_flac(content)[:3000][:90], b"fLaC" + bytes(40)):
        assert flac_length.length_edit(io.BytesIO(other), len(other)) is None


# ---------------------------------------------------------------- CAF and W64 from a pipe


def test_sizes_that_are_left_open(
    tmp_path: Path, song: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    for suffix, layout, value in ((".caf", ">q", -1), (".w64", "<Q", 2**63 - 1)):
        path = tmp_path / f"a{suffix}"
        write_audio(path, song, SR)
        content = bytearray(path.read_bytes())
        at = content.index(b"data") + (4 if suffix == ".caf" else 16)
        struct.pack_into(layout, content, at, value)
        path.write_bytes(content)
        np.testing.assert_allclose(read_audio(path)[0], song, atol=2**-15)
    assert capfd.readouterr().err == ""  # no traceback of a callback either


# ---------------------------------------------------------------- the edited view


@pytest.mark.parametrize(
    "edit", [None, Edit(0, 0, b"xyz"), Edit(3, 4, b"x"), Edit(7, 3, b"abcdef")]
)
def test_a_view_is_a_file(edit: Edit | None) -> None:
    content = bytes(range(10))
    expected = content
    if edit is not None:
        expected = content[: edit.at] + edit.new + content[edit.at + edit.removed :]
    view, reference = FileView(io.BytesIO(content), edit), io.BytesIO(expected)
    for offset, whence, size in (
        (0, 0, 4),
        (1, 1, 3),
        (-2, 2, 5),
        (2, 0, -1),
        (0, 2, 1),
        (50, 0, 1),
    ):
        assert view.seek(offset, whence) == reference.seek(offset, whence)
        assert view.read(size) == reference.read(size)
        assert view.tell() == reference.tell()
    view.seek(4)
    assert view.seek(-(2**63), io.SEEK_CUR) == 4  # as a file that refuses, without an exception
    buffer = bytearray(3)
    assert view.readinto(memoryview(buffer)) == 3
    assert bytes(buffer) == expected[4:7]


# ---------------------------------------------------------------- through ffmpeg


@pytest.mark.parametrize(
    ("container", "is_believed"),
    [
        ({}, True),
        ({"format_name": "aac"}, False),
        ({"format_name": "ac3"}, False),
        ({"format_name": "mp3"}, False),
        ({"format_name": "asf"}, True),
        ({"format_name": "matroska,webm"}, False),  # of the stream: ffprobe's guess
    ],
)
def test_a_guessed_length_is_no_promise(
    tmp_path: Path,
    song: np.ndarray,
    stand_in: Callable[..., None],
    container: dict[str, Any],
    is_believed: bool,
) -> None:
    stand_in(tmp_path / "a.aac", song, SR, gives=4 * SR, container=container)
    if is_believed:
        with pytest.raises(AudioError, match=r"truncated: 1\.00 s of 8\.00 s"):
            read_audio(tmp_path / "a.aac")
    else:
        assert read_audio(tmp_path / "a.aac")[0].size == SR


def test_ffprobe_says_that_it_guesses(
    tmp_path: Path, song: np.ndarray, stand_in: Callable[..., None]
) -> None:
    warns = "[asf @ 0x5] Estimating duration from bitrate, this may be inaccurate\n"
    facts = {"format_name": "asf"}
    stand_in(tmp_path / "a.wma", song, SR, gives=4 * SR, container=facts, warns=warns)
    assert read_audio(tmp_path / "a.wma")[0].size == SR


@pytest.mark.parametrize(("n_streams", "is_believed"), [(1, True), (2, False)])
def test_the_length_of_a_film_is_not_that_of_its_sound(
    tmp_path: Path,
    song: np.ndarray,
    stand_in: Callable[..., None],
    n_streams: int,
    is_believed: bool,
) -> None:
    facts = {"format_name": "matroska,webm", "nb_streams": n_streams, "duration": "9.5"}
    stand_in(tmp_path / "a.mka", song, SR, timed=False, container=facts)
    if is_believed:
        with pytest.raises(AudioError, match=r"truncated: 8\.00 s of 9\.50 s"):
            read_audio(tmp_path / "a.mka")
    else:
        assert read_audio(tmp_path / "a.mka")[0].size == song.size
