"""Magnitude spectrograms and mel spectrograms of every model family, from one implementation.

Letters: B batch, T samples, F = n_fft // 2 + 1 bins, M mel bands, N frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

MelScale = Literal["slaney", "htk"]

# Slaney's Auditory Toolbox (1998): linear below 1 kHz, then 27 steps per factor 6.4.
_HZ_PER_MEL = 200.0 / 3.0
_LOG_START_HZ = 1000.0
_LOG_START_MEL = _LOG_START_HZ / _HZ_PER_MEL
_LOG_STEP = math.log(6.4) / 27.0


def mel_filterbank(
    sr: int, n_fft: int, n_mels: int, fmin: float, fmax: float | None, scale: MelScale = "slaney"
) -> Tensor:
    """Triangular filters of equal area on a mel axis, equal to ``librosa.filters.mel``
    (``norm="slaney"``).

    Args:
        sr: sampling rate, Hz.
        n_fft: FFT length, samples.
        n_mels: number of bands M.
        fmin: lower edge of the first band, Hz.
        fmax: upper edge of the last band, Hz; None for sr / 2.
        scale: mel axis, Slaney's or HTK's.

    Returns:
        float32 ``(M, n_fft // 2 + 1)`` on the CPU, yours to change.
    """
    top = sr / 2 if fmax is None else float(fmax)
    return _filterbank(sr, n_fft, n_mels, float(fmin), top, scale, torch.device("cpu")).clone()


def stft_magnitude(
    wav: Tensor,
    n_fft: int,
    hop_length: int,
    win_length: int,
    *,
    eps: float = 0.0,
    center: bool = False,
    pad: tuple[int, int] = (0, 0),
) -> Tensor:
    """Magnitudes sqrt(re^2 + im^2 + eps) of a short-time Fourier transform with a periodic Hann
    window.

    Computed in float32 (or float64) whatever the input's precision and any autocast around it.

    Args:
        wav: ``(B, T)`` samples.
        n_fft: FFT length, samples.
        hop_length: samples between frames.
        win_length: window length, samples, <= n_fft (centred in it).
        eps: added to the power; keeps the gradient finite in silence.
        center: pad n_fft // 2 on both sides, on top of `pad`.
        pad: samples to pad on the left and right: by reflection where the clip is longer than the
            padding, else zeros.

    Returns:
        ``(B, n_fft // 2 + 1, N)`` with N = 1 + (padded T - n_fft) // hop_length, 0 frames if that
        is not positive.
    """
    if not 0 < win_length <= n_fft or hop_length < 1:
        raise ValueError(f"need 0 < win_length {win_length} <= n_fft {n_fft}, hop_length >= 1")
    left, right = (pad[0] + n_fft // 2, pad[1] + n_fft // 2) if center else pad
    if wav.dtype not in (torch.float32, torch.float64):
        wav = wav.float()
    if wav.shape[-1] + left + right < n_fft:
        return wav.new_zeros(wav.shape[0], n_fft // 2 + 1, 0)
    mode = "reflect" if max(left, right) < wav.shape[-1] else "constant"
    with torch.autocast(wav.device.type, enabled=False):
        window = _hann_window(win_length, wav.dtype, wav.device)
        spec = torch.stft(
            F.pad(wav, (left, right), mode=mode),
            n_fft,
            hop_length,
            win_length,
            window,
            center=False,
            normalized=False,
            onesided=True,
            return_complex=True,
        )
        if eps == 0.0:
            return spec.abs()
        return torch.sqrt(spec.real.square() + spec.imag.square() + eps)


def linear_spectrogram(wav: Tensor, *, n_fft: int, hop_length: int, win_length: int) -> Tensor:
    """Linear-frequency spectrogram for the posterior encoder: so-vits-svc 4.1 behaviour, spec_core
    5.1.

    Args:
        wav: ``(B, T)`` samples in [-1, 1].
        n_fft: FFT length, samples.
        hop_length: samples per frame.
        win_length: window length, samples.

    Returns:
        ``(B, n_fft // 2 + 1, T // hop_length)``.
    """
    left = (n_fft - hop_length) // 2
    return stft_magnitude(
        wav, n_fft, hop_length, win_length, eps=1e-6, pad=(left, n_fft - hop_length - left)
    )


@dataclass(frozen=True)
class MelConfig:
    """How one model family measures its log-mel spectrogram."""

    sampling_rate: int  # Hz
    n_fft: int  # samples
    hop_length: int  # samples
    win_length: int  # samples
    n_mels: int
    fmin: float  # Hz
    fmax: float | None  # Hz; None: half the sampling rate
    scale: MelScale = "slaney"
    eps: float = 0.0  # added to the power before the square root
    power: int = 1  # 1: magnitude, 2: power
    floor: float = 1e-5  # mel energies below it are raised to it before the logarithm
    log: Literal["ln", "whisper"] = (
        "ln"  # "whisper": log10, 8 below the maximum at most, (x + 4) / 4
    )
    # "same": N = T // hop; "at_least_one": the same, but one frame for a clip shorter than a hop;
    # "center": T // hop + 1
    padding: Literal["same", "at_least_one", "center"] = "same"
    last_frame: Literal["keep", "repeat", "drop"] = "keep"

    def __post_init__(self) -> None:
        top = self.sampling_rate / 2 if self.fmax is None else self.fmax
        if not 0 <= self.fmin < top:
            raise ValueError(f"need 0 <= fmin {self.fmin} < fmax {top} Hz")
        if not 0 < self.win_length <= self.n_fft or self.hop_length < 1 or self.n_mels < 1:
            raise ValueError(f"impossible mel settings: {self}")


class LogMel:
    """Log-mel spectrogram of one model family, on the device of its input; holds no tensors of its
    own.
    """

    def __init__(self, config: MelConfig) -> None:
        self.config = config

    def __call__(self, wav: Tensor, *, key_shift: float = 0.0, speed: float = 1.0) -> Tensor:
        """Log-mel spectrogram of a waveform.

        Args:
            wav: ``(B, T)`` samples in [-1, 1] at ``config.sampling_rate``.
            key_shift: semitones by which the content appears shifted up: the window is stretched
                (spec_vocoder 4).
            speed: factor on the hop; above 1 there are fewer frames.

        Returns:
            ``(B, M, N)``, N by ``config.padding`` and ``config.last_frame``.
        """
        config = self.config
        stretch = 2.0 ** (key_shift / 12.0)
        n_fft = round(config.n_fft * stretch)
        win_length = round(config.win_length * stretch)
        hop_length = max(1, round(config.hop_length * speed))
        spec = stft_magnitude(
            wav,
            n_fft,
            hop_length,
            win_length,
            eps=config.eps,
            center=config.padding == "center",
            pad=self._pad(wav.shape[-1], n_fft, win_length, hop_length),
        )
        if key_shift != 0.0:
            # Back to the filter bank's bins; a stretched window sums more samples, hence the
            # factor.
            n_bins = config.n_fft // 2 + 1
            spec = F.pad(spec, (0, 0, 0, max(0, n_bins - spec.shape[1])))[:, :n_bins]
            spec = spec * (config.win_length / win_length)
        if config.last_frame == "drop":
            spec = spec[..., :-1]
        elif config.last_frame == "repeat" and spec.shape[-1]:
            spec = torch.cat((spec, spec[..., -1:]), dim=-1)
        return self.from_spec(spec.square() if config.power == 2 else spec)

    def from_spec(self, spec: Tensor) -> Tensor:
        """Log-mel spectrogram of a linear one.

        Args:
            spec: ``(B, F, N)`` magnitudes to the power ``config.power``.

        Returns:
            ``(B, M, N)``.
        """
        config = self.config
        if spec.dtype not in (torch.float32, torch.float64):
            spec = spec.float()
        top = config.sampling_rate / 2 if config.fmax is None else float(config.fmax)
        bank = _filterbank(
            config.sampling_rate, config.n_fft, config.n_mels, float(config.fmin), top,
            config.scale, spec.device,
        )  # fmt: skip
        with torch.autocast(spec.device.type, enabled=False):
            mel = torch.matmul(bank.to(spec.dtype), spec).clamp(min=config.floor)
            if config.log == "ln":
                return mel.log()
            level = mel.log10()
            if level.numel() == 0:
                return level
            return (torch.maximum(level, level.amax((-2, -1), keepdim=True) - 8.0) + 4.0) / 4.0

    def _pad(self, n_samples: int, n_fft: int, win_length: int, hop_length: int) -> tuple[int, int]:
        if self.config.padding == "center":
            return 0, 0
        # The vocoder family pads by its window, the synthesizer by its FFT; they differ in length
        # only in configs nobody ships.
        span = win_length if self.config.padding == "at_least_one" else n_fft
        left, right = (span - hop_length) // 2, (span - hop_length + 1) // 2
        if self.config.padding == "at_least_one":
            right = max(right, n_fft - n_samples - left)
        # A hop longer than the window (a high speed) leaves gaps, it does not cut the clip.
        return max(0, left), max(0, right)


def synthesizer_mel(
    sampling_rate: int = 44100,
    n_fft: int = 2048,
    hop_length: int = 512,
    win_length: int = 2048,
    n_mels: int = 80,
    fmin: float = 0.0,
    fmax: float | None = None,
) -> LogMel:
    """Mel of the synthesizer's reconstruction loss: so-vits-svc 4.1 behaviour, spec_core 5.2. N = T
    // hop.
    """
    return LogMel(
        MelConfig(sampling_rate, n_fft, hop_length, win_length, n_mels, fmin, fmax, eps=1e-6)
    )


def vocoder_mel(
    sampling_rate: int = 44100,
    n_fft: int = 2048,
    hop_length: int = 512,
    win_length: int = 2048,
    n_mels: int = 128,
    fmin: float = 40.0,
    fmax: float | None = 16000.0,
) -> LogMel:
    """Mel of the NSF-HiFiGAN community vocoder and of diffusion: spec_vocoder 4. N = max(1, T //
    hop).
    """
    return LogMel(
        MelConfig(
            sampling_rate, n_fft, hop_length, win_length, n_mels, fmin, fmax,
            eps=1e-9, padding="at_least_one",
        )
    )  # fmt: skip


def rmvpe_mel() -> LogMel:
    """Mel in front of rmvpe, 16 kHz, 100 frames per second: spec_f0 7.2. N = T // 160 + 1."""
    return LogMel(
        MelConfig(16000, 1024, 160, 1024, 128, 30.0, 8000.0, scale="htk", padding="center")
    )


def fcpe_mel(
    sampling_rate: int = 16000,
    n_fft: int = 1024,
    hop_length: int = 160,
    win_length: int = 1024,
    n_mels: int = 128,
    fmin: float = 0.0,
    fmax: float | None = 8000.0,
) -> LogMel:
    """Mel in front of fcpe, whose last frame comes twice: spec_f0 8.1. N = T // hop + 1."""
    return LogMel(
        MelConfig(
            sampling_rate, n_fft, hop_length, win_length, n_mels, fmin, fmax,
            eps=1e-9, padding="at_least_one", last_frame="repeat",
        )
    )  # fmt: skip


def whisper_mel(n_mels: int = 80) -> LogMel:
    """Mel in front of Whisper, 16 kHz, 100 frames per second: spec_encoders 8. N = T // 160.

    The range is limited to 8 decades below the maximum of each item passed in, so pass whole 30 s
    windows.
    """
    return LogMel(
        MelConfig(
            16000, 400, 160, 400, n_mels, 0.0, 8000.0,
            power=2, floor=1e-10, log="whisper", padding="center", last_frame="drop",
        )
    )  # fmt: skip


@lru_cache(maxsize=32)
def _hann_window(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # A tensor made under inference mode could never take part in training afterwards, and this one
    # is kept.
    with torch.inference_mode(False):
        return torch.hann_window(length, periodic=True, dtype=dtype, device=device)


@lru_cache(maxsize=32)
def _filterbank(
    sr: int, n_fft: int, n_mels: int, fmin: float, fmax: float, scale: str, device: torch.device
) -> Tensor:
    if scale not in ("slaney", "htk"):
        raise ValueError(f'mel scale "{scale}": use "slaney" or "htk"')
    edges = _mel_to_hz(
        np.linspace(_hz_to_mel(fmin, scale), _hz_to_mel(fmax, scale), n_mels + 2), scale
    )  # (M + 2,) Hz
    bins = np.fft.rfftfreq(n_fft, 1.0 / sr)  # (F,) Hz
    widths = np.diff(edges)[:, None]
    slopes = edges[:, None] - bins[None]  # (M + 2, F)
    rising, falling = -slopes[:-2] / widths[:-1], slopes[2:] / widths[1:]
    weights = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    area = 2.0 / (edges[2:] - edges[:-2])  # Slaney's norm: each band has the same area
    bank = (weights * area[:, None]).astype(np.float32)
    with torch.inference_mode(False):
        return torch.from_numpy(bank).to(device)


def _hz_to_mel(hz: float, scale: str) -> float:
    if scale == "htk":
        return 2595.0 * math.log10(1.0 + hz / 700.0)
    if hz >= _LOG_START_HZ:
        return _LOG_START_MEL + math.log(hz / _LOG_START_HZ) / _LOG_STEP
    return hz / _HZ_PER_MEL


def _mel_to_hz(mel: npt.NDArray[np.float64], scale: str) -> npt.NDArray[np.float64]:
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    above = _LOG_START_HZ * np.exp(_LOG_STEP * (mel - _LOG_START_MEL))
    return np.where(mel >= _LOG_START_MEL, above, mel * _HZ_PER_MEL)
