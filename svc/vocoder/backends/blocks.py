"""A generator that sings a window in blocks of one length.

oneDNN and OpenVINO make kernels for every length they meet, which on a CPU takes as long as singing ten
seconds in half precision, and keep them, which takes more memory than the net. A block also bounds what
the activations of a long window need. A frame hears `reach` frames to each side and no more, so blocks that overlap
by twice as many give the same samples, bit for bit where the kernels do:

    window   |=============================================|
    blocks   |===========~~|
                      |~~===========~~|
                              (the last one ends with the window) |~~~~~===========|
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from svc.vocoder.source import HarmonicSource, SourceNoise

BLOCK_FRAMES = 256
"""Three seconds at the usual rate: a tenth is sung twice, and a song has few shorter windows."""

Sing = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""``sing(x (B, C, N), excitation (B, 1, N · hop), g) -> wav (B, 1, N · hop)``."""


class BlockGenerator(nn.Module):
    """Sings in blocks; windows that are not longer than one are sung as they are.

    Args:
        sing: the net behind the harmonic source, which stays here: its phase runs through the window.
        m_source: the harmonic source.
        hop_length: samples per frame.
        reach: frames to each side that a frame hears (`svc.synthesizer.ends.generator_reach`).
        frames: of a block, more than twice `reach`.
    """

    def __init__(
        self,
        sing: Sing,
        m_source: HarmonicSource,
        *,
        hop_length: int,
        reach: int,
        frames: int = BLOCK_FRAMES,
    ) -> None:
        super().__init__()
        if frames <= 2 * reach:
            raise ValueError(f"blocks of {frames} frames do not hold {reach} frames on both sides")
        self.m_source, self.hop_length = m_source, hop_length
        self.sing, self._reach, self._frames = sing, reach, frames

    def forward(
        self, x: Tensor, f0: Tensor, g: Tensor | None = None, *, random: SourceNoise
    ) -> Tensor:
        """Sing; see `svc.vocoder.backends.base.Decoder`."""
        excitation = self.m_source(f0, random)
        n_frames, hop = x.shape[2], self.hop_length
        if n_frames <= self._frames:
            return self.sing(x, excitation, g)
        wav = x.new_empty((x.shape[0], 1, n_frames * hop), dtype=torch.float32)
        done = 0
        while done < n_frames:
            first = max(0, min(done - self._reach, n_frames - self._frames))
            last = first + self._frames
            block = self.sing(
                x[:, :, first:last],
                excitation[:, :, first * hop : last * hop],
                g if g is None or g.shape[2] == 1 else g[:, :, first:last],
            )
            end = n_frames if last == n_frames else last - self._reach
            wav[:, :, done * hop : end * hop] = block[
                :, :, (done - first) * hop : (end - first) * hop
            ]
            done = end
        return wav
