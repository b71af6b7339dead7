"""Change of sampling rate: soxr for arrays on the CPU, one windowed-sinc kernel for tensors on any
device.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import soxr

if TYPE_CHECKING:  # torch is loaded only by the functions on tensors: file workers stay small
    import torch
    from torch import Tensor

_MAX_PHASES = (
    1024  # rows of one polyphase kernel; larger ones are cut into blocks that share no taps
)


def resampled_length(n_samples: int, orig_sr: int, new_sr: int) -> int:
    """Samples after resampling: ceil(T * new / orig), in exact integer arithmetic."""
    return -(-n_samples * new_sr // orig_sr)


def resample(wav: npt.NDArray[np.floating], orig_sr: int, new_sr: int) -> npt.NDArray[np.float32]:
    """Resample an array with soxr, quality HQ (what librosa calls soxr_hq).

    Args:
        wav: ``(..., T)`` samples.
        orig_sr: its rate, Hz.
        new_sr: the rate wanted, Hz.

    Returns:
        float32 ``(..., ceil(T * new_sr / orig_sr))``.
    """
    _check_rates(orig_sr, new_sr)
    data = np.asarray(wav, dtype=np.float32)
    n_out = resampled_length(data.shape[-1], orig_sr, new_sr)
    if orig_sr == new_sr or data.size == 0:
        out = np.zeros((*data.shape[:-1], n_out), dtype=np.float32)
        out[...] = data if orig_sr == new_sr else 0.0
        return out
    rows = np.ascontiguousarray(data.reshape(-1, data.shape[-1]).T)  # (T, C)
    done = soxr.resample(rows, orig_sr, new_sr, quality="HQ").T  # (C, T')
    fixed = np.zeros((done.shape[0], n_out), dtype=np.float32)
    n = min(n_out, done.shape[1])
    fixed[:, :n] = done[:, :n]
    return fixed.reshape(*data.shape[:-1], n_out)


def sinc_resample(
    wav: Tensor, orig_sr: int, new_sr: int, *, lowpass_width: int = 6, rolloff: float = 0.99
) -> Tensor:
    """Resample a tensor by Hann-windowed sinc interpolation.

    With the default arguments this is numerically the documented default of torchaudio's
    ``Resample`` (``sinc_interp_hann``), which so-vits-svc 4.1 uses at inference (spec_encoders 2);
    width 128 is the one in front of rmvpe, fcpe and the vocoder (spec_f0 7.2). Julius O. Smith,
    "Digital Audio Resampling", gives the method.

    Args:
        wav: ``(..., T)`` float tensor on any device; half precision is computed in float32.
        orig_sr: its rate, Hz.
        new_sr: the rate wanted, Hz.
        lowpass_width: zero crossings of the sinc on each side; more is sharper and slower.
        rolloff: cut-off frequency as a fraction of the lower Nyquist frequency, in (0, 1].

    Returns:
        ``(..., ceil(T * new_sr / orig_sr))``, same dtype and device.
    """
    import torch
    from torch.nn import functional as F

    _check_rates(orig_sr, new_sr)
    if lowpass_width < 1 or not 0.0 < rolloff <= 1.0:
        raise ValueError(f"lowpass_width {lowpass_width} must be > 0, rolloff {rolloff} in (0, 1]")
    if orig_sr == new_sr:
        return wav
    common = math.gcd(orig_sr, new_sr)
    orig, new = orig_sr // common, new_sr // common
    n_samples = wav.shape[-1]
    n_out = resampled_length(n_samples, orig, new)
    if wav.numel() == 0:
        return wav.new_zeros(*wav.shape[:-1], n_out)
    dtype = wav.dtype if wav.dtype in (torch.float32, torch.float64) else torch.float32
    rows = wav.reshape(-1, 1, n_samples).to(dtype)
    width, blocks = _sinc_kernel(orig, new, lowpass_width, rolloff, dtype, wav.device)
    n_steps = -(-n_out // new)
    # Step s and phase p make output s * new + p, centred on input s * orig + p * orig / new.
    padded = F.pad(rows, (width, width + orig + 1 + (n_steps * orig - n_samples)))
    with torch.autocast(wav.device.type, enabled=False):
        phases = [
            F.conv1d(padded[..., offset:], kernel, stride=orig)[..., :n_steps]
            for offset, kernel in blocks
        ]
    out = torch.cat(phases, dim=1) if len(phases) > 1 else phases[0]  # (B, new, n_steps)
    out = out.transpose(1, 2).reshape(rows.shape[0], -1)[:, :n_out]
    return out.reshape(*wav.shape[:-1], n_out).to(wav.dtype)


@lru_cache(maxsize=16)
def _sinc_kernel(
    orig: int,
    new: int,
    lowpass_width: int,
    rolloff: float,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[int, tuple[tuple[int, Tensor], ...]]:
    """Polyphase kernels for the reduced ratio ``orig:new``.

    Returns:
        ``(width, blocks)``: samples of context on the left, and per block of phases ``(offset, (P,
        1, K))``: its first tap in the padded input and its kernel.
    """
    import torch

    cutoff = min(orig, new) * rolloff  # in units where the input rate is `orig`
    width = math.ceil(lowpass_width * orig / cutoff)
    blocks = []
    # A tensor made under inference mode could never take part in training afterwards, and this one
    # is kept.
    with torch.inference_mode(False):
        for first in range(0, new, _MAX_PHASES):
            last = min(first + _MAX_PHASES, new)
            offset = first * orig // new
            n_taps = (last - 1) * orig // new - offset + 2 * width + 2
            # torchaudio rounds the phases to float32, which moves the result by up to 1e-5.
            phase = torch.arange(first, last)[:, None].to(torch.float32) / new
            tap = (torch.arange(n_taps, dtype=torch.float64)[None] + (offset - width)) / orig
            time = ((tap - phase) * cutoff).clamp(-lowpass_width, lowpass_width)
            window = torch.cos(time * (math.pi / lowpass_width / 2)).square()
            kernel = torch.sinc(time) * (window * (cutoff / orig))
            blocks.append((offset, kernel[:, None].to(dtype).to(device)))
    return width, tuple(blocks)


def _check_rates(orig_sr: int, new_sr: int) -> None:
    if orig_sr != int(orig_sr) or new_sr != int(new_sr) or orig_sr <= 0 or new_sr <= 0:
        raise ValueError(f"sampling rates must be positive whole numbers, not {orig_sr}, {new_sr}")
