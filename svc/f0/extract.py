"""The pitch of a file, on a model's frame grid."""

from __future__ import annotations

from pathlib import Path

from svc.audio.io import audio_info, read_audio
from svc.audio.pitch import F0Track
from svc.audio.resample import resample, resampled_length
from svc.f0.base import F0Predictor
from svc.f0.curve import FrameGrid


def curve_from_file(path: str | Path, predictor: F0Predictor, grid: FrameGrid) -> F0Track:
    """Find the pitch of a whole file.

    For a clip of a data set it is what `svc preprocess` makes of it with the same predictor, to the
    bit. `svc infer` asks its predictor about each stretch between two silences by itself, so what
    it sings without a curve can differ at the edges of voiced parts and where a soft phrase follows
    a loud one.

    Args:
        path: an audio file of any rate.
        predictor: built for the rate and hop of `grid`.
        grid: the model's.

    Returns:
        The track, of floor(samples / hop_length) frames.

    Raises:
        MissingFileError: no such file.
        AudioError: it cannot be read.
    """
    wav, sr = read_audio(path)
    return predictor(resample(wav, sr, grid.sampling_rate))


def frames_of_file(path: str | Path, grid: FrameGrid) -> int:
    """Count the frames that a file has on a grid, by its header.

    Raises:
        MissingFileError: no such file.
        AudioError: it cannot be read.
    """
    info = audio_info(path)
    return resampled_length(info.n_samples, info.sr, grid.sampling_rate) // grid.hop_length
