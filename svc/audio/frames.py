"""Frame grids: stretch units to them, mask them, take windows out of them.

Letters: B batch, C channels, S encoder frames, N or T synthesis frames.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from svc.errors import ConfigError

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
    n_units = units.shape[-1]
    if n_units == 0 and n_frames > 0:
        raise ValueError("there are no units to expand; an encoder gives at least one frame")
    if mode not in EXPAND_MODES:
        raise ConfigError(
            f'data.unit_interpolate_mode "{mode}" is unknown; use one of {", ".join(EXPAND_MODES)}'
        )
    if n_frames == 0:
        return units[..., :0]
    if mode == "left":
        index = _left_index(n_units, n_frames, compat=compat).to(units.device)
        return units.gather(-1, index.expand(*units.shape[:-1], n_frames))
    rows = units.reshape(-1, *units.shape[-2:]) if units.dim() != 3 else units
    out = F.interpolate(rows, size=n_frames, mode=mode)
    return out.reshape(*units.shape[:-1], n_frames)


def _left_index(n_units: int, n_frames: int, *, compat: bool) -> Tensor:
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
    draw = torch.rand(lengths.shape[0], generator=generator).to(lengths.device)
    return (draw * (lengths - size + 1).clamp(min=1)).long()
