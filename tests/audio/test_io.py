from __future__ import annotations

import io
import os
import struct
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from svc.audio.io import AUDIO_SUFFIXES, audio_info, list_audio, read_audio, write_audio
from svc.errors import AudioError, MissingFileError, OutputError

SR = 44100


@pytest.fixture
def wav(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-0.9, 0.9, SR // 2).astype(np.float32)


@pytest.fixture
def no_ffmpeg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [
        (".wav", None, 2**-16),
        (".wav", "PCM_U8", 2**-7),
        (".wav", "PCM_24", 2**-24),
        (".wav", "PCM_32", 2**-25),
        (".wav", "FLOAT", 0.0),
        (".wav", "DOUBLE", 0.0),
        (".flac", None, 2**-16),
        (".flac", "PCM_24", 2**-24),
        (".aiff", None, 2**-16),
    ],
)
def test_round_trip(
    tmp_path: Path, wav: np.ndarray, suffix: str, subtype: str | None, tolerance: float
) -> None:
    path = tmp_path / f"a{suffix}"
    write_audio(path, wav, SR, subtype=subtype)
    back, sr = read_audio(path)
    assert sr == SR
    assert back.dtype == np.float32
    assert back.shape == wav.shape
    np.testing.assert_allclose(back, wav, rtol=0, atol=tolerance)
    assert soundfile.info(path).subtype == (subtype or "PCM_16")


@pytest.mark.parametrize(("suffix", "sr"), [(".ogg", SR), (".mp3", SR), (".opus", 48000)])
def test_lossy_formats_keep_length_and_sound(tmp_path: Path, suffix: str, sr: int) -> None:
    wav = (0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * sr) / sr)).astype(np.float32)
    write_audio(tmp_path / f"a{suffix}", wav, sr)
    back, back_sr = read_audio(tmp_path / f"a{suffix}")
    assert back_sr == sr
    assert abs(len(back) - len(wav)) <= 0.05 * sr
    middle = slice(sr // 2, sr)
    assert np.corrcoef(back[middle], wav[middle])[0, 1] > 0.99


def test_copying_a_16_bit_file_changes_no_sample(tmp_path: Path, rng: np.random.Generator) -> None:
    levels = rng.integers(-(2**15), 2**15, 5000).astype(np.int16)
    levels[:2] = -(2**15), 2**15 - 1
    soundfile.write(tmp_path / "a.wav", levels, SR)
    write_audio(tmp_path / "b.wav", *read_audio(tmp_path / "a.wav"))
    np.testing.assert_array_equal(soundfile.read(tmp_path / "b.wav", dtype="int16")[0], levels)


@pytest.mark.parametrize("sr", [8000, 11025, 16000, 22050, 32000, 48000, 96000, 192000])
def test_sampling_rates(tmp_path: Path, wav: np.ndarray, sr: int) -> None:
    write_audio(tmp_path / "a.wav", wav, sr)
    assert read_audio(tmp_path / "a.wav")[1] == sr
    info = audio_info(tmp_path / "a.wav")
    assert (info.sr, info.channels, info.n_samples) == (sr, 1, len(wav))
    assert info.duration_s == pytest.approx(len(wav) / sr)


def test_stereo_is_averaged_or_kept(tmp_path: Path, wav: np.ndarray) -> None:
    both = np.stack((wav, 0.5 * wav[::-1]))
    write_audio(tmp_path / "a.wav", both, SR, subtype="FLOAT")
    kept, _ = read_audio(tmp_path / "a.wav", mono=False)
    np.testing.assert_array_equal(kept, both)
    mono, _ = read_audio(tmp_path / "a.wav")
    np.testing.assert_allclose(mono, both.mean(axis=0), atol=1e-7)
    assert audio_info(tmp_path / "a.wav").channels == 2
    one, _ = read_audio_of_mono(tmp_path, wav)
    assert one.shape == (1, len(wav))


def read_audio_of_mono(folder: Path, wav: np.ndarray) -> tuple[np.ndarray, int]:
    write_audio(folder / "mono.wav", wav, SR)
    return read_audio(folder / "mono.wav", mono=False)


def test_float_files_beyond_full_scale_are_read_as_they_are(
    tmp_path: Path, wav: np.ndarray
) -> None:
    write_audio(tmp_path / "a.wav", 3 * wav, SR, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0], 3 * wav)


