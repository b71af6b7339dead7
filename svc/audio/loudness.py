"""Loudness: frame RMS, envelope transfer, peak and LUFS normalisation with a limiter, trimming of
silence.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from svc.audio.levels import FrameLevels

if TYPE_CHECKING:  # torch is loaded only by the functions on tensors: file workers stay small
    from torch import Tensor

FloatArray = npt.NDArray[np.floating]

_LIMITER_REACH_S = (
    0.02  # look-ahead and release; longer than a period of the lowest voice, so it does not distort
)
_LUFS_BLOCK_S = 0.4  # shortest clip BS.1770 can measure


def frame_volume(wav: Tensor, hop_length: int) -> Tensor:
    """RMS of the hop_length samples around each frame's start: so-vits-svc 4.1 behaviour, spec_core
    5.3.

    Args:
        wav: ``(B, T)`` samples.
        hop_length: samples per frame.

    Returns:
        ``(B, T // hop_length)`` linear RMS; frame k covers samples k*hop - hop/2 ... k*hop + hop/2
        - 1, mirrored at the start.
    """
    from torch.nn import functional as F

    if not wav.is_floating_point() or wav.element_size() < 4:
        wav = wav.float()  # squares of half precision underflow
    n_frames = wav.shape[-1] // hop_length
    if n_frames == 0:
        return wav.new_zeros(wav.shape[0], 0)
    half = hop_length // 2
    power = F.pad(wav.square(), (half, hop_length - half), mode="reflect")
    return power[:, : n_frames * hop_length].reshape(-1, n_frames, hop_length).mean(-1).sqrt()


def match_envelope(
    source: Tensor, source_sr: int, output: Tensor, output_sr: int, ratio: float
) -> Tensor:
    """Carry the loudness envelope of the source over to the output: so-vits-svc 4.1 behaviour,
    spec_core 5.5.

    Envelopes are the RMS of 1 s windows every 0.5 s, at each signal's own rate.

    Args:
        source: ``(Ta,)`` samples whose envelope is wanted.
        source_sr: its rate, Hz.
        output: ``(Tb,)`` samples to be changed.
        output_sr: its rate, Hz.
        ratio: 1 keeps the envelope of `output`, 0 gives that of `source`, between them the
            geometric mix.

    Returns:
        ``(Tb,)``, a new tensor unless ratio is 1.
    """
    if ratio == 1.0 or output.shape[-1] == 0:
        return output
    n = output.shape[-1]
    wanted = _envelope(source.to(output), source_sr, n)
    present = _envelope(output, output_sr, n).clamp(min=1e-6)
    return output * wanted.pow(1.0 - ratio) * present.pow(ratio - 1.0)


def frame_volume_array(wav: npt.NDArray[np.float32], hop_length: int) -> npt.NDArray[np.float32]:
    """Do what `frame_volume` does where there is no torch: (T,) -> (T // hop_length,)."""
    n_frames = wav.shape[-1] // hop_length
    if n_frames == 0:
        return np.zeros(0, dtype=np.float32)
    half = hop_length // 2
    power = np.pad(np.square(wav), (half, hop_length - half), mode="reflect")
    power = power[: n_frames * hop_length].reshape(n_frames, hop_length)
    volume: npt.NDArray[np.float32] = np.sqrt(power.mean(axis=-1, dtype=np.float32))
    return volume


def match_envelope_array(
    source: npt.NDArray[np.float32],
    source_sr: int,
    output: npt.NDArray[np.float32],
    output_sr: int,
    ratio: float,
) -> npt.NDArray[np.float32]:
    """Do what `match_envelope` does where there is no torch; same arguments, arrays (T,)."""
    if ratio == 1.0 or output.size == 0:
        return output
    wanted = _envelope_array(source, source_sr, output.size)
    present = np.maximum(_envelope_array(output, output_sr, output.size), np.float32(1e-6))
    shaped: npt.NDArray[np.float32] = output * (wanted / present) ** np.float32(1.0 - ratio)
    return shaped


def _envelope_array(wav: npt.NDArray[np.float32], sr: int, n: int) -> npt.NDArray[np.float32]:
    """Return `_envelope` of an array."""
    hop = max(1, sr // 2)
    power = np.pad(np.square(wav), (hop, hop + (-wav.size) % hop))
    hops = power.reshape(-1, hop).sum(axis=-1, dtype=np.float64)
    rms = np.sqrt((hops[:-1] + hops[1:]) / (2 * hop))[: 1 + wav.size // hop]
    place = np.maximum((np.arange(n) + 0.5) * (rms.size / n) - 0.5, 0.0)
    envelope: npt.NDArray[np.float32] = np.interp(place, np.arange(rms.size), rms).astype("f4")
    return envelope


def _envelope(wav: Tensor, sr: int, n: int) -> Tensor:
    """RMS over sr // 2 * 2 samples every sr // 2, zero-padded, stretched linearly to n samples.
    (T,) -> (n,).
    """
    from torch.nn import functional as F

    hop = max(1, sr // 2)
    power = F.pad(wav.square(), (hop, hop + (-wav.shape[-1]) % hop))
    # A window is two hops, so the sum over each hop is needed only once.
    hops = power.reshape(-1, hop).sum(-1)
    rms = ((hops[:-1] + hops[1:]) / (2 * hop)).sqrt()[: 1 + wav.shape[-1] // hop]
    return F.interpolate(rms[None, None], size=n, mode="linear", align_corners=False)[0, 0]


def rms_frames(wav: FloatArray, frame_length: int, hop_length: int) -> npt.NDArray[np.float32]:
    """RMS of centred, zero-padded frames, as ``librosa.feature.rms``.

    Args:
        wav: ``(T,)`` samples.
        frame_length: samples per frame.
        hop_length: samples between frames.

    Returns:
        float32 ``(1 + T // hop_length,)`` for even frame lengths; frame k is centred on sample k *
        hop_length.
    """
    data = np.asarray(wav, dtype=np.float32)
    if data.ndim != 1:
        raise ValueError(f"wav must be (T,), not {data.shape}")
    levels = FrameLevels(frame_length, hop_length)
    levels.feed(data)
    return levels.finish()


def peak_normalize(wav: FloatArray, peak: float = 1.0) -> npt.NDArray[np.float32]:
    """Scale so that the largest magnitude is `peak`; silence stays silence.

    Args:
        wav: ``(T,)`` or ``(C, T)``.
        peak: linear, > 0.

    Returns:
        float32, never beyond `peak`.
    """
    data: npt.NDArray[np.float32] = np.asarray(wav, dtype=np.float32)
    highest = _peak(data)
    if highest == 0.0:
        return np.array(data)
    return _hold(data.astype(np.float64) * (peak / highest), peak)


def lufs_normalize(
    wav: FloatArray, sr: int, target_lufs: float = -18.0, ceiling_db: float = -1.0
) -> npt.NDArray[np.float32]:
    """Bring to an integrated loudness (ITU-R BS.1770-4), peaks held by `limit`.

    Args:
        wav: ``(T,)`` or ``(C, T)`` with at most 5 channels.
        sr: Hz.
        target_lufs: loudness wanted, LUFS. Where the limiter works the result is a little quieter.
        ceiling_db: highest magnitude of the result, dBFS.

    Returns:
        float32, same shape. A clip under 0.4 s is measured as if it were repeated; a clip too quiet
        to be measured (all of it below -70 LUFS) is only limited, not raised.
    """
    import pyloudnorm

    data: npt.NDArray[np.float32] = np.asarray(wav, dtype=np.float32)
    if data.size == 0:
        return np.array(data)
    probe = data.astype(np.float64)
    shortest = int(np.ceil(_LUFS_BLOCK_S * sr)) + 1
    if probe.shape[-1] < shortest:
        repeats = -(-shortest // probe.shape[-1])
        probe = np.tile(probe, repeats if probe.ndim == 1 else (1, repeats))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Means over no block and logarithms of 0 in silence: the answer, minus infinity, is what is
        # asked for.
        warnings.simplefilter("ignore", RuntimeWarning)
        loudness = float(pyloudnorm.Meter(sr).integrated_loudness(probe.T))
    if not np.isfinite(loudness):
        return limit(data, sr, ceiling_db)
    gained = data.astype(np.float64) * 10.0 ** ((target_lufs - loudness) / 20.0)
    return limit(gained, sr, ceiling_db)


def limit(wav: FloatArray, sr: int, ceiling_db: float = -1.0) -> npt.NDArray[np.float32]:
    """Look-ahead limiter: turn down smoothly around peaks; no sample of the result is beyond the
    ceiling.

    The gain needed at each sample is spread by a running minimum and then smoothed by averages no
    wider than that, so the smoothed gain is nowhere above the gain needed.

    Args:
        wav: ``(T,)`` or ``(C, T)``; channels share one gain.
        sr: Hz.
        ceiling_db: highest magnitude of the result, dBFS (sample peak).

    Returns:
        float32, same shape.
    """
    from scipy.ndimage import minimum_filter1d, uniform_filter1d

    data = np.asarray(wav)
    ceiling = 10.0 ** (ceiling_db / 20.0)
    if _peak(data) <= ceiling:
        return _hold(data, ceiling)
    level = np.abs(data, dtype=np.float64)
    if level.ndim == 2:
        level = level.max(axis=0)
    needed = np.minimum(1.0, ceiling / np.maximum(level, ceiling))
    half = max(1, round(_LIMITER_REACH_S * sr / 2))  # two averages of 2 * half + 1 reach 2 * half
    gain = minimum_filter1d(needed, 4 * half + 1, mode="nearest")
    for _ in range(2):
        gain = uniform_filter1d(gain, 2 * half + 1, mode="nearest")
    return _hold(data * gain, ceiling)


def trim_silence(wav: FloatArray, *, top_db: float = 40.0) -> FloatArray:
    """Cut leading and trailing silence, as ``librosa.effects.trim``: so-vits-svc 4.1 behaviour,
    spec_core 6.2.

    Args:
        wav: ``(T,)`` samples.
        top_db: a frame (2048 samples, every 512) is silent when its RMS is this far below the
            loudest frame's.

    Returns:
        A view of the part between; all of `wav` where it is digital silence, which has no loudest
        frame.
    """
    hop_length = 512
    rms = rms_frames(wav, 2048, hop_length)
    power = np.maximum(rms.astype(np.float64) ** 2, 1e-10)
    loud = np.flatnonzero(10.0 * np.log10(power / power.max(initial=1e-10)) > -top_db)
    if loud.size == 0:
        return wav[:0]
    return wav[loud[0] * hop_length : (loud[-1] + 1) * hop_length]


def _peak(wav: FloatArray) -> float:
    return float(max(wav.max(initial=0.0), -wav.min(initial=0.0)))


def _hold(wav: FloatArray, bound: float) -> npt.NDArray[np.float32]:
    """As float32, clipped where rounding would go beyond the bound."""
    nearest = np.float32(bound)
    top = nearest if float(nearest) <= bound else np.nextafter(nearest, np.float32(0.0))
    held: npt.NDArray[np.float32] = np.clip(wav.astype(np.float32), -top, top)
    return held
