"""Checking a wave and cutting a long one into windows: the one place for both, for every encoder.

All windows of a wave are equally long, so no window is short of context; neighbours overlap by at
least twice the context, and each frame is taken from the window in whose middle part it lies::

    window 0  |=========kept=========|--context--|
    window 1               |--context--|====kept====|--context--|
    window 2                                  |--context--|=====kept=====|
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from svc.errors import AudioError

SAMPLING_RATE = 16000  # Hz, what every encoder hears
HOP_LENGTH = 320  # samples per unit frame: 50 frames per second
CONTEXT_FRAMES = 100  # 2 s that a window hears on either side of what is kept of it


@dataclass(frozen=True)
class Window:
    """One window, in unit frames of the whole wave: it spans [start, end) and [keep_start,
    keep_end) is kept.
    """

    start: int
    end: int
    keep_start: int
    keep_end: int


def prepare_wave(wav: Tensor, minimum: int) -> Tensor:
    """Check a wave and lengthen a very short one.

    Args:
        wav: (T,) samples at 16 kHz in [-1, 1]; T = 0 counts as silence.
        minimum: least number of samples the encoder can work on.

    Returns:
        (max(T, minimum),) float32, zero-padded at the end.

    Raises:
        AudioError: it holds NaN or infinite samples.
        ValueError: it is not a one-dimensional float tensor.
    """
    if wav.dim() != 1 or not wav.is_floating_point():
        raise ValueError(f"expected a float wave (T,), got {tuple(wav.shape)} of {wav.dtype}")
    wav = wav.detach().float()
    bad = int((~torch.isfinite(wav)).sum())
    if bad:
        raise AudioError(
            f"the audio holds {bad} samples of {len(wav)} that are not numbers (NaN or infinite);"
            " export it again from the program that made it"
        )
    if len(wav) >= minimum:
        return wav  # padding by nothing would copy: 230 MB of an hour
    return torch.nn.functional.pad(wav, (0, minimum - len(wav)))


def plan_windows(n_frames: int, window: int, context: int = CONTEXT_FRAMES) -> list[Window]:
    """Cover `n_frames` with equally long overlapping windows.

    Args:
        n_frames: frames of the whole wave, >= 1.
        window: frames of a window, > 2 * context.
        context: least number of frames beyond the kept part on an inner side of a window.

    Returns:
        One window if everything fits; else windows of exactly `window` frames whose kept parts tile
        [0, n_frames).
    """
    if n_frames < 1 or window <= 2 * context:
        raise ValueError(
            f"cannot cover {n_frames} frames by windows of {window}, context {context}"
        )
    if n_frames <= window:
        return [Window(0, n_frames, 0, n_frames)]
    n_windows = 1 + -(-(n_frames - window) // (window - 2 * context))
    starts = [index * (n_frames - window) // (n_windows - 1) for index in range(n_windows)]
    # Each seam lies in the middle of the overlap of its two windows.
    seams = [(left + window + right) // 2 for left, right in pairwise(starts)]
    edges = [0, *seams, n_frames]
    return [
        Window(start, start + window, edges[index], edges[index + 1])
        for index, start in enumerate(starts)
    ]


def encode_in_windows(
    wav: Tensor,
    n_frames: int,
    encode: Callable[[Tensor], Tensor],
    *,
    window: int,
    field: int,
    at_once: int = 1,
) -> Tensor:
    """Encode a wave longer than a window; memory for the net is bounded by the windows it is given
    at once, and the result is held once.

    It is an approximation: attention sees a window instead of the whole wave.

    Args:
        wav: (T,).
        n_frames: unit frames of the whole wave.
        encode: (B, samples) -> (B, C, frames); windows of one length.
        window: frames of a window.
        field: samples that the first frame of a window hears; each further frame adds `HOP_LENGTH`.
        at_once: most windows per call.

    Returns:
        (1, C, n_frames) on the device of what `encode` returns.
    """
    plan = plan_windows(n_frames, window)
    units: Tensor | None = None
    for first in range(0, len(plan), at_once):
        parts = plan[first : first + at_once]
        samples = (parts[0].end - parts[0].start - 1) * HOP_LENGTH + field
        begins = [part.start * HOP_LENGTH for part in parts]
        encoded = encode(torch.stack([wav[begin : begin + samples] for begin in begins]))
        if units is None:
            units = encoded.new_empty(1, encoded.shape[1], n_frames)
        for part, piece in zip(parts, encoded):
            kept = piece[:, part.keep_start - part.start : part.keep_end - part.start]
            units[0, :, part.keep_start : part.keep_end] = kept
    assert units is not None  # noqa: S101 - there is at least one window
    return units


def group_by_length(lengths: Sequence[int], most: int, waste: float) -> list[list[int]]:
    """Put clips of like length together, so that little of a padded batch is padding.

    Args:
        lengths: samples of each clip.
        most: samples of a batch, padding included, that are not exceeded unless one clip does so
            alone.
        waste: most padding in a batch as a share of it.

    Returns:
        Indices into `lengths`, each once; within a group the longest comes first.
    """
    groups: list[list[int]] = []
    used = 0  # samples of the group's clips without padding
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups:
            size = lengths[groups[-1][0]] * (len(groups[-1]) + 1)
            if size <= most and used + lengths[index] >= (1 - waste) * size:
                groups[-1].append(index)
                used += lengths[index]
                continue
        groups.append([index])
        used = lengths[index]
    return groups
