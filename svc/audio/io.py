"""Audio files: read any format as float32, write by suffix, list folders.

libsndfile (soundfile) reads wav, flac, ogg, opus, mp3, aiff and more; containers that it does not
know (m4a, wma, ...) go through an ffmpeg on PATH. Files are opened by Python, so names in any
script and any characters work everywhere.
"""

from __future__ import annotations

import io
import logging
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from svc.atomic import atomic_path
from svc.errors import AudioError, MissingFileError

logger = logging.getLogger(__name__)

_SNDFILE_SUFFIXES = frozenset({
    ".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au",
    ".snd", ".caf", ".w64", ".rf64",
})  # fmt: skip
_FFMPEG_SUFFIXES = frozenset({
    ".m4a", ".m4b", ".aac", ".mp4", ".wma", ".webm", ".mka", ".ac3", ".amr", ".ape", ".wv", ".tta",
    ".mp2",
})  # fmt: skip
AUDIO_SUFFIXES: frozenset[str] = _SNDFILE_SUFFIXES | _FFMPEG_SUFFIXES
"""Lower-case suffixes of files that `list_audio` picks up."""

# suffix -> (libsndfile format, default subtype)
_WRITERS: dict[str, tuple[str, str]] = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".aiff": ("AIFF", "PCM_16"),
}
_FLOAT_SUBTYPES = frozenset({"FLOAT", "DOUBLE"})
_WRITE_BLOCK = 1 << 16  # frames; the Vorbis encoder overflows its stack on huge writes
_STREAMED_SIZES = frozenset({0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF})
_TOLERATED_SHORTFALL_S = 0.05  # some writers count their header, or a decoder's delay, as sound


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file says."""

    sr: int  # Hz
    channels: int
    n_samples: int  # per channel
    duration_s: float


def audio_info(path: str | Path) -> AudioInfo:
    """Sampling rate, channels and length of a file, without decoding it where libsndfile knows the
    format.

    Args:
        path: an audio file.

    Returns:
        The `AudioInfo`.

    Raises:
        MissingFileError: there is no such file.
        AudioError: the file is empty, no audio, truncated, or needs an ffmpeg that is not there.
    """
    with _open_sound(Path(path)) as sound:
        n_samples = int(sound.frames)
        return AudioInfo(sound.samplerate, sound.channels, n_samples, n_samples / sound.samplerate)


def read_audio(path: str | Path, *, mono: bool = True) -> tuple[npt.NDArray[np.float32], int]:
    """Read a whole audio file of any sample format.

    Args:
        path: an audio file: 8/16/24/32-bit, float, any rate, any number of channels.
        mono: average the channels; else keep them.

    Returns:
        ``(wav, sr)``: wav float32 ``(T,)``, or ``(C, T)`` where `mono` is false, and its rate in
        Hz. Integer formats span [-1, 1); float files and lossy decoders may overshoot and are
        returned as they are, so a caller can scale them.

    Raises:
        MissingFileError: there is no such file.
        AudioError: the file is empty, no audio, truncated, holds NaN or infinite samples, or needs
            an ffmpeg that is not there.
    """
    path = Path(path)
    with _open_sound(path) as sound:
        sr, expected = int(sound.samplerate), int(sound.frames)
        try:
            samples = sound.read(dtype="float32", always_2d=True)  # (T, C)
        except soundfile.LibsndfileError as error:
            raise AudioError(
                f"{path} is damaged: {_reason(error)}; copy or export it again"
            ) from error
    if (expected - len(samples)) / sr > _TOLERATED_SHORTFALL_S:
        raise AudioError(
            f"{path} is truncated: {len(samples) / sr:.2f} s of {expected / sr:.2f} s can be read; "
            "copy or export it again"
        )
    finite = np.isfinite(samples)
    if not finite.all():
        n_bad = int(finite.size - np.count_nonzero(finite))
        first = int(np.argmin(finite.all(axis=1)))
        raise AudioError(
            f"{path} holds {n_bad} samples that are NaN or infinite, the first at "
            f"{first / sr:.3f} s; export it again"
        )
    if not mono:
        return np.ascontiguousarray(samples.T), sr
    if samples.shape[1] == 1:
        return np.ascontiguousarray(samples[:, 0]), sr
    return samples.mean(axis=1, dtype=np.float32), sr


def write_audio(
    path: str | Path, wav: npt.NDArray[np.floating], sr: int, *, subtype: str | None = None
) -> None:
    """Write an audio file atomically; the suffix chooses the format.

    A 16-bit file that was read with `read_audio` and is written unchanged keeps every sample value.

    Args:
        path: target with suffix .wav, .flac, .ogg, .opus, .mp3 or .aiff; folders are created.
        wav: ``(T,)`` or ``(C, T)`` samples; beyond [-1, 1] they are clipped (with a warning) except
            in float subtypes.
        sr: sampling rate, Hz.
        subtype: libsndfile's name, e.g. ``"PCM_24"`` or ``"FLOAT"``; default PCM_16, for lossy
            formats their own codec.

    Raises:
        AudioError: unknown suffix, subtype or rate for the format, or samples that are not finite.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    data = np.asarray(wav)
    if not np.issubdtype(data.dtype, np.floating):
        raise ValueError(f"wav must hold floats in [-1, 1], not {data.dtype}")
    if data.ndim not in (1, 2) or (data.ndim == 2 and not 1 <= data.shape[0] <= 64):
        raise ValueError(f"wav must be (T,) or (C, T) with at most 64 channels, not {data.shape}")
    if path.suffix.lower() not in _WRITERS:
        known = " ".join(sorted(_WRITERS))
        raise AudioError(f'cannot write {path}: unknown suffix "{path.suffix}"; use one of {known}')
    container, default_subtype = _WRITERS[path.suffix.lower()]
    subtype = subtype.upper() if subtype else default_subtype
    if not soundfile.check_format(container, subtype):
        known = " ".join(sorted(soundfile.available_subtypes(container)))
        raise AudioError(f'cannot write {path}: {container} has no "{subtype}"; use one of {known}')
    if not np.isfinite(data).all():
        raise AudioError(f"refused to write {path}: some samples are NaN or infinite")
    frames = data[:, None] if data.ndim == 1 else data.T  # (T, C)
    if subtype not in _FLOAT_SUBTYPES:
        n_clipped = int(np.count_nonzero(np.abs(frames) > 1.001))
        if n_clipped:
            logger.warning("%s: %d samples beyond full scale were clipped", path, n_clipped)
    # Encoded in memory: a full disk then shows as the OSError of one write, not as a half-told
    # codec error.
    buffer = io.BytesIO()
    try:
        with soundfile.SoundFile(
            buffer, "w", int(sr), frames.shape[1], subtype=subtype, format=container
        ) as sound:
            for start in range(0, len(frames), _WRITE_BLOCK):
                sound.write(_quantise(frames[start : start + _WRITE_BLOCK], subtype))
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"cannot write {path} as {container}/{subtype} at {sr} Hz with {frames.shape[1]} "
            f"channels: {_reason(error)}; write a .wav instead"
        ) from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def list_audio(folder: str | Path, *, recursive: bool = False) -> list[Path]:
    """Audio files of a folder, by suffix (any case), sorted by path; names that start with a dot
    are skipped.

    Args:
        folder: where to look.
        recursive: also look in sub-folders, hidden ones excepted.

    Returns:
        Paths that start with `folder`.

    Raises:
        MissingFileError: the folder is not there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(
            f"{folder} is not a folder; give the folder that holds the recordings"
        )
    found = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(
        path
        for path in found
        if path.suffix.lower() in AUDIO_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def _quantise(frames: npt.NDArray[np.floating], subtype: str) -> npt.NDArray[Any]:
    """Samples in the type libsndfile stores unchanged. (T, C) in, (T, C) out.

    libsndfile reads integers as v / 2^(bits-1) but writes x * (2^(bits-1) - 1), so its own
    conversion moves samples on every copy; rounding here by the reader's factor makes copies exact.
    """
    if subtype == "DOUBLE":
        return frames.astype(np.float64)
    if subtype == "FLOAT":
        return frames.astype(np.float32)
    bits = {"PCM_16": 16, "PCM_24": 24, "PCM_32": 32}.get(subtype)
    if bits is None:
        return np.clip(frames.astype(np.float32), -1.0, 1.0)
    full = 1 << (bits - 1)
    levels = np.clip(np.rint(frames.astype(np.float64) * full), -full, full - 1)
    # libsndfile takes 24 bits from the upper end of 32.
    return levels.astype(np.int16) if bits == 16 else levels.astype(np.int32) * (1 << (32 - bits))


@contextmanager
def _open_sound(path: Path) -> Iterator[soundfile.SoundFile]:
    """Open a non-empty, complete audio file, through ffmpeg where libsndfile does not know it."""
    if path.is_dir():
        raise AudioError(f"{path} is a folder; give an audio file")
    try:
        stream = path.open("rb")
    except FileNotFoundError as error:
        raise MissingFileError(f"the audio file {path} is not there; check the path") from error
    except OSError as error:
        raise AudioError(f"cannot open {path}: {error.strerror}") from error
    with stream:
        n_bytes = stream.seek(0, io.SEEK_END)
        if n_bytes == 0:
            raise AudioError(f"{path} is empty (0 bytes); copy or export it again")
        missing = _missing_bytes(stream, n_bytes)
        stream.seek(0)
        try:
            sound = soundfile.SoundFile(stream)
        except soundfile.LibsndfileError as error:
            sound, reason = None, _reason(error)
        if sound is not None:
            with sound:
                bytes_per_second = max(n_bytes / max(sound.frames / sound.samplerate, 1e-9), 1.0)
                if missing / bytes_per_second > _TOLERATED_SHORTFALL_S:
                    raise AudioError(
                        f"{path} is truncated: {missing} bytes that its header promises are not "
                        "there; copy or export it again"
                    )
                if sound.frames == 0:
                    raise AudioError(f"{path} holds no samples; remove it or export it again")
                yield sound
            return
    with _decoded_by_ffmpeg(path, reason) as sound:
        yield sound


@contextmanager
def _decoded_by_ffmpeg(path: Path, reason: str) -> Iterator[soundfile.SoundFile]:
    """Decode the first audio stream to a temporary float WAV and open that."""
    program = shutil.which("ffmpeg")
    if program is None:
        if path.suffix.lower() in _SNDFILE_SUFFIXES:
            raise AudioError(
                f"{path} is no readable audio file ({reason}); export it again as WAV or FLAC"
            )
        raise AudioError(
            f"{path} cannot be read without ffmpeg, which is not on PATH; install ffmpeg, or "
            "convert the file to WAV or FLAC"
        )
    with tempfile.TemporaryDirectory(prefix="svc-") as folder:
        target = Path(folder) / "decoded.wav"
        # "file:" and the white list keep names like "-x.m4a" or "http://..." and play lists from
        # meaning anything else.
        command = [program, "-nostdin", "-v", "error", "-protocol_whitelist", "file"]
        command += ["-i", f"file:{path.resolve()}", "-map", "0:a:0", "-c:a", "pcm_f32le"]
        command += ["-rf64", "auto", str(target)]
        done = subprocess.run(command, capture_output=True, check=False)
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        if done.returncode != 0 or not target.is_file():
            detail = lines[-1] if lines else f"exit code {done.returncode}"
            raise AudioError(
                f"{path} is no readable audio file (libsndfile: {reason}; ffmpeg: {detail}); "
                "export it again as WAV or FLAC"
            )
        if lines:
            logger.warning("%s: ffmpeg reports: %s", path, lines[-1])
        with soundfile.SoundFile(str(target)) as sound:
            if sound.frames == 0:
                raise AudioError(f"{path} holds no samples; remove it or export it again")
            yield sound


def _missing_bytes(stream: io.BufferedReader, n_bytes: int) -> int:
    """Bytes of sound that a WAV or AIFF header promises beyond the end of the file; else 0.

    libsndfile reads such files without a word. Sizes that streaming writers leave as place-holders
    do not count.
    """
    stream.seek(0)
    head = stream.read(12)
    if len(head) == 12 and (head[:4], head[8:]) == (b"RIFF", b"WAVE"):
        layout, sound_chunk = "<4sI", b"data"
    elif len(head) == 12 and head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        layout, sound_chunk = ">4sI", b"SSND"
    else:
        return 0
    position = 12
    while position + 8 <= n_bytes:
        stream.seek(position)
        name, size = struct.unpack(layout, stream.read(8))
        position += 8
        if name == sound_chunk:
            return 0 if size in _STREAMED_SIZES else max(0, position + size - n_bytes)
        position += size + (size & 1)
    return 0


def _reason(error: soundfile.LibsndfileError) -> str:
    return str(error.error_string).strip().rstrip(".")
