"""Audio files: read any format as float32, write by suffix, list folders.

The whole-file functions; `reader` and `writer` do the same block by block.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from svc.audio.formats import AUDIO_SUFFIXES
from svc.audio.reader import open_audio, read_blocks
from svc.audio.tags import Tags
from svc.audio.writer import AudioWriter
from svc.errors import AudioError, MissingFileError

__all__ = [
    "AUDIO_SUFFIXES",
    "AudioInfo",
    "AudioWriter",
    "audio_info",
    "list_audio",
    "open_audio",
    "read_audio",
    "read_blocks",
    "read_tags",
    "write_audio",
]


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
    with open_audio(path) as sound:
        n_samples = sound.count()
        return AudioInfo(sound.sr, sound.channels, n_samples, n_samples / sound.sr)


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
    with open_audio(path) as sound:
        blocks = list(sound.blocks(mono=mono))
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=-1), sound.sr


def read_tags(path: str | Path) -> dict[str, str]:
    """Title, artist and what else of `svc.audio.tags.TAG_NAMES` a file says of itself.

    Raises:
        MissingFileError, AudioError: as `audio_info`.
    """
    with open_audio(path) as sound:
        return sound.tags()


def write_audio(
    path: str | Path,
    wav: npt.NDArray[np.floating],
    sr: int,
    *,
    subtype: str | None = None,
    bit_depth: str | None = None,
    tags: Tags | None = None,
) -> None:
    """Write an audio file atomically; the suffix chooses the format.

    A 16-bit file that was read with `read_audio` and is written unchanged keeps every sample value.

    Args:
        path: target with a suffix of `svc.audio.formats.OUTPUT_SUFFIXES`; folders are created.
        wav: ``(T,)`` or ``(C, T)`` samples; beyond [-1, 1] they are clipped (with a warning) except
            in float subtypes.
        sr: sampling rate, Hz.
        subtype: libsndfile's name, e.g. ``"PCM_24"`` or ``"FLOAT"``; default PCM_16, for lossy
            formats their own codec.
        bit_depth: "16", "24" or "32f" instead of `subtype`.
        tags: title and others; those that the format cannot hold are left out.

    Raises:
        AudioError: unknown suffix, subtype or rate for the format, or samples that are not finite.
        OutputError: the file cannot be written.
    """
    data = np.asarray(wav)
    if data.ndim not in (1, 2) or (data.ndim == 2 and not 1 <= data.shape[0] <= 64):
        raise ValueError(f"wav must be (T,) or (C, T) with at most 64 channels, not {data.shape}")
    channels = 1 if data.ndim == 1 else data.shape[0]
    writer = AudioWriter(path, sr, channels, subtype=subtype, bit_depth=bit_depth, tags=tags)
    if not np.isfinite(data).all():
        raise AudioError(f"refused to write {path}: some samples are NaN or infinite")
    with writer:
        writer.write(data)


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
        AudioError: it may not be looked into.
    """
    folder = Path(folder)
    try:
        return _audio_in(folder, recursive=recursive)
    except OSError as error:
        why = error.strerror or str(error)
        raise AudioError(
            f"cannot look into the folder {error.filename or folder}: {why}"
        ) from error


def _audio_in(folder: Path, *, recursive: bool) -> list[Path]:
    if not folder.is_dir():
        raise MissingFileError(
            f"{folder} is not a folder; give the folder that holds the recordings"
        )
    os.scandir(folder).close()  # rglob takes a folder that may not be listed for an empty one
    found = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(
        path
        for path in found
        if path.suffix.lower() in AUDIO_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
