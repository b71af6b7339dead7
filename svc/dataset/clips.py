"""Reading one recording of a data set and deciding whether it is of use."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from svc.audio.io import read_audio
from svc.errors import DatasetError

MIN_SECONDS = 0.3  # shorter clips are left out (spec_core 6.3)
SILENT_DBFS = -60.0  # a recording whose peak is below this is silent: 16 bits leave no voice there


@dataclass(frozen=True)
class LeftOut:
    """A recording, or the part of one, that was not used."""

    path: Path
    reason: str


def check_wav(wav: npt.NDArray[np.float32], sr: int, *, min_seconds: float = MIN_SECONDS) -> None:
    """Refuse a recording that holds no voice to learn from.

    Args:
        wav: (T,) samples.
        sr: its rate, Hz.
        min_seconds: shortest useful length.

    Raises:
        DatasetError: silent or too short, with the measured value.
    """
    seconds = len(wav) / sr
    if seconds < min_seconds:
        raise DatasetError(f"too short: {seconds:.2f} s, at least {min_seconds:g} s are needed")
    peak = float(np.max(np.abs(wav)))
    level = 20.0 * math.log10(peak) if peak > 0 else -math.inf
    if level < SILENT_DBFS:
        raise DatasetError(f"silent: its peak is {level:.0f} dBFS" if peak else "silent: all zeros")


def read_clip(
    path: Path, sampling_rate: int, *, min_seconds: float = MIN_SECONDS
) -> npt.NDArray[np.float32]:
    """Read a clip of a prepared data set as mono (spec_core 10, D8: any sample format).

    Args:
        path: the clip.
        sampling_rate: the rate it must have, Hz.
        min_seconds: shortest useful length.

    Returns:
        float32 (T,), in [-1, 1] for integer formats.

    Raises:
        AudioError: not readable.
        DatasetError: wrong rate, silent or too short.
    """
    wav, sr = read_audio(path)
    if sr != sampling_rate:
        raise DatasetError(
            f"its rate is {sr} Hz, the config says {sampling_rate}: run svc resample"
        )
    check_wav(wav, sr, min_seconds=min_seconds)
    return wav


def unique_stems(files: Sequence[Path]) -> dict[Path, str]:
    """Give each recording of one folder a name of its own without the suffix.

    "a.wav" and "a.flac" would both become "a.wav"; the .wav keeps "a" and the other one becomes
    "a_flac". Names that differ only in case or in how an accent is encoded count as equal, because
    some file systems cannot hold both.

    Args:
        files: recordings of one folder.

    Returns:
        Recording -> stem, in the order of `files`.
    """

    def key(stem: str) -> str:
        return unicodedata.normalize("NFC", stem).casefold()

    counts: dict[str, int] = {}
    for file in files:
        counts[key(file.stem)] = counts.get(key(file.stem), 0) + 1
    taken = {name for name, count in counts.items() if count == 1}
    stems: dict[Path, str] = {}
    for file in sorted(files, key=lambda path: (path.suffix != ".wav", path.name)):
        stem, number = file.stem, 1
        if counts[key(stem)] > 1:
            while key(stem) in taken:
                tail = file.suffix[1:].lower() + (f"_{number}" if number > 1 else "")
                stem, number = f"{file.stem}_{tail}", number + 1
            taken.add(key(stem))
        stems[file] = stem
    return {file: stems[file] for file in files}


def inside(path: Path, folder: Path) -> bool:
    """Return whether `path` is `folder` or lies below it."""
    return path.resolve().is_relative_to(folder.resolve())
