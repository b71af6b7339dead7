"""The ends of rows in a padded batch, made to sound as if nothing came after them.

All nets before the generator are told by a mask where a row ends. The generator is not: a mask before
each of its convolutions would have to go over every sample of every channel. But what it makes of a
frame depends on `reach` frames to each side alone, so in a padded batch only the last `reach` frames of
a row differ from those of the row by itself. They are made again from a crop that ends where the row
ends; the crops are as long as each other and need no padding:

    row      |==============================|~~~~~~ padding ~~~~~~|
    crop                    |-reach-|-reach-|
    kept     |======================|=======|    the first half of a crop lacks what was before it
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from svc.config import ModelConfig
from svc.devices import exact_device
from svc.vocoder.source import HarmonicSource, SourceNoise

_SNAKE_REACH = 6  # positions: a low-pass filter of 12 taps at twice the rate, up and down again


def generator_reach(model: ModelConfig) -> int:
    """Count the frames to each side of a frame that the generator hears while it makes that frame.

    Counted from the last convolution back to the first in positions of each stage, rounded up at every
    stage: a frame or two more than need be.

    Args:
        model: section `model` of the config.

    Returns:
        Frames.
    """
    snake = _SNAKE_REACH if model.vocoder_name == "nsf-snake-hifigan" else 0
    blocks = max(
        _block_reach(kernel, dilations, snake, first=model.resblock == "1")
        for kernel, dilations in zip(model.resblock_kernel_sizes, model.resblock_dilation_sizes)
    )
    reach = snake + 3  # the last convolution
    source = 0  # frames: the source is heard through kernels of its own at every stage
    stages = list(zip(model.upsample_rates, model.upsample_kernel_sizes))
    for stage in reversed(range(len(stages))):
        rate, kernel = stages[stage]
        reach += blocks
        source = max(source, math.ceil((reach + 1) / math.prod(model.upsample_rates[: stage + 1])))
        padding = (kernel - rate + 1) // 2
        reach = snake + math.ceil((reach + max(padding, kernel - 1 - padding)) / rate)
    return max(source, reach + 3)  # the first convolution


def _block_reach(kernel: int, dilations: Sequence[int], snake: int, *, first: bool) -> int:
    """Positions to each side that a residual block hears, of the first type or the second."""
    half = (kernel - 1) // 2
    if first:
        return sum(half * dilation + half + 2 * snake for dilation in dilations[:3])
    return sum(half * dilation + snake for dilation in dilations[:2])


def mend_ends(
    dec: nn.Module,
    wav: Tensor,
    z: Tensor,
    f0: Tensor,
    g: Tensor,
    random: SourceNoise,
    *,
    source: HarmonicSource,
    lengths: Sequence[int],
    reach: int,
) -> None:
    """Replace what padding has changed in a generated batch, in place.

    Args:
        dec: the generator that made it, ``dec(z, f0, g, random=random)``.
        wav: (B, 1, T · hop_length), what it made.
        z: (B, C, T) latent.
        f0: (B, T) Hz.
        g: (B, G, 1) or (B, G, T) speakers.
        random: of the source.
        source: its harmonic source.
        lengths: frames of each row.
        reach: of `generator_reach`.
    """
    n_frames, hop = f0.shape[1], source.hop_length
    crops: defaultdict[int, list[int]] = defaultdict(list)  # frames of a crop -> rows
    for row, length in enumerate(lengths):
        if length < n_frames:
            crops[min(length, 2 * reach)].append(row)
    for size, rows in crops.items():
        begins = [lengths[row] - size for row in rows]

        def crop(x: Tensor, unit: int, rows: list[int] = rows, size: int = size) -> Tensor:
            """Take the crops out of x (B, ..., T · unit), with their begins in units."""
            parts = [
                x[row, ..., (lengths[row] - size) * unit : lengths[row] * unit] for row in rows
            ]
            return torch.stack(parts)

        phase = torch.cat(
            [
                _phase_at(source, f0[row, :begin], random.phase[row])
                for row, begin in zip(rows, begins)
            ]
        )
        noise = crop(random.noise.transpose(1, 2), hop).transpose(1, 2)
        conditions = g[rows] if g.shape[2] == 1 else crop(g, 1)
        made = dec(crop(z, 1), crop(f0, 1), conditions, random=SourceNoise(phase, noise))
        kept = min(reach, size) * hop
        for row, end in zip(rows, made):
            stop = lengths[row] * hop
            wav[row, :, stop - kept : stop] = end[:, -kept:]


def _phase_at(source: HarmonicSource, f0: Tensor, phase: Tensor) -> Tensor:
    """Where the harmonics of a source are after the frames f0 (N,), (1, H) turns in float64 on the
    `exact_device` of f0; they began at phase (H,). The steps are those of `HarmonicSource`.
    """
    where = exact_device(f0.device)
    harmonics = torch.arange(1, source.n_harmonics + 1, device=f0.device, dtype=torch.float32)
    rates = torch.remainder(f0.float()[:, None] * harmonics / source.sampling_rate, 1.0)
    steps = rates.to(where).double()
    return torch.remainder(phase.to(where).double() + steps.sum(0) * source.hop_length, 1.0)[None]
