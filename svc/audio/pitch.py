"""Pitch arithmetic: tracks, gap filling, resizing, and the scales the nets use.

F0 is in Hz; 0 means unvoiced in a raw track and is gone after `interpolate_unvoiced`. ``uv`` is 1
where VOICED, the sense so-vits-svc 4.1 gave the name and stored in every data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # torch is loaded only by the functions on tensors: exported graphs run without
    from torch import Tensor

FloatArray = npt.NDArray[np.floating]
ArrayOrTensor = TypeVar("ArrayOrTensor", FloatArray, "Tensor")

F0_MIN_HZ = 50.0  # lower edge of the coarse pitch scale
F0_MAX_HZ = 1100.0  # upper edge
N_COARSE = 256  # rows of the pitch embedding; row 0 is never trained
# a = 254 / (mel(1100) - mel(50)) and b = a * mel(50) - 1 with mel(f) = 1127 ln(1 + f / 700):
# spec_core 2.7
_COARSE_SLOPE = 0.25743592860424264
_COARSE_OFFSET = 19.016921918482712


@dataclass(frozen=True)
class F0Track:
    """Pitch of a clip on the frame grid."""

    f0: npt.NDArray[np.float32]  # (N,) Hz, gaps filled; all 0 where nothing is voiced
    uv: npt.NDArray[np.float32]  # (N,) 1 = voiced, 0 = unvoiced
    # (N,) 0..1, how sure the method is of the pitch; None where it does not say
    confidence: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        f0, uv = np.asarray(self.f0, dtype=np.float32), np.asarray(self.uv, dtype=np.float32)
        if f0.ndim != 1 or f0.shape != uv.shape:
            raise ValueError(f"f0 {f0.shape} and uv {uv.shape} must both be (N,)")
        object.__setattr__(self, "f0", f0)
        object.__setattr__(self, "uv", uv)
        if self.confidence is not None:
            confidence = np.asarray(self.confidence, dtype=np.float32)
            if confidence.shape != f0.shape:
                raise ValueError(f"confidence {confidence.shape} must be as long as f0 {f0.shape}")
            object.__setattr__(self, "confidence", confidence)

    def __len__(self) -> int:
        return len(self.f0)


def interpolate_unvoiced(
    f0: FloatArray,
    *,
    hop_length: int,
    sr: int,
    times: Literal["float64", "float32"] = "float64",
    compat: bool = False,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Fill the unvoiced gaps by straight lines in Hz, constant at both ends: so-vits-svc 4.1
    behaviour, spec_f0 2.1.

    Args:
        f0: ``(P,)`` Hz, 0 = unvoiced.
        hop_length: samples per frame.
        sr: sampling rate, Hz.
        times: precision of the times of the voiced frames: the original's pm, dio and harvest use
            float32, the others float64.
        compat: with exactly one voiced frame, return the value of frame 0 everywhere as the
            original's pm, dio and harvest do, instead of the voiced frame's.

    Returns:
        ``(f0, uv)``, each ``(P,)``: float64 Hz, and float32 with 1 = voiced; all zeros where
        nothing is voiced.
    """
    track = np.asarray(f0, dtype=np.float64)
    uv = (track > 0).astype(np.float32)
    voiced = np.flatnonzero(track)
    if voiced.size == 0:
        return np.zeros_like(track), uv
    if voiced.size == 1:
        return np.full_like(track, track[0 if compat else voiced[0]]), uv
    known = voiced.astype(np.float32) if times == "float32" else voiced.astype(np.float64)
    # The two products are rounded differently, as in the original: results are equal to the bit.
    wanted = np.arange(track.size, dtype=np.float64) * hop_length / sr
    filled: npt.NDArray[np.float64] = np.interp(wanted, known * (hop_length / sr), track[voiced])
    return filled, uv


def resize_nearest(x: FloatArray, n: int) -> FloatArray:
    """Resize a track by repeating or skipping values, with torch's float32 index rule: spec_f0 2.2.

    Args:
        x: ``(S,)``, S >= 1 unless n = 0.
        n: frames wanted.

    Returns:
        ``(n,)``, dtype of `x`.
    """
    track = np.asarray(x)
    if n == 0:
        return track[:0]
    ratio = np.float32(track.size) / np.float32(n)
    index = np.floor(np.arange(n, dtype=np.float32) * ratio).astype(np.int64)
    resized: FloatArray = track[np.minimum(index, track.size - 1)]
    return resized


