"""Harmonic source of the neural source-filter generator: sines at multiples of F0, plus noise.

The one sine source of the project (Wang, Takaki and Yamagishi 2019, arXiv:1904.12088). F0 is
constant within a frame, so the running phase has a closed form: the phase at the start of every
frame is summed in float64 and each sample adds a multiple of the frame's step. No cumulative sum
over samples, and no phase drift over minutes of audio. The original sums float32 samples; its
arithmetic is kept behind `compat`, for comparisons down to the last bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svc.devices import exact_device

PhaseStart = Literal["sample", "frame"]


def draw_normal(
    shape: tuple[int, ...], *, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Draw float32 N(0, 1) numbers for `device`.

    With a generator they are drawn where the generator lives (a CPU generator gives the same
    numbers on any device); without one they come from the device's global generator.
    """
    where = device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=where).to(device)


@dataclass(frozen=True)
class SourceNoise:
    """The random part of the source, drawn ahead so that it can be given (export, tests) or
    seeded.
    """

    phase: Tensor
    """(B, H) start phase of each harmonic in turns, [0, 1); the fundamental's is 0."""
    noise: Tensor
    """(B, N, H) N(0, 1), N samples."""


class HarmonicSource(nn.Module):
    """F0 per frame -> excitation per sample (spec_core 3.2; spec_vocoder 3.1).

    Args:
        sampling_rate: Hz.
        hop_length: samples per frame.
        n_harmonics: sines, the fundamental included.
        amplitude: of each sine.
        noise_std: standard deviation of the noise added where voiced; unvoiced frames get amplitude
            / 3.
        phase_start: where the random start phase enters. "sample": at the first sample, a constant
            offset (synthesizer decoder). "frame": as an addition to every step of frame 0 (the mel
            vocoder does this; the overtones have a random frequency during its first hop).
        compat: for "sample", so-vits-svc 4.1's own float32 arithmetic: slower, equal up to 3e-6.
    """

    def __init__(
        self,
        *,
        sampling_rate: int,
        hop_length: int,
        n_harmonics: int = 9,
        amplitude: float = 0.1,
        noise_std: float = 0.003,
        phase_start: PhaseStart = "sample",
        compat: bool = False,
    ) -> None:
        super().__init__()
        self.sampling_rate = sampling_rate  # Hz
        self.hop_length = hop_length  # samples
        self.n_harmonics = n_harmonics
        self.amplitude = amplitude
        self.noise_std = noise_std
        self.phase_start = phase_start
        self.compat = compat and phase_start == "sample"
        self.l_linear = nn.Linear(n_harmonics, 1)

    def draw(
        self, batch: int, n_frames: int, *, generator: torch.Generator | None, device: torch.device
    ) -> SourceNoise:
        """Draw the random part in the original's order: phases U[0, 1) (B, H) on the CPU, then
        noise (B, N, H).

        Args:
            batch: B.
            n_frames: frames; N = n_frames · hop_length.
            generator: a CPU generator, or None for the global ones.
            device: where the numbers are needed.
        """
        phase = torch.rand(batch, self.n_harmonics, generator=generator)
        phase[:, 0] = 0
        shape = (batch, n_frames * self.hop_length, self.n_harmonics)
        noise = draw_normal(shape, generator=generator, device=device)
        return SourceNoise(phase.to(device), noise)

    def _turns(self, f0: Tensor, phase: Tensor) -> Tensor:
        """Phase of every sample in turns, float32 in [0, 1): (B, T, hop, H).

        The phase of sample j (0-based) of frame t is  start + hop · Σ_{s<t} r_s + (j + 1) · r_t
        with r = frac(h·f0/sr). r stays in float32, as the original has it (its rounding is part of
        the pitch); the sums are float64.
        """
        harmonics = torch.arange(1, self.n_harmonics + 1, device=f0.device, dtype=torch.float32)
        step = torch.remainder(f0.float()[..., None] * harmonics / self.sampling_rate, 1.0)
        if self.compat:
            return self._summed_turns(step, phase)
        if self.phase_start == "frame":
            step = torch.cat([step[:, :1] + phase[:, None], step[:, 1:]], dim=1)
        step = step.double()  # (B, T, H)
        before = torch.cumsum(step, dim=1) - step
        start = torch.remainder(before * self.hop_length, 1.0)
        if self.phase_start == "sample":
            start = start + phase[:, None].double()
        count = torch.arange(1, self.hop_length + 1, device=f0.device, dtype=torch.float64)
        turns = torch.addcmul(start[:, :, None], count[:, None], step[:, :, None])
        return torch.remainder(turns, 1.0).float()

    def _summed_turns(self, step: Tensor, phase: Tensor) -> Tensor:
        """Sum the steps (B, T, H) over samples in float32, taking 1 away at each wrap (spec_core
        3.2, point 2).
        """
        rows = step.repeat_interleave(self.hop_length, dim=1)
        rows[:, 0] += phase
        wrapped = torch.remainder(torch.cumsum(rows, dim=1), 1.0)
        rows[:, 1:] -= (wrapped[:, 1:] < wrapped[:, :-1]).to(rows.dtype)
        turns = torch.cumsum(rows, dim=1)
        return turns.view(step.shape[0], step.shape[1], self.hop_length, step.shape[2])

    @torch.no_grad()
    def sines(self, f0: Tensor, random: SourceNoise) -> Tensor:
        """Return the sines with their noise, before they are merged.

        Args:
            f0: (B, T) Hz; voiced where > 0.
            random: drawn by `draw`.

        Returns:
            (B, N, H) float32.
        """
        where = exact_device(f0.device)
        if where != f0.device:
            moved = SourceNoise(random.phase.to(where), random.noise.to(where))
            return self.sines(f0.to(where), moved).to(f0.device)
        waves = torch.sin(self._turns(f0, random.phase.float()) * (2 * math.pi)) * self.amplitude
        voiced = (f0 > 0).float()[:, :, None, None]  # (B, T, 1, 1)
        level = self.noise_std * voiced + self.amplitude / 3 * (1 - voiced)
        noise = random.noise.float().view_as(waves)
        return (waves * voiced + level * noise).flatten(1, 2)

    def forward(self, f0: Tensor, random: SourceNoise) -> Tensor:
        """Return the excitation.

        Args:
            f0: (B, T) Hz at frame rate; voiced where > 0.
            random: drawn by `draw`.

        Returns:
            (B, 1, N) in (-1, 1), the dtype of the weights; computed in float32/64 under autocast
            too.
        """
        with torch.autocast(f0.device.type, enabled=False):
            sines = self.sines(f0, random).to(self.l_linear.weight.dtype)
            merged = F.linear(sines, self.l_linear.weight, self.l_linear.bias)
            return torch.tanh(merged).transpose(1, 2)
