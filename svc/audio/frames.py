"""Frame grids: stretch units to them, mask them, take windows out of them.

Letters: B batch, C channels, S encoder frames, N or T synthesis frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from svc.errors import ConfigError

if TYPE_CHECKING:  # torch is loaded only by the functions on tensors: exported graphs run without
    import torch
    from torch import Tensor

EXPAND_MODES = ("left", "nearest", "linear", "area", "nearest-exact")


def expand_units(
    units: Tensor, n_frames: int, mode: str = "nearest", *, compat: bool = False
) -> Tensor:
    """Stretch encoder frames over synthesis frames: so-vits-svc 4.1 behaviour, spec_core 5.4 and
    spec_encoders 3.

    Args:
        units: ``(..., C, S)``, S >= 1.
        n_frames: N, frames wanted.
        mode: ``data.unit_interpolate_mode``: "left" or a mode of torch's interpolate for one axis.
        compat: in mode "left" with S > N, copy the first N frames as the original does, instead of
            spreading all.

    Returns:
        ``(..., C, N)``.

    Raises:
        ConfigError: the mode is unknown.
    """
    from torch.nn import functional as F

    n_units = units.shape[-1]
    _check_expansion(n_units, n_frames, mode)
    if n_frames == 0:
        return units[..., :0]
    if mode == "left":
        index = _left_index(n_units, n_frames, compat=compat).to(units.device)
        return units.gather(-1, index.expand(*units.shape[:-1], n_frames))
    rows = units.reshape(-1, *units.shape[-2:]) if units.dim() != 3 else units
    out = F.interpolate(rows, size=n_frames, mode=mode)
    return out.reshape(*units.shape[:-1], n_frames)


def expand_units_array(
    units: npt.NDArray[np.float32], n_frames: int, mode: str = "nearest"
) -> npt.NDArray[np.float32]:
    """Do what `expand_units` does where there is no torch.

    Args:
        units: float32 ``(C, S)``, S >= 1.
        n_frames: N, frames wanted.
        mode: as for `expand_units`.

    Returns:
        float32 ``(C, N)``.

    Raises:
        ConfigError: the mode is unknown, or "area", which is not offered here.
    """
    n_units = units.shape[-1]
    _check_expansion(n_units, n_frames, mode)
    if mode == "area":
        raise ConfigError('data.unit_interpolate_mode "area" needs torch; run with --backend torch')
    if n_frames == 0:
        return units[:, :0]
    frames = np.arange(n_frames)
    # torch computes positions in float32, which decides where they fall between two units.
    ratio = np.float32(n_units) / np.float32(n_frames)
    if mode == "left":
        if n_units > n_frames:
            index = frames * n_units // n_frames
        else:
            begins = (np.arange(n_units) * n_frames).astype(np.float32) / np.float32(n_units)
            index = np.searchsorted(begins, frames.astype(np.float32), side="right") - 1
            index = np.minimum(np.clip(index, 0, n_units - 1), frames)
        return units[:, index]
    middle = np.float32(0.0 if mode == "nearest" else 0.5)
    place = (frames.astype(np.float32) + middle) * ratio
    if mode != "linear":
        return units[:, np.minimum(np.floor(place).astype(np.int64), n_units - 1)]
    place = np.maximum(place - middle, np.float32(0.0))
    left = np.minimum(np.floor(place).astype(np.int64), n_units - 1)
    share = place - left.astype(np.float32)
    right = np.minimum(left + 1, n_units - 1)
    mixed: npt.NDArray[np.float32] = units[:, left] * (1 - share) + units[:, right] * share
    return mixed


def _check_expansion(n_units: int, n_frames: int, mode: str) -> None:
    if n_units == 0 and n_frames > 0:
        raise ValueError("there are no units to expand; an encoder gives at least one frame")
    if mode not in EXPAND_MODES:
        raise ConfigError(
            f'data.unit_interpolate_mode "{mode}" is unknown; use one of {", ".join(EXPAND_MODES)}'
        )


def _left_index(n_units: int, n_frames: int, *, compat: bool) -> Tensor:
    import torch

    frames = torch.arange(n_frames)
    if n_units > n_frames and not compat:
        return frames * n_units // n_frames
    # Unit k begins at frame k * N / S; float32 as the original, whose rounding decides at ties.
    begins = torch.arange(n_units) * n_frames / n_units
    index = torch.searchsorted(begins, frames.to(begins.dtype), right=True) - 1
    # The original's cursor moves by at most one unit per frame.
    return torch.minimum(index.clamp(0, n_units - 1), frames)


def sequence_mask(lengths: Tensor, max_length: int | None = None) -> Tensor:
    """True inside each sequence.

    Args:
        lengths: ``(B,)`` frames.
        max_length: T; None for the longest (waits for the device).

    Returns:
        bool ``(B, T)``.
    """
    import torch

    size = int(lengths.max()) if max_length is None else max_length
    return torch.arange(size, device=lengths.device)[None] < lengths[:, None]


def slice_segments(x: Tensor, starts: Tensor, size: int) -> Tensor:
    """Take one window out of each item.

    Args:
        x: ``(B, C, T)`` or ``(B, T)``, T >= size.
        starts: ``(B,)`` int64 first frames, starts + size <= T.
        size: frames per window.

    Returns:
        ``(B, C, size)`` or ``(B, size)``; gradients flow to `x`.
    """
    import torch

    index = starts.to(x.device)[:, None] + torch.arange(size, device=x.device)
    if x.dim() == 3:
        index = index[:, None].expand(-1, x.shape[1], -1)
    return x.gather(-1, index)


def random_starts(
    lengths: Tensor, size: int, *, generator: torch.Generator | None = None
) -> Tensor:
    """Random first frames of windows that fit each clip: so-vits-svc 4.1 behaviour, spec_core 2.8
    step 7.

    Drawn on the CPU so that a seed gives the same windows on any device.

    Args:
        lengths: ``(B,)`` frames, each >= size.
        size: frames per window.
        generator: of the CPU; None for torch's global one.

    Returns:
        int64 ``(B,)`` on the device of `lengths`, uniform over 0 ... length - size.
    """
    import torch

    draw = torch.rand(lengths.shape[0], generator=generator).to(lengths.device)
    return (draw * (lengths - size + 1).clamp(min=1)).long()
