"""Joining pieces of audio without clicks: the one place of fades and cross-fades. Arrays ``(T,)``."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]


def smooth_ramp(n: int) -> npt.NDArray[np.float32]:
    """Raised cosine from just above 0 to just below 1, (n,); mirrored it is the fade-out."""
    time = (np.arange(n) + 0.5) / max(n, 1)
    return (0.5 - 0.5 * np.cos(np.pi * time)).astype(np.float32)


def crossfade(tail: FloatArray, head: FloatArray) -> npt.NDArray[np.float32]:
    """Blend the end of one stretch into the start of the next at constant power.

    The weights 1-t and t are divided by sqrt((1-t)² + t² + 2ρt(1-t)), the expected level of the sum
    of two signals of equal power with correlation ρ. Equal signals (ρ = 1) get the linear fade,
    unrelated ones (ρ = 0) an equal-power one: neither a bump nor a dip at the join.

    Args:
        tail: the outgoing sound, float32 (n,).
        head: the incoming sound, float32 (n,).

    Returns:
        float32 (n,).
    """
    n = tail.shape[0]
    time = (np.arange(n) + 0.5) / max(n, 1)
    power = float(np.sqrt(np.vdot(tail, tail) * float(np.vdot(head, head))))
    # Opposite signals cannot be blended without a dip; raising them to constant power would only
    # raise noise.
    correlation = float(np.clip(np.vdot(tail, head) / power, 0.0, 1.0)) if power > 0.0 else 1.0
    level = np.sqrt((1 - time) ** 2 + time**2 + 2 * correlation * time * (1 - time))
    mixed: npt.NDArray[np.float32] = (((1 - time) * tail + time * head) / level).astype(np.float32)
    return mixed


def crossfade_append(out: FloatArray, new: FloatArray, overlap: int) -> FloatArray:
    """Append a piece, blending its first samples with the last ones of what is there.

    Gains are linear and include 0 and 1: so-vits-svc 4.1 behaviour, spec_core 8.5.

    ::

        out   ─────────────╲
        new             ╱─────────────
                        |overlap|

    Args:
        out: ``(A,)`` so far.
        new: ``(B,)`` to come.
        overlap: samples that both cover; at most min(A, B) are used.

    Returns:
        ``(A + B - overlap,)`` in the dtype of `out`.
    """
    overlap = min(max(overlap, 0), out.size, new.size)
    ramp = np.linspace(0.0, 1.0, overlap)
    seam = out[out.size - overlap :] * (1.0 - ramp) + new[:overlap] * ramp
    parts = (out[: out.size - overlap], seam, new[overlap:])
    return np.concatenate(parts, dtype=out.dtype, casting="same_kind")
