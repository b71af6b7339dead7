"""How many windows the nets take at a time: like lengths together, fewer where memory runs out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from svc.config import ModelConfig
from svc.conversion.backend import out_of_memory
from svc.speech.chunks import group_by_length

logger = logging.getLogger(__name__)

Made = TypeVar("Made")

_MOST_FRAMES = 8192  # a minute and a half at the usual rate: by then a GPU is filled
_WASTE = 0.2  # most padding of a batch as a share of it
_SHARE = (
    0.5  # of the memory that is free: the rest is for the encoder, and for what was not counted
)
_COPIES = 10  # of its widest activation, that the generator holds at a time
_SOURCE_BYTES = 40  # of a sample of a harmonic, while the source is computed, partly in float64
_HARMONICS = 9


class BatchSize:
    """How many frames are rendered together; gets smaller where they do not fit into the memory.

    Args:
        frames: padding included; 0 = one window at a time.
    """

    def __init__(self, frames: int = 0) -> None:
        self.frames = frames
        self._told = False

    @classmethod
    def usual(cls, device: torch.device, frame_bytes: int) -> BatchSize:
        """Choose by the device: half of a CUDA device's free memory, divided by what a frame needs, at
        most `_MOST_FRAMES`. Elsewhere one window at a time: on a CPU eight windows of 3 s together take
        1.6 times as long as one after the other (default voice, one core: they no longer fit into its
        cache), and other devices do not say what memory is free.

        Args:
            device: where the nets are; everything that is to stay there is loaded.
            frame_bytes: memory that a frame needs while it is rendered.
        """
        if device.type != "cuda":
            return cls()
        free, _ = torch.cuda.mem_get_info(device)
        return cls(min(_MOST_FRAMES, int(_SHARE * free / frame_bytes)))

    def render(
        self,
        lengths: Sequence[int],
        render: Callable[[Sequence[int]], Sequence[Made]],
        give_back: Callable[[], None],
    ) -> list[Made]:
        """Render all, in groups of like length; a group that does not fit is cut in two.

        Args:
            lengths: frames of each window.
            render: makes the windows with the given indices, all or none.
            give_back: gives memory back to the device after it ran out.

        Returns:
            In the order of `lengths`.

        Raises:
            RuntimeError, MemoryError: a single window does not fit.
        """
        done: dict[int, Made] = {}
        while len(done) < len(lengths):
            group = self._next(
                [index for index in range(len(lengths)) if index not in done], lengths
            )
            try:
                done.update(zip(group, render(group), strict=True))
                continue
            except (RuntimeError, MemoryError) as error:
                if len(group) == 1 or not out_of_memory(error):
                    raise
            # Outside of the handler: until its end the traceback keeps the failed batch alive.
            give_back()
            self._shrink(len(group) * lengths[group[0]] // 2)
        return [done[index] for index in range(len(lengths))]

    def _next(self, left: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """Choose which of the windows that are left to render now, the longest first."""
        if self.frames == 0:
            return [left[0]]
        group = group_by_length([lengths[index] for index in left], self.frames, _WASTE)[0]
        return [left[place] for place in group]

    def _shrink(self, frames: int) -> None:
        if not self._told:
            logger.warning(
                "%d frames at a time do not fit into the memory that is free: going on with half of "
                "them, and with half again where need be; the result stays the same",
                2 * frames,
            )
        self._told = True
        self.frames = frames


def bytes_of_frame(model: ModelConfig) -> int:
    """Estimate the memory that a frame needs while it is rendered in float32: 500 KiB for the default
    voice, of which 410 were seen on a CPU.

    It is that of the generator: `_COPIES` of the activations of its widest stage, and the harmonic
    source. Attention is bounded by itself (`svc.synthesizer.attention`).

    Args:
        model: section `model` of the config.
    """
    rates = model.upsample_rates
    widest: int = max(
        model.upsample_initial_channel // 2 ** (stage + 1) * math.prod(rates[: stage + 1])
        for stage in range(len(rates))
    )
    source: int = _SOURCE_BYTES * _HARMONICS * math.prod(rates)
    return 4 * _COPIES * widest + source