def test_integer_formats_clip_and_say_so(
    tmp_path: Path, wav: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    write_audio(tmp_path / "a.wav", 3 * wav, SR)
    assert "clipped" in caplog.text
    back, _ = read_audio(tmp_path / "a.wav")
    np.testing.assert_allclose(back, np.clip(3 * wav, -1, 1), atol=2**-15)


def test_long_ogg_does_not_crash(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.ogg", np.zeros(30 * SR, dtype=np.float32), SR)
    assert audio_info(tmp_path / "a.ogg").n_samples == 30 * SR


@pytest.mark.parametrize(
    "name",
    [
        "with space",
        "歌声 テスト",
        "🎤🎶",
        "a|b",
        'it\'s "quoted"',
        "-x",
        "n" * 200,
        "a.wav.b",
        "%d",
    ],
)
def test_any_file_name(tmp_path: Path, wav: np.ndarray, name: str) -> None:
    path = tmp_path / f"{name}.wav"
    write_audio(path, wav, SR)
    assert len(read_audio(path)[0]) == len(wav)
    assert audio_info(path).n_samples == len(wav)
    assert list_audio(tmp_path) == [path]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names of bytes are Linux's")
def test_file_name_that_is_not_utf8(tmp_path: Path, wav: np.ndarray) -> None:
    path = tmp_path / os.fsdecode(b"\xc9\xf9.wav")
    write_audio(path, wav, SR)
    assert len(read_audio(path)[0]) == len(wav)


# ---------------------------------------------------------------- bad files


def wav_bytes(samples: np.ndarray, subtype: str = "PCM_16") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SR, format="WAV", subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "0 bytes"),
        (b"this is a text file\n" * 200, "no readable audio"),
        (bytes(4000), "no readable audio"),
        (b"RIFF", "no readable audio"),
        (wav_bytes(np.zeros(0)), "no samples"),
        (wav_bytes(np.zeros(SR))[: SR // 2], "truncated"),
        (wav_bytes(np.zeros(SR))[:40] + bytes(SR), "no samples"),  # a recorder that crashed
    ],
)
@pytest.mark.usefixtures("no_ffmpeg")
def test_unusable_files_are_named_in_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "bad 名.wav"
    path.write_bytes(content)
    for function in (audio_info, read_audio):
        with pytest.raises(AudioError, match=says) as caught:
            function(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".flac", ".mp3", ".aiff"])
def test_truncated_files_are_refused(tmp_path: Path, wav: np.ndarray, suffix: str) -> None:
    write_audio(tmp_path / f"a{suffix}", np.tile(wav, 4), SR)
    content = (tmp_path / f"a{suffix}").read_bytes()
    (tmp_path / f"b{suffix}").write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=r"truncated|damaged"):
        read_audio(tmp_path / f"b{suffix}")


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF])
def test_wav_of_a_streaming_writer_is_read(tmp_path: Path, wav: np.ndarray, size: int) -> None:
    content = bytearray(wav_bytes(wav))
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", size)
    content[4:8] = struct.pack("<I", size)
    (tmp_path / "a.wav").write_bytes(content)
    assert len(read_audio(tmp_path / "a.wav")[0]) == len(wav)


