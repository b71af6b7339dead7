"""A clip as a pack holds it: its recording and features as arrays, read from its files."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from svc.audio.io import read_audio
from svc.dataset.feature_files import load_f0, load_mels, load_units, load_volume
from svc.dataset.feature_paths import FeaturePaths
from svc.dataset.feature_settings import MEL_PARTS
from svc.dataset.pack import Array, FileState, Pack, PackedClip
from svc.errors import DatasetError, SvcError

FULL_SCALE = np.float32(1.0 / 32768.0)
"""What the sample 1 of a 16-bit file is read as (`svc.audio.io.read_audio`)."""


def smallest(wav: npt.NDArray[np.float32]) -> Array:
    """Return samples as 16-bit integers if not a bit is lost by that, else as they are.

    Args:
        wav: (T,) as `read_audio` returns them.
    """
    whole = np.clip(np.rint(wav * np.float32(32768)), -32768, 32767).astype(np.int16)
    # Bits are compared, not numbers: a float file may hold -0.0.
    same = np.array_equal((whole * FULL_SCALE).view(np.int32), wav.view(np.int32))
    return whole if same else wav


def files_of(wav: Path) -> dict[str, Path]:
    """Return the files of a clip that a pack knows of: part -> path, with "wav" itself."""
    paths = FeaturePaths.of(wav)
    return {
        "wav": wav,
        **{part: getattr(paths, part) for part in ("units", "f0", "volume", *MEL_PARTS)},
    }


def states_of(wav: Path) -> dict[str, FileState]:
    """Return size and time of those files that are there."""
    states = {part: FileState.of(path) for part, path in files_of(wav).items()}
    return {part: state for part, state in states.items() if state is not None}


def read_part(wav: Path, part: str) -> Array:
    """Read one part of a clip in the form that a pack holds it in.

    Args:
        wav: the clip.
        part: a name of `svc.dataset.pack.PARTS`.

    Returns:
        "wav" int16 or float32 (T,); the others float32: "units" (S, C), "f0" (2, N), "volume" (N,),
        "mel" (N, M), "aug_mel" (N, M + 1), "aug_volume" (N,).

    Raises:
        SvcError: its file is absent, damaged or refused, or holds values that are not numbers.
    """
    return read_parts(wav, {part})[part]


def read_parts(wav: Path, parts: Collection[str]) -> dict[str, Array]:
    """Read several parts of a clip, see `read_part`; a volume that is not there is left out."""
    arrays: dict[str, Array] = {}
    if "wav" in parts:
        arrays["wav"] = smallest(read_audio(wav)[0])
    if "units" in parts:
        units = load_units(wav).numpy()
        if not np.isfinite(units).all():
            raise not_numbers(wav, "units")
        arrays["units"] = np.ascontiguousarray(units.T)
    if "f0" in parts or "volume" in parts:
        track = load_f0(wav)
        volume = load_volume(wav, len(track)) if "volume" in parts else None
        if "f0" in parts:
            arrays["f0"] = np.stack([track.f0, track.uv])
        if volume is not None:
            arrays["volume"] = volume
    if set(MEL_PARTS) & set(parts):
        mels = dict(zip(MEL_PARTS, load_mels(wav), strict=True))
        arrays |= {part: mels[part] for part in MEL_PARTS if part in parts}
    return arrays


def same_content(wav: Path, part: str, pack: Pack, clip: PackedClip) -> bool:
    """Return whether a file of a clip holds what a pack has of it."""
    packed = pack.array(clip, part)
    try:
        now = read_part(wav, part)
    except SvcError:
        return False
    return now.dtype == packed.dtype and np.array_equal(now, packed)


def not_numbers(wav: Path, part: str) -> DatasetError:
    """Return the error for a part that holds values that are not finite."""
    return DatasetError(
        f"the {part} of {wav} hold values that are not numbers; delete its feature files and run  "
        "svc preprocess --stage features"
    )
