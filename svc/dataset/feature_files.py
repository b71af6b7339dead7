"""Reading single feature files, ours or the original's: what they hold is looked at, what made it
is not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from svc.audio.pitch import F0Track
from svc.dataset.feature_paths import FeaturePaths
from svc.dataset.old_arrays import read_array, read_augmented
from svc.dataset.tensor_files import load_tensor
from svc.errors import DatasetError

Array = npt.NDArray[np.float32]

_ADVICE = "run  svc preprocess --stage features"
_MEL_ADVICE = f"{_ADVICE} --use_diff"


def load_units(wav: Path) -> Tensor:
    """Load the units of a recording, float32 (C, S). Raises MissingFileError or DatasetError."""
    path = FeaturePaths.of(wav).units
    units = load_tensor(path)
    if units.dim() == 3 and units.shape[0] == 1:
        units = units[0]
    if units.dim() != 2 or units.numel() == 0:
        raise DatasetError(
            f"{path}: units are (1, channels, frames), found {tuple(units.shape)}; {_ADVICE}"
        )
    return units


def load_f0(wav: Path) -> F0Track:
    """Load the pitch of a recording alone. Raises MissingFileError or DatasetError."""
    path = FeaturePaths.of(wav).f0
    pair = read_array(path)
    if pair.ndim != 2 or pair.shape[0] != 2 or pair.shape[1] == 0:
        raise DatasetError(f"{path}: f0 and uv are (2, frames), found {pair.shape}; {_ADVICE}")
    return F0Track(pair[0], pair[1])


def load_volume(wav: Path, n_frames: int) -> Array | None:
    """Load the volume of a recording.

    Args:
        wav: the recording.
        n_frames: of its F0.

    Returns:
        float32 (N,); None where there is no file, which the original writes only when asked to.

    Raises:
        DatasetError: it is damaged, or of another length.
    """
    path = FeaturePaths.of(wav).volume
    if not path.is_file():
        return None
    volume = read_array(path)
    if volume.ndim != 1 or abs(len(volume) - n_frames) > 2:
        raise DatasetError(
            f"{path}: the volume has shape {volume.shape}, f0 has {n_frames} frames; {_ADVICE}"
        )
    return volume


def load_mels(wav: Path, *, bands: int | None = None) -> tuple[Array, Array, Array]:
    """Load the mels of a recording.

    Args:
        wav: the recording.
        bands: of the vocoder; None = as many as there are.

    Returns:
        Log-mel (N, M); that of the changed clip (N, M + 1), whose last column is the shift in
        semitones; the volume of the changed clip (N,). All float32.

    Raises:
        MissingFileError: a file is absent.
        DatasetError: a file is damaged or refused, or they do not belong together.
    """
    paths = FeaturePaths.of(wav)
    mel, augmented = read_array(paths.mel), read_augmented(paths.aug_mel)
    volume = read_array(paths.aug_volume)
    if bands is None:
        bands = mel.shape[-1] if mel.ndim == 2 else 0
    if mel.ndim != 2 or mel.shape[1] != bands or augmented.shape != (len(mel), bands + 1):
        raise DatasetError(
            f"{paths.mel} and {paths.aug_mel.name} hold {mel.shape} and {augmented.shape}, the "
            f"vocoder has {bands} mel bands; {_MEL_ADVICE}"
        )
    if volume.ndim != 1 or abs(len(volume) - len(mel)) > 2:
        raise DatasetError(
            f"{paths.aug_volume}: {volume.shape} values for {len(mel)} frames; {_MEL_ADVICE}"
        )
    return mel, augmented, volume