def resize_linear(x: FloatArray, n: int) -> npt.NDArray[np.float64]:
    """Resize a pitch track linearly; a point between a voiced and an unvoiced frame is unvoiced:
    spec_f0 2.3.

    Args:
        x: ``(L,)`` Hz; below 0.001 counts as unvoiced.
        n: frames wanted.

    Returns:
        ``(n,)`` Hz, 0 = unvoiced.
    """
    track = np.array(x, dtype=np.float64)
    if n == 0 or track.size == 0:
        return np.zeros(n)
    track[track < 0.001] = np.nan
    wanted = np.arange(n, dtype=np.float64) * track.size / n
    return np.nan_to_num(np.interp(wanted, np.arange(track.size, dtype=np.float64), track), nan=0.0)


def transpose(f0: ArrayOrTensor, semitones: float) -> ArrayOrTensor:
    """Shift a pitch in Hz by semitones; unvoiced zeros stay zero."""
    shifted: ArrayOrTensor = f0 * 2.0 ** (semitones / 12.0)
    return shifted


def cents(f0_a: FloatArray, f0_b: FloatArray) -> npt.NDArray[np.float64]:
    """Interval from b up to a in cents; NaN where either is unvoiced (not above 0 Hz)."""
    a, b = np.broadcast_arrays(np.asarray(f0_a, np.float64), np.asarray(f0_b, np.float64))
    both = (a > 0) & (b > 0)
    out = np.full(a.shape, np.nan)
    out[both] = 1200.0 * np.log2(a[both] / b[both])
    return out


def f0_to_lf0(f0: Tensor) -> Tensor:
    """Pitch in Hz to the log-like scale 2595 log10(1 + f0 / 700) / 500 of the F0 decoder: spec_core
    2.7.
    """
    return 2595.0 * (1.0 + f0 / 700.0).log10() / 500.0


def lf0_to_f0(lf0: Tensor) -> Tensor:
    """Inverse of `f0_to_lf0`."""
    import torch

    return 700.0 * (torch.pow(10.0, lf0 * 500.0 / 2595.0) - 1.0)


def normalize_lf0(lf0: Tensor, uv: Tensor, mask: Tensor, factor: Tensor | None = None) -> Tensor:
    """Take away the mean over voiced frames: so-vits-svc 4.1 behaviour, spec_core 2.7.

    Args:
        lf0: ``(B, 1, T)``.
        uv: ``(B, 1, T)`` or ``(B, T)``, 1 = voiced.
        mask: ``(B, 1, T)``, 1 inside each clip.
        factor: ``(B, 1)`` random scale of the training, None for 1.

    Returns:
        ``(B, 1, T)``; for a clip without voiced frames the mean is taken as 0.
    """
    import torch

    voiced = uv.reshape(lf0.shape).to(lf0.dtype)
    count = voiced.sum(dim=-1, keepdim=True)
    count = torch.where(count == 0, torch.full_like(count, 9999.0), count)
    centred = lf0 - (lf0 * voiced).sum(dim=-1, keepdim=True) / count
    if factor is not None:
        centred = centred * factor.reshape(-1, 1, 1).to(lf0.dtype)
    return centred * mask


def f0_to_coarse(f0: Tensor, *, compat: bool = False) -> Tensor:
    """Index of the pitch embedding row: 1 (unvoiced or <= 51 Hz) to 255 (>= 1100 Hz), spec_core
    2.7.

    Args:
        f0: Hz, any shape; half precision is computed in float32.
        compat: above 1103 Hz return 0 as so-vits-svc 4.1 does (an untrained row) instead of 255.

    Returns:
        int64, same shape.
    """
    import torch

    if f0.dtype not in (torch.float32, torch.float64):
        f0 = f0.float()
    mel = 1127.0 * (1.0 + f0.clamp(min=0.0) / 700.0).log()
    level = torch.where(mel > 0, mel * _COARSE_SLOPE - _COARSE_OFFSET, mel)
    index = level.clamp(max=float(N_COARSE)).round().long().clamp(min=1)
    wrapped = torch.zeros_like(index) if compat else torch.full_like(index, N_COARSE - 1)
    return torch.where(index >= N_COARSE, wrapped, index)
