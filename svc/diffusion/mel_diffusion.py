"""Noise into normalised mels and out again: the part of a diffusion checkpoint called `decoder`
(spec_diffusion 4, 8).

Letters: B batch, M mel bands, N frames, H hidden channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from svc.diffusion.denoiser import Denoiser
from svc.diffusion.samplers import Draw, Plan, make_plan
from svc.diffusion.schedule import schedule_arrays

_LOWEST, _HIGHEST = -12.0, 2.0  # natural log of mel energy that become -1 and 1


class MelDiffusion(nn.Module):
    """Adds noise to mels and takes it out again: the schedule, the range of mels, the denoiser.

    Args:
        denoiser: the network.
        timesteps: steps of the whole schedule.
    """

    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor
    spec_min: Tensor
    spec_max: Tensor

    def __init__(self, denoiser: Denoiser, timesteps: int) -> None:
        super().__init__()
        arrays = schedule_arrays(timesteps)
        self._schedule_names = tuple(arrays)
        for name, values in arrays.items():
            self.register_buffer(name, torch.from_numpy(values))
        # A checkpoint may carry other limits, for all bands or for each: (1, 1, 1 or M).
        self.register_buffer("spec_min", torch.full((1, 1, 1), _LOWEST))
        self.register_buffer("spec_max", torch.full((1, 1, 1), _HIGHEST))
        self.denoise_fn = denoiser

    def normalize(self, mel: Tensor) -> Tensor:
        """Log-mel (B, M, N) to -1 ... 1, (B, 1, M, N); nothing is clipped."""
        low, high = self.spec_min.mT, self.spec_max.mT
        return ((mel - low) / (high - low) * 2 - 1)[:, None]

    def denormalize(self, x: Tensor) -> Tensor:
        """Invert `normalize`: (B, 1, M, N) -> (B, M, N)."""
        low, high = self.spec_min.mT, self.spec_max.mT
        return (x[:, 0] + 1) / 2 * (high - low) + low

    def add_noise(self, x: Tensor, times: Tensor, noise: Tensor) -> Tensor:
        """Bring x (B, 1, M, N) to the noise level of times (B,) int64; noise is N(0, 1)."""
        kept = self.sqrt_alphas_cumprod[times][:, None, None, None]
        return kept * x + self.sqrt_one_minus_alphas_cumprod[times][:, None, None, None] * noise

    def plan(self, method: str | None, *, k_step: int, speedup: int, compat: bool = False) -> Plan:
        """Choose a sampler for the schedule of this checkpoint; see `make_plan`."""
        schedule = {
            name: getattr(self, name).detach().float().cpu().numpy()
            for name in self._schedule_names
        }
        return make_plan(schedule, method, k_step=k_step, speedup=speedup, compat=compat)

    def sample(
        self, x: Tensor, condition: Tensor, plan: Plan, draw: Draw, walls: Tensor | None = None
    ) -> Tensor:
        """Take the noise out of x; sums are taken in the precision of x, whatever the denoiser's.

        Args:
            x: (B, 1, M, N) with the noise of the plan's first time.
            condition: (B, H, N).
            plan: from `plan`.
            draw: returns N(0, 1) of the shape of x; only ddpm calls it.
            walls: (K,) frames between chunks, see `Denoiser.prepare`.

        Returns:
            (B, 1, M, N) normalised mel.
        """
        rows = {time: row for row, time in enumerate(dict.fromkeys(plan.times))}
        prepared = self.denoise_fn.prepare(condition, list(rows), walls)

        def denoise(noisy: Tensor, time: float) -> Tensor:
            return prepared(noisy, rows[time])

        sampled: Tensor = plan.run(x, denoise, draw)
        return sampled
