r"""Silence that stays silent: where a recording holds nothing, what is made of it is faded out.

    recording  ~~~~~~~~~~|                    |~~~~~~~
    gain       ‾‾‾‾‾‾‾‾‾‾‾\__________________/‾‾‾‾‾‾‾‾
                         |fade|          |fade|

Both fades lie inside the silence, so that the ends of notes and their beginnings stay.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from svc.audio.overlap import smooth_ramp

FloatArray = npt.NDArray[np.float32]

SHORTEST_SECONDS = 0.1  # shorter pauses belong to consonants
FADE_SECONDS = 0.02  # on both sides


def silence_gain(source: FloatArray, sr: int, threshold_db: float) -> FloatArray | None:
    """Find where a recording holds nothing.

    Args:
        source: the recording, float32 (T,).
        sr: its rate, Hz.
        threshold_db: peak level below which samples are nothing, dBFS. They may be zeros, or the
            dither of a file of 16 bits, which stays below -84 dBFS.

    Returns:
        float32 (T,): 0 in every silence of `SHORTEST_SECONDS` and more, but for its fades; 1
        elsewhere. None = 1 everywhere. A silence at an end of the recording goes on there.
    """
    silent = np.abs(source) < 10.0 ** (threshold_db / 20.0)
    edges = np.flatnonzero(np.diff(silent, prepend=False, append=False)).reshape(-1, 2)
    shortest, fade = round(SHORTEST_SECONDS * sr), round(FADE_SECONDS * sr)
    long = [(int(begin), int(end)) for begin, end in edges if end - begin >= shortest]
    if not long:
        return None
    gain = np.ones(source.size, dtype=np.float32)
    ramp = smooth_ramp(fade)
    for begin, end in long:
        gain[begin:end] = 0.0
        if begin > 0:
            gain[begin : begin + fade] = ramp[::-1]
        if end < source.size:
            gain[end - fade : end] = ramp
    return gain