def test_chunks_around_the_sound_are_no_truncation(tmp_path: Path, wav: np.ndarray) -> None:
    content = wav_bytes(wav)
    at = content.index(b"data")
    extra = b"LIST" + struct.pack("<I", 5) + b"abcde\0"
    (tmp_path / "a.wav").write_bytes(content[:at] + extra + content[at:] + extra)
    back, _ = read_audio(tmp_path / "a.wav")
    np.testing.assert_allclose(back[: len(wav)], wav, atol=2**-15)
    (tmp_path / "b.wav").write_bytes((content[:at] + extra + content[at:])[: -SR // 2])
    with pytest.raises(AudioError, match="truncated"):
        read_audio(tmp_path / "b.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(tmp_path: Path, wav: np.ndarray, value: float) -> None:
    wav[SR // 4] = value
    (tmp_path / "a.wav").write_bytes(wav_bytes(wav, "FLOAT"))
    with pytest.raises(AudioError, match=r"1 samples that are NaN or infinite.* 0\.250 s"):
        read_audio(tmp_path / "a.wav")
    with pytest.raises(AudioError, match="NaN or infinite"):
        write_audio(tmp_path / "b.wav", wav, SR)
    assert not (tmp_path / "b.wav").exists()


def test_absent_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"gone\.wav"):
        read_audio(tmp_path / "gone.wav")
    with pytest.raises(MissingFileError, match="gone"):
        list_audio(tmp_path / "gone")
    (tmp_path / "d.wav").mkdir()
    with pytest.raises(AudioError, match="folder"):
        read_audio(tmp_path / "d.wav")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_unreadable_file(tmp_path: Path, wav: np.ndarray) -> None:
    write_audio(tmp_path / "a.wav", wav, SR)
    (tmp_path / "a.wav").chmod(0)
    with pytest.raises(AudioError, match="cannot open"):
        read_audio(tmp_path / "a.wav")


# ---------------------------------------------------------------- ffmpeg


@pytest.mark.usefixtures("no_ffmpeg")
def test_other_containers_ask_for_ffmpeg(tmp_path: Path) -> None:
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(500))
    with pytest.raises(AudioError, match="ffmpeg, which is not on PATH"):
        read_audio(tmp_path / "a.m4a")


def test_other_containers_go_through_ffmpeg(
    tmp_path: Path, wav: np.ndarray, stand_in: Callable[..., None]
) -> None:
    path = tmp_path / "-a|b 名.m4a"
    stand_in(path, np.stack((wav, wav)), 48000)
    back, sr = read_audio(path)
    np.testing.assert_array_equal(back, wav)
    assert sr == 48000
    info = audio_info(path)
    assert (info.channels, info.n_samples) == (2, len(wav))


def test_what_ffmpeg_cannot_read_either(
    tmp_path: Path, wav: np.ndarray, stand_in: Callable[..., None]
) -> None:
    stand_in(tmp_path / "unused.m4a", wav, SR)
    (tmp_path / "a.wav").write_bytes(b"text " * 100)
    with pytest.raises(AudioError, match="Invalid data found") as caught:
        read_audio(tmp_path / "a.wav")
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- writing


def test_unknown_suffix_and_subtype(tmp_path: Path, wav: np.ndarray) -> None:
    with pytest.raises(AudioError, match=r"\.flac .*\.wav"):
        write_audio(tmp_path / "a.xyz", wav, SR)
    with pytest.raises(AudioError, match="PCM_16"):
        write_audio(tmp_path / "a.flac", wav, SR, subtype="FLOAT")
    with pytest.raises(AudioError, match="44100 Hz"):
        write_audio(tmp_path / "a.opus", wav, SR)
    assert list(tmp_path.iterdir()) == []


def test_wrong_arrays_are_programming_errors(tmp_path: Path) -> None:
    bad: npt.NDArray[Any]
    for bad in (np.zeros((1000, 2)), np.zeros((1, 2, 3)), np.zeros(5, dtype=np.int16)):
        with pytest.raises(ValueError, match="wav must"):
            write_audio(tmp_path / "a.wav", bad, SR)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, full_disk: Callable[[], AbstractContextManager[None]], suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"old")
    with full_disk(), pytest.raises(OutputError, match=rf"cannot write .*a\{suffix}: "):
        write_audio(path, np.random.default_rng(0).uniform(-1, 1, 4 * SR), SR)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_writing_below_a_file_is_an_output_error(tmp_path: Path, wav: np.ndarray) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(OutputError, match="file"):
        write_audio(tmp_path / "file" / "a.wav", wav, SR)


def test_empty_audio_can_be_written(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.zeros(0, dtype=np.float32), SR)
    assert soundfile.info(tmp_path / "a.wav").frames == 0


# ---------------------------------------------------------------- folders


def test_list_audio(tmp_path: Path) -> None:
    names = [
        "b.WAV",
        "a.flac",
        "c.txt",
        ".hidden.wav",
        "xwav",
        "sub/d.mp3",
        ".cache/e.wav",
        "z.m4a",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    assert [p.name for p in list_audio(tmp_path)] == ["a.flac", "b.WAV", "z.m4a"]
    found = [p.relative_to(tmp_path).as_posix() for p in list_audio(tmp_path, recursive=True)]
    assert found == ["a.flac", "b.WAV", "sub/d.mp3", "z.m4a"]


def test_suffixes_are_lower_case_with_dot() -> None:
    assert {".wav", ".flac", ".ogg", ".mp3", ".m4a"} <= AUDIO_SUFFIXES
    assert all(s.startswith(".") and s == s.lower() for s in AUDIO_SUFFIXES)


def test_real_recordings(shared: Path) -> None:
    files = list_audio(shared / "audio" / "singing" / "trope_cantor")
    assert len(files) > 3
    for path in files[:3]:
        wav, sr = read_audio(path)
        info = audio_info(path)
        assert (info.sr, info.n_samples) == (sr, len(wav))
        assert 1e-3 < np.abs(wav).max() <= 1.0
