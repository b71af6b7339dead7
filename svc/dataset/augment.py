"""The augmentation that the diffusion model is trained on: a clip louder or softer, and shifted in
pitch (spec_diffusion 10).

It is made once per clip, so its random numbers come from the clip's name and a seed: the same clips
give the same files, whatever the order and the number of processes.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from svc.audio.loudness import frame_volume
from svc.audio.mel import LogMel

SHIFT_RANGE = 5.0  # semitones up and down


def draw_gain(rng: np.random.Generator, peak: float) -> float:
    """Draw a factor that never brings a recording above full scale (spec_core 6.5).

    Args:
        rng: drawn from.
        peak: largest |sample| of the recording.

    Returns:
        10^U(-1, min(1, log10(1 / (peak + 1e-5)))).
    """
    high = min(1.0, math.log10(1.0 / (peak + 1e-5)))
    return float(10.0 ** rng.uniform(-1.0, max(high, -1.0)))


def draw_change(path: Path, seed: int, peak: float) -> tuple[float, float]:
    """Draw how a clip is changed.

    Args:
        path: the clip; its name and its folder's count, not where the data set lies.
        seed: of the data set.
        peak: largest |sample|.

    Returns:
        Factor of the samples, and semitones in -5 ... 5 that are exact in float32.
    """
    key = f"{seed}/{path.parent.name}/{path.name}/change"
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    gain = draw_gain(rng, peak)
    return gain, float(np.float32(rng.uniform(-SHIFT_RANGE, SHIFT_RANGE)))


def augment(wav: Tensor, log_mel: LogMel, *, gain: float, key_shift: float) -> dict[str, Tensor]:
    """Measure a clip that is changed in loudness and pitch.

    Args:
        wav: (T,) samples in [-1, 1].
        log_mel: how the vocoder measures mels.
        gain: factor of the samples.
        key_shift: semitones.

    Returns:
        The parts of a `FeatureCache`: "aug_mel" (N, M + 1), whose last column is the key shift in
        every frame, and "aug_volume" (N,).
    """
    changed = wav[None] * gain
    mel = log_mel(changed, key_shift=key_shift)[0].T
    shift = torch.full((len(mel), 1), key_shift)
    return {
        "aug_mel": torch.cat([mel, shift.to(mel)], dim=1),
        "aug_volume": frame_volume(changed, log_mel.config.hop_length)[0],
    }
