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
_STEPS = 4096  # windows of an array that are multiplied at once


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

    _check_sinc(orig_sr, new_sr, lowpass_width, rolloff)
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
    width, blocks = _sinc_tensors(orig, new, lowpass_width, rolloff, dtype, wav.device)
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


def sinc_resample_array(
    wav: npt.NDArray[np.floating],
    orig_sr: int,
    new_sr: int,
    *,
    lowpass_width: int = 6,
    rolloff: float = 0.99,
) -> npt.NDArray[np.float32]:
    """Do what `sinc_resample` does where there is no torch.

    Args:
        wav: ``(T,)`` samples.
        orig_sr: its rate, Hz.
        new_sr: the rate wanted, Hz.
        lowpass_width: as for `sinc_resample`.
        rolloff: as for `sinc_resample`.

    Returns:
        float32 ``(ceil(T * new_sr / orig_sr),)``.
    """
    _check_sinc(orig_sr, new_sr, lowpass_width, rolloff)
    samples = np.ascontiguousarray(wav, dtype=np.float32)
    if orig_sr == new_sr or samples.size == 0:
        return samples
    common = math.gcd(orig_sr, new_sr)
    orig, new = orig_sr // common, new_sr // common
    n_out = resampled_length(samples.size, orig, new)
    width, blocks = _sinc_kernel(orig, new, lowpass_width, rolloff)
    n_steps = -(-n_out // new)
    padded = np.pad(samples, (width, width + orig + 1 + (n_steps * orig - samples.size)))
    out = np.empty((n_steps, new), dtype=np.float32)
    first = 0
    for offset, kernel in blocks:
        taps = kernel.astype(np.float32).T  # (K, P)
        windows = np.lib.stride_tricks.sliding_window_view(padded[offset:], len(taps))[::orig]
        # The product copies its windows, which overlap: not those of a whole song at once.
        for start in range(0, n_steps, _STEPS):
            part = slice(start, min(start + _STEPS, n_steps))
            out[part, first : first + kernel.shape[0]] = windows[part] @ taps
        first += kernel.shape[0]
    flat: npt.NDArray[np.float32] = out.reshape(-1)[:n_out].copy()
    return flat


@lru_cache(maxsize=16)
def _sinc_tensors(
    orig: int,
    new: int,
    lowpass_width: int,
    rolloff: float,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[int, tuple[tuple[int, Tensor], ...]]:
    """Return `_sinc_kernel` for a convolution: kernels as (P, 1, K) tensors."""
    import torch

    width, blocks = _sinc_kernel(orig, new, lowpass_width, rolloff)
    # A tensor made under inference mode could never take part in training afterwards, and this one
    # is kept.
    with torch.inference_mode(False):
        return width, tuple(
            (offset, torch.from_numpy(kernel)[:, None].to(dtype).to(device))
            for offset, kernel in blocks
        )


@lru_cache(maxsize=16)
def _sinc_kernel(
    orig: int, new: int, lowpass_width: int, rolloff: float
) -> tuple[int, tuple[tuple[int, npt.NDArray[np.float64]], ...]]:
    """Polyphase kernels for the reduced ratio ``orig:new``.

    Returns:
        ``(width, blocks)``: samples of context on the left, and per block of phases ``(offset, (P,
        K))``: its first tap in the padded input and its kernel.
    """
    cutoff = min(orig, new) * rolloff  # in units where the input rate is `orig`
    width = math.ceil(lowpass_width * orig / cutoff)
    blocks = []
    for first in range(0, new, _MAX_PHASES):
        last = min(first + _MAX_PHASES, new)
        offset = first * orig // new
        n_taps = (last - 1) * orig // new - offset + 2 * width + 2
        # torchaudio rounds the phases to float32, which moves the result by up to 1e-5.
        phase = np.arange(first, last, dtype=np.float32)[:, None] / np.float32(new)
        tap = (np.arange(n_taps, dtype=np.float64)[None] + (offset - width)) / orig
        time = np.clip((tap - phase) * cutoff, -lowpass_width, lowpass_width)
        window = np.square(np.cos(time * (math.pi / lowpass_width / 2)))
        blocks.append((offset, np.sinc(time) * (window * (cutoff / orig))))
    return width, tuple(blocks)


def _check_sinc(orig_sr: int, new_sr: int, lowpass_width: int, rolloff: float) -> None:
    _check_rates(orig_sr, new_sr)
    if lowpass_width < 1 or not 0.0 < rolloff <= 1.0:
        raise ValueError(f"lowpass_width {lowpass_width} must be > 0, rolloff {rolloff} in (0, 1]")


def _check_rates(orig_sr: int, new_sr: int) -> None:
    if orig_sr != int(orig_sr) or new_sr != int(new_sr) or orig_sr <= 0 or new_sr <= 0:
        raise ValueError(f"sampling rates must be positive whole numbers, not {orig_sr}, {new_sr}")
