"""The windows of a wave that crepe looks at, and how loud it is in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from svc.f0.crepe_net import FRAME_LENGTH, SAMPLING_RATE

_BATCH = 1024  # windows whose spectra are held at a time

# The original's measure (spec_f0 6.1)
_REFERENCE_DB = 20.0
_LOWEST_DB = -100.0
_RANGE_DB = 80.0  # what is further below the clip's loudest bin is raised to that


@dataclass(frozen=True)
class ClipFrames:
    """Windows of a wave that the net looks at."""

    padded: Tensor  # (T',) samples at 16 kHz, with half a window of zeros on either side
    starts: Tensor  # (N,) first sample of each window

    @classmethod
    def of(cls, wave: Tensor, centres: Tensor) -> ClipFrames:
        """Windows of a clip: (T,) samples at 16 kHz, centred on the samples (N,) in 0..T."""
        return cls(F.pad(wave, (FRAME_LENGTH // 2, FRAME_LENGTH // 2)), centres)

    @classmethod
    def join(cls, clips: Sequence[ClipFrames]) -> ClipFrames:
        """Windows of several clips, one after the other; at least one clip."""
        offsets = accumulate((len(clip.padded) for clip in clips[:-1]), initial=0)
        starts = [clip.starts + offset for clip, offset in zip(clips, offsets)]
        return cls(torch.cat([clip.padded for clip in clips]), torch.cat(starts))

    def __len__(self) -> int:
        return len(self.starts)

    def batches(self, size: int) -> Iterator[Tensor]:
        """Yield the windows (B, 1024) in order, B <= size."""
        window = torch.arange(FRAME_LENGTH, device=self.starts.device)
        for first in range(0, len(self.starts), size):
            yield self.padded[self.starts[first : first + size, None] + window]


@lru_cache(maxsize=1)
def a_weights() -> npt.NDArray[np.float64]:
    """A-weighting (IEC 61672-1) of the bins of a window's spectrum: (513,) dB, at least -80."""
    frequency = np.arange(FRAME_LENGTH // 2 + 1) * (SAMPLING_RATE / FRAME_LENGTH)
    square = np.maximum(frequency, 1e-3) ** 2
    poles = np.array([20.598997, 107.65265, 737.86223, 12194.217]) ** 2
    ratio = poles[3] * square**2 / ((square + poles[0]) * (square + poles[3]))
    middle = 10 * np.log10((square + poles[1]) * (square + poles[2]))
    weights: npt.NDArray[np.float64] = np.maximum(2.0 + 20 * np.log10(ratio) - middle, -80.0)
    weights.setflags(write=False)
    return weights


def _powers(frames: ClipFrames) -> Iterator[Tensor]:
    """Yield the power spectra (B, 513) of Hann-windowed windows."""
    hann = torch.hann_window(FRAME_LENGTH, device=frames.padded.device)
    for windows in frames.batches(_BATCH):
        yield torch.fft.rfft(windows * hann).abs().square()


def level(frames: ClipFrames) -> npt.NDArray[np.float32]:
    """A-weighted level of each window, (N,) dBFS: a square wave of full scale has 0 dBFS without
    the weighting; -200 or more.
    """
    gains = torch.from_numpy(10 ** (a_weights() / 10)).float().to(frames.padded.device)
    # By Parseval's theorem; the mean of the squared Hann window is 3/8.
    gains = gains * (2 / (FRAME_LENGTH**2 * 0.375))
    parts = [power @ gains for power in _powers(frames)]
    levels: npt.NDArray[np.float32] = (
        torch.cat(parts).clamp(min=1e-20).log10().mul(10).cpu().numpy()
    )
    return levels


def original_loudness(frames: ClipFrames) -> npt.NDArray[np.float32]:
    """Mean over frequency of each window's A-weighted level in dB, as the original measures it.

    The quietest that a window can measure depends on the loudest one of the clip.

    Returns:
        (N,) dB, -100 or more.
    """
    peak = max((float(power.max()) for power in _powers(frames)), default=0.0)
    floor = max(1e-10, peak * 10 ** (-_RANGE_DB / 10))
    weights = torch.from_numpy(a_weights() - _REFERENCE_DB).float().to(frames.padded.device)
    parts = [
        (10 * power.clamp(min=floor).log10() + weights).clamp(min=_LOWEST_DB).mean(dim=1)
        for power in _powers(frames)
    ]
    loudness: npt.NDArray[np.float32] = torch.cat(parts).cpu().numpy()
    return loudness
