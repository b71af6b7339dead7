"""From a net's own grid of frames to the track's: the way that fcpe and rmvpe share (spec_f0 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from svc.audio.pitch import F0Track, resize_nearest
from svc.f0.settings import F0Settings
from svc.f0.wave import F0Wave

Frames = npt.NDArray[np.float32]
Read = Callable[[Sequence[F0Wave]], Sequence[tuple[Frames, Frames]]]
"""Pitch in Hz (0 = unvoiced) and confidence of each wave, on a grid of the net's choice."""


def tracks_from_own_grid(
    settings: F0Settings, wavs: Sequence[npt.NDArray[np.float32] | F0Wave], read: Read
) -> list[F0Track]:
    """Read waves and put what was read on the grid of the settings.

    Args:
        settings: rates, and what the shortest wave is that a net can work on.
        wavs: each (T,) samples, of any lengths; those shorter than a hop are not read.
        read: the net; gets waves that are long enough, all in one call.

    Returns:
        Tracks of T // hop_length frames with confidence.

    Raises:
        AudioError: NaN or infinite samples.
    """
    waves = [F0Wave.of(wav, settings.sampling_rate) for wav in wavs]
    prepared = [wave.prepared(settings) for wave in waves]
    n_frames = [settings.n_frames(wave.samples) for wave in waves]
    there = [i for i, n in enumerate(n_frames) if n > 0]
    readings = dict(zip(there, read([prepared[i] for i in there]), strict=True))
    tracks = []
    for i, n in enumerate(n_frames):
        if i not in readings:
            tracks.append(replace(settings.empty(), confidence=np.zeros(0, dtype=np.float32)))
            continue
        grid = settings.n_frames(prepared[i].samples)
        f0, confidence = (resize_nearest(part, grid)[:n] for part in readings[i])
        track = settings.finish(f0, classic=False)
        tracks.append(replace(track, confidence=confidence.astype(np.float32)))
    return tracks
