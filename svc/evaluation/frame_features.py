"""What can be known of each frame of a recording: units of a content encoder, log-mel frames, and
the controls that units must be better than (see `svc.evaluation.content`).

Letters: T samples at 16 kHz, S frames at 50 per second, D features.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from svc.audio.mel import whisper_mel

if TYPE_CHECKING:
    from svc.speech import SpeechEncoder

FloatArray = npt.NDArray[np.float32]
Features = Callable[[FloatArray], FloatArray]
"""(T,) samples at 16 kHz -> (S, D), S about T / 320."""

SAMPLING_RATE = 16000  # Hz, what every encoder hears
HOP = 320  # samples between frames: 50 per second
_MEL_WINDOW = 30 * SAMPLING_RATE  # samples; the mel limits its range per item of this length


def encoder_features(encoder: SpeechEncoder) -> Features:
    """Units of a content encoder, any id or fusion."""

    def features(wav: FloatArray) -> FloatArray:
        units = encoder.encode(torch.from_numpy(np.ascontiguousarray(wav, dtype=np.float32)))
        found: FloatArray = units[0].T.float().cpu().numpy()
        return found

    return features


def mel_features(wav: FloatArray) -> FloatArray:
    """Log-mel frames to compare units with: (T,) at 16 kHz -> (max(1, T // 320), 80).

    They are what Whisper's net hears, pairs of its 10 ms frames averaged, so whatever its units do
    better was added by the net.
    """
    n_frames = max(1, len(wav) // HOP)
    padded = np.zeros(-(-max(len(wav), n_frames * HOP) // _MEL_WINDOW) * _MEL_WINDOW, np.float32)
    padded[: len(wav)] = wav
    windows = torch.from_numpy(padded).view(-1, _MEL_WINDOW)
    mel = whisper_mel()(windows)  # (windows, 80, 3000)
    frames = mel.view(len(mel), -1, _MEL_WINDOW // HOP, 2).mean(-1).transpose(1, 2).flatten(0, 1)
    found: FloatArray = frames[:n_frames].numpy()
    return found


def with_context(features: Features, n_frames: int) -> Features:
    """Put the `n_frames` before and after beside each frame: (S, D) -> (S, (2 n_frames + 1) D).

    A unit knows its surroundings, which alone say much about where in which sentence it is; to be
    fair, what it is compared with may know them too. Outside the clip is the clip's mean.
    """

    def wide(wav: FloatArray) -> FloatArray:
        frames = features(wav)
        mean = frames.mean(axis=0)
        padded = np.pad(frames - mean, ((n_frames, n_frames), (0, 0)))
        stacked = np.lib.stride_tricks.sliding_window_view(padded, 2 * n_frames + 1, axis=0)
        found: FloatArray = (stacked + mean[:, None]).reshape(len(frames), -1)
        return found

    return wide


def moved(features: Features, most_seconds: float = 2.0) -> Features:
    """Let every clip start somewhere else: 0 to `most_seconds` of silence before it, whose frames
    are dropped again.

    Takes from an encoder what it knows of the place in its input, which equal sentences share. The
    length of the silence is drawn from the clip's samples, so it is the same in each run.
    """

    def later(wav: FloatArray) -> FloatArray:
        most = round(most_seconds * SAMPLING_RATE / HOP)
        draw = np.random.default_rng(zlib.crc32(np.ascontiguousarray(wav).tobytes()))
        n_frames = int(draw.integers(0, most + 1))
        return features(np.concatenate([np.zeros(n_frames * HOP, np.float32), wav]))[n_frames:]

    return later


def place_features(wav: FloatArray) -> FloatArray:
    """A control that hears nothing: only the time since the start of the clip, as (S, 64)
    sinusoids. What it finds is found by the lengths of clips and the time within them.
    """
    time = np.arange(max(1, len(wav) // HOP))[:, None] / 50.0  # s
    # Periods from 0.5 s to 30 s: near times are near, and no two times of a clip are alike.
    angle = time * (2 * np.pi / np.geomspace(0.5, 30.0, 32))
    found: FloatArray = np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)
    return found


BASELINES: Mapping[str, Features] = {
    "log-mel": mel_features,
    "log-mel, 0.8 s": with_context(mel_features, 20),  # of 0.14 to 1.6 s the best on real speech
    "time alone": place_features,
}
"""What an encoder should be better than, for `measure_content`."""
