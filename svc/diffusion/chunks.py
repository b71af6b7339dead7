"""Several chunks of different lengths in one pass of the denoiser: one after the other, walls between them.

Nothing is padded to the longest, so the order does not matter and short chunks cost what they weigh.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Chunk:
    """What `Unit2Mel.infer_many` is told of one chunk of N frames.

    Attributes:
        units: (N, U).
        f0: (N,) Hz, gaps filled.
        volume: (N,) linear RMS.
        speaker: id; ignored with a single speaker or a mix.
        speaker_mix: (N, S) weights of the first S speakers per frame, or (1, S).
        mel: (M, N) natural-log mel to refine; None = start from noise alone.
        generator: a CPU generator of its own, so that what is drawn does not depend on the other
            chunks; None = the global ones.
    """

    units: Tensor
    f0: Tensor
    volume: Tensor
    speaker: int | None = None
    speaker_mix: Tensor | None = None
    mel: Tensor | None = None
    generator: torch.Generator | None = None

    def __len__(self) -> int:
        """Frames."""
        return self.units.shape[0]


def join(parts: Sequence[Tensor]) -> Tensor:
    """Put chunks (..., N_i) one after the other with a frame of zeros between them: (..., R)."""
    walled = [F.pad(part, (0, 1)) for part in parts[:-1]]
    return torch.cat([*walled, parts[-1]], dim=-1)


def walls(lengths: Sequence[int], device: torch.device) -> Tensor | None:
    """Return where `join` puts its walls, int64 (K,), for chunks of these lengths; None = nowhere."""
    if len(lengths) < 2:
        return None
    ends = torch.tensor(lengths[:-1]).cumsum(0)
    return (ends + torch.arange(len(ends))).to(device)


def split(joined: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """Undo `join`: views (..., N_i)."""
    parts, begin = [], 0
    for length in lengths:
        parts.append(joined[..., begin : begin + length])
        begin += length + 1
    return parts


def batches(lengths: Sequence[int], limit: int) -> list[range]:
    """Cut a row of chunks into runs of at most `limit` frames; a longer chunk goes alone.

    Args:
        lengths: frames of each chunk.
        limit: frames, walls included.

    Returns:
        Ranges of indices, in order.
    """
    found: list[range] = []
    begin = frames = 0
    for index, length in enumerate(lengths):
        if index > begin and frames + 1 + length > limit:
            found.append(range(begin, index))
            begin, frames = index, 0
        frames += length + (index > begin)
    if lengths:
        found.append(range(begin, len(lengths)))
    return found
