"""Random numbers of a training step, clip by clip.

Every clip of a step draws from (seed, step, its number in the whole batch of all processes), in a
stream of its own and as much as its own length asks for. So micro-batches and several processes draw
what the whole batch would draw, and a resumed run needs no state of a generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from svc.synthesizer.output import PITCH_SCALE, TrainingNoise
from svc.vocoder.source import HarmonicSource, SourceNoise

_WORDS = 16  # 64-bit numbers per clip: the seed of its noise, and single numbers


class ClipDraws:
    """The random numbers of the clips of one step.

    Args:
        seed: of the run.
        step: number of the step.
        numbers: of the B clips in the whole batch.
        device: where normal numbers are drawn and needed.
    """

    def __init__(self, seed: int, step: int, numbers: Sequence[int], device: torch.device) -> None:
        rows = [
            np.random.SeedSequence([seed, step, number]).generate_state(_WORDS, np.uint64)
            for number in numbers
        ]
        self._words = np.stack(rows)  # (B, _WORDS)
        self.device = device

    def __len__(self) -> int:
        """B."""
        return len(self._words)

    def uniform(self, count: int) -> Tensor:
        """Return (B, count) float32 numbers of U[0, 1) on the CPU, the same at each call; at most
        15.
        """
        if count >= _WORDS:
            raise ValueError(f"{count} numbers of {_WORDS - 1}")
        # 24 bits are what float32 holds, so that none is rounded up to 1.
        bits = self._words[:, 1 : count + 1] >> np.uint64(40)
        return torch.from_numpy(bits.astype(np.float32) * np.float32(2.0**-24))

    def normal(self, counts: Sequence[int]) -> list[Tensor]:
        """Return float32 numbers of N(0, 1) on the device, (counts[i],) for clip i; the same at
        each call.
        """
        generator = torch.Generator(self.device)
        drawn = []
        for words, count in zip(self._words, counts, strict=True):
            generator.manual_seed(int(words[0]))
            drawn.append(torch.randn(count, generator=generator, device=self.device))
        return drawn


def training_noise(
    draws: ClipDraws,
    lengths: Sequence[int],
    n_frames: int,
    *,
    channels: int,
    segment_frames: int,
    source: HarmonicSource,
) -> TrainingNoise:
    """Draw what the training forward of a synthesizer needs.

    Args:
        draws: of B clips.
        lengths: frames of each clip, at least `segment_frames`.
        n_frames: T, frames the batch is padded to; the padding gets no noise.
        channels: C, latent width.
        segment_frames: frames of a window.
        source: of the decoder.

    Returns:
        Everything but dropout's numbers, on the device.
    """
    device = draws.device
    uniform = draws.uniform(1 + 1 + source.n_harmonics)
    low, high = PITCH_SCALE
    fits = torch.tensor(lengths) - segment_frames + 1
    starts = (uniform[:, 1] * fits).long()
    flat = draws.normal(
        [channels * length + _source_size(source, segment_frames) for length in lengths]
    )
    posterior = torch.zeros(len(draws), channels, n_frames, device=device)
    for row, numbers, length in zip(posterior, flat, lengths, strict=True):
        row[:, :length] = numbers[: channels * length].view(channels, length)
    tails = [numbers[channels * length :] for numbers, length in zip(flat, lengths, strict=True)]
    return TrainingNoise(
        pitch_scale=_send(low + (high - low) * uniform[:, :1], device),
        posterior=posterior,
        starts=_send(starts, device),
        source=_source_noise(source, uniform[:, 2:], tails, device),
    )


def source_noise(draws: ClipDraws, n_frames: int, source: HarmonicSource) -> SourceNoise:
    """Draw the random part of a harmonic source for B clips of `n_frames` frames."""
    tails = draws.normal([_source_size(source, n_frames)] * len(draws))
    return _source_noise(source, draws.uniform(source.n_harmonics), tails, draws.device)


def diffusion_noise(
    draws: ClipDraws, steps: int, n_mels: int, n_frames: int
) -> tuple[Tensor, Tensor]:
    """Draw what a step of a diffusion model needs (spec_diffusion 6).

    Args:
        draws: of B clips.
        steps: how many steps of the schedule are trained.
        n_mels: M.
        n_frames: N.

    Returns:
        Times (B,) int64, uniform over 0 ... steps - 1, and noise (B, 1, M, N), on the device.
    """
    times = (draws.uniform(1)[:, 0] * steps).long()
    noise = torch.stack(draws.normal([n_mels * n_frames] * len(draws)))
    return _send(times, draws.device), noise.view(len(draws), 1, n_mels, n_frames)


def _source_size(source: HarmonicSource, n_frames: int) -> int:
    return n_frames * source.hop_length * source.n_harmonics


def _source_noise(
    source: HarmonicSource, phase: Tensor, flat: Sequence[Tensor], device: torch.device
) -> SourceNoise:
    phase[:, 0] = 0  # the fundamental's
    noise = torch.stack(list(flat)).view(len(flat), -1, source.n_harmonics)
    return SourceNoise(_send(phase, device), noise)


def _send(values: Tensor, device: torch.device) -> Tensor:
    """Move a few numbers to the device; nobody waits for it."""
    return values.to(device, non_blocking=True)
