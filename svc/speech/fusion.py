"""Two encoders as one: their units side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from svc.audio.frames import expand_units
from svc.speech.chunks import HOP_LENGTH

if TYPE_CHECKING:
    from svc.speech.base import SpeechEncoder


class FusedEncoder:
    """Units of several encoders, concatenated along the channels in their order.

    The encoders agree on 50 frames per second but may differ by a frame at the end; the longest
    count is kept and shorter ones are stretched over it by the rule "left" of
    `svc.audio.frames.expand_units`.

    Args:
        encoders: two or more on one device.
    """

    def __init__(self, encoders: Sequence[SpeechEncoder]) -> None:
        devices = {encoder.device for encoder in encoders}
        if len(encoders) < 2 or len(devices) != 1:
            raise ValueError(
                f"cannot fuse {[encoder.name for encoder in encoders]} on {sorted(map(str, devices))}"
            )
        self.name = "+".join(encoder.name for encoder in encoders)
        self.dim = sum(encoder.dim for encoder in encoders)
        self.device = encoders[0].device
        self.usual_seconds = min(encoder.usual_seconds for encoder in encoders)
        self.parts = tuple(encoders)

    def encode(self, wav16k: Tensor) -> Tensor:
        """Encode a wave of any length.

        Args:
            wav16k: (T,) samples at 16 kHz in [-1, 1].

        Returns:
            (1, C, S) float32 on the encoders' device; C the sum of theirs, S the largest of theirs.

        Raises:
            AudioError: NaN or infinite samples.
        """
        return self._fuse([wav16k], lambda part: [part.encode(wav16k)])[0]

    def encode_batch(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        """Encode several waves, (T_i,) each, as `encode` does."""
        return self._fuse(wavs, lambda part: part.encode_batch(wavs))

    @torch.no_grad()
    def _fuse(
        self, wavs: Sequence[Tensor], encode: Callable[[SpeechEncoder], list[Tensor]]
    ) -> list[Tensor]:
        """Write the parts into the results one by one: of an hour of audio only one part's units
        are held beside them.
        """
        # No encoder gives more than one frame per hop, and each gives at least one.
        most = [max(1, len(wav) // HOP_LENGTH) for wav in wavs]
        fused = [torch.empty(1, self.dim, frames, device=self.device) for frames in most]
        counts: list[list[int]] = [[] for _ in wavs]
        row = 0
        for part in self.parts:
            units = encode(part)
            units.reverse()
            for index, result in enumerate(fused):
                piece = units.pop()
                counts[index].append(piece.shape[-1])
                result[:, row : row + part.dim, : piece.shape[-1]] = piece
                del piece
            row += part.dim
        return [self._align(result, frames) for result, frames in zip(fused, counts)]

    def _align(self, result: Tensor, frames: Sequence[int]) -> Tensor:
        """Stretch the parts that have fewer frames than the longest: (1, C, most) -> (1, C, S)."""
        longest, row = max(frames), 0
        for part, count in zip(self.parts, frames):
            rows = result[:, row : row + part.dim]
            if count < longest:
                rows[..., :longest] = expand_units(rows[..., :count], longest, "left")
            row += part.dim
        return result[..., :longest]
