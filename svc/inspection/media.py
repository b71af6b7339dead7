"""Recordings, and the feature files of a data set (spec_core 6.4, spec_diffusion 10)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO

import numpy as np
import soundfile
from numpy.lib import format as npy_format
from torch import Tensor

from svc.audio.io import audio_info
from svc.config import SvcConfig, encoders_of_width
from svc.errors import AudioError
from svc.inspection.report import Fact, Finding, Safety
from svc.inspection.settings import Settings
from svc.inspection.torch_content import check_pickle, names_in
from svc.inspection.weights import Weights
from svc.pickled_arrays import array_names

AUDIO = "audio"
UNITS = "units"
SPECTROGRAM = "spectrogram"
ARRAY = "array"
F0, VOLUME, MEL = "F0", "volume", "mel"

_UNITS_PER_SECOND = 50


def audio(path: Path) -> Finding:
    """Describe a recording by its header."""
    safety = Safety(True, "sound: nothing in it can be run")
    try:
        sound = soundfile.info(str(path))
        info = audio_info(path)  # also finds out whether the end is missing
    except (soundfile.LibsndfileError, AudioError) as error:
        reason = str(error).removeprefix(f"{path} ").partition("\n")[0]
        return Finding(AUDIO, "recording", safety=safety, damage=reason)
    return Finding(
        AUDIO,
        f"recording ({sound.format_info})",
        {
            "sampling_rate": info.sr,
            "channels": info.channels,
            "seconds": round(info.duration_s, 3),
            "samples": info.n_samples,
            "sample_format": sound.subtype_info,
        },
        safety=safety,
    )


def bare_tensor(weights: Weights) -> Finding | None:
    """Describe a file that holds one tensor; None for any other content."""
    tensor = weights.value
    if not isinstance(tensor, Tensor):
        return None
    shape = [int(length) for length in tensor.shape]
    precision = str(tensor.dtype).removeprefix("torch.")
    facts: dict[str, Fact] = {"shape": list(shape), "precision": precision}
    if len(shape) == 3 and shape[0] == 1:
        width, frames = shape[1:]
        names = encoders_of_width(width)
        return Finding(
            UNITS,
            "units of one clip (.soft.pt)",
            {**facts, "units": width, "frames": frames, "seconds": frames / _UNITS_PER_SECOND},
            fits=(f"a voice with model.ssl_dim {width}" + (f": {', '.join(names)}" * bool(names)),),
            compare=lambda settings: _compare_units(width, settings),
        )
    if len(shape) == 2:
        return Finding(
            SPECTROGRAM,
            "spectrogram of one clip (.spec.pt)",
            {**facts, "filter_length": 2 * (shape[0] - 1), "frames": shape[1]},
            compare=lambda settings: _compare_spectrogram(shape[0], settings),
        )
    return Finding("tensor", "one tensor", facts)


def _compare_units(width: int, settings: Settings) -> list[str] | None:
    if not isinstance(settings, SvcConfig) or width == settings.model.ssl_dim:
        return [] if isinstance(settings, SvcConfig) else None
    return [f"units {width} wide, model.ssl_dim is {settings.model.ssl_dim}"]


def _compare_spectrogram(bins: int, settings: Settings) -> list[str] | None:
    if not isinstance(settings, SvcConfig) or bins == settings.data.spec_channels:
        return [] if isinstance(settings, SvcConfig) else None
    return [f"{bins} bins, data.filter_length {settings.data.filter_length} makes others"]


def array(path: Path) -> Finding:
    """Describe a `.npy` file by its header; the pickle of an object array is looked through.

    Raises:
        ValueError, OSError: truncated, damaged.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        version = npy_format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"a version {version} of the format that is not read")
        first = version == (1, 0)
        shape, _, dtype = (
            npy_format.read_array_header_1_0(stream)
            if first
            else npy_format.read_array_header_2_0(stream)
        )
        facts: dict[str, Fact] = {"shape": list(shape), "precision": str(dtype)}
        if dtype.hasobject:
            return _objects(stream, shape)
        if size - stream.tell() < math.prod(shape) * dtype.itemsize:
            raise ValueError("the file ends inside the array")
    kind, what = _array_kind(shape, dtype)
    safety = Safety(True, "an array of numbers: nothing in it can be run")
    return Finding(kind, what, facts, safety=safety)


def _array_kind(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> tuple[str, str]:
    if len(shape) == 2 and shape[0] == 2:
        return F0, "F0 of one clip (.f0.npy): row 1 Hz, row 2 voiced"
    if len(shape) == 2:
        return MEL, f"mel of one clip, {shape[1]} bands"
    if len(shape) == 1 and dtype.kind == "f":
        return VOLUME, "volume of one clip (.vol.npy)"
    return ARRAY, "array of numbers"


def _objects(stream: IO[bytes], shape: tuple[int, ...]) -> Finding:
    """Describe an array of Python objects, which numpy would unpickle."""
    start = stream.tell()
    names = names_in(stream)
    refused = [name for name in names if name not in array_names()]
    if refused:
        return Finding(ARRAY, "array of Python objects", safety=unsafe(tuple(refused)))
    stream.seek(start)
    check_pickle(stream, names)
    how = "a pickle that names nothing but arrays of numpy, looked through without running it"
    safety = Safety(True, how)
    is_f0 = len(shape) == 2 and shape[0] == 2
    what = "F0 of one clip in the form of so-vits-svc 4.1 (pickled numbers)"
    return Finding(
        F0 if is_f0 else ARRAY,
        what if is_f0 else "array of Python objects",
        {"shape": list(shape), "precision": "Python numbers"},
        safety=safety,
    )


def unsafe(names: tuple[str, ...]) -> Safety:
    """Return the verdict on a pickle that names callables which could do anything."""
    how = f"loading this with an ordinary loader would call {', '.join(names)}"
    return Safety(False, how, refused=names)
