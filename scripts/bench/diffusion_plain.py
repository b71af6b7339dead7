"""The plain path that diffusion.py compares with: so-vits-svc 4.1's operations, on the same weights as ours.

Written from spec_diffusion 3 and 8: the condition is projected and the time embedded anew in every evaluation, the
outputs of the layers are stacked, the numbers of a step are looked up and computed as tensors when it comes to it, and
ddim and pndm make their last evaluation, which moves nothing. Used by scripts/bench/diffusion.py and
tests/scripts/test_bench_diffusion.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]
Draw = Callable[[], Tensor]

_NET = "decoder.denoise_fn."
_FEW = 10  # steps; the last one of fewer is of first order (dpm-solver)


class PlainDiffusion:
    """A diffusion model's samplers.

    Args:
        state: of `Unit2Mel`.
    """

    def __init__(self, state: State) -> None:
        self.net = {
            name.removeprefix(_NET): t for name, t in state.items() if name.startswith(_NET)
        }
        self.buffers = {
            name.removeprefix("decoder."): t
            for name, t in state.items()
            if name.startswith("decoder.") and not name.startswith(_NET)
        }
        names = {name.split(".")[1] for name in self.net if name.startswith("residual_layers.")}
        self.n_layers = len(names)
        self.evaluations = 0

    # ---- the network -----------------------------------------------------------------------------

    def denoise(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """(B, 1, M, N), (B,), (B, H, N) -> the noise (B, 1, M, N)."""
        self.evaluations += 1
        net = self.net
        x = F.relu(self._conv("input_projection", x[:, 0]))
        half = x.shape[1] // 2
        steps = torch.arange(half, device=x.device)
        omega = torch.exp(steps * -(math.log(10000) / (half - 1)))
        phase = time[:, None] * omega[None]
        told = torch.cat((phase.sin(), phase.cos()), dim=-1).to(x.dtype)
        told = F.linear(told, net["mlp.0.weight"], net["mlp.0.bias"])
        told = told * torch.tanh(F.softplus(told))
        told = F.linear(told, net["mlp.2.weight"], net["mlp.2.bias"])
        skips = []
        for index in range(self.n_layers):
            layer = f"residual_layers.{index}."
            step = F.linear(
                told,
                net[f"{layer}diffusion_projection.weight"],
                net[f"{layer}diffusion_projection.bias"],
            )
            y = self._conv(f"{layer}dilated_conv", x + step[:, :, None], padding=1)
            y = y + self._conv(f"{layer}conditioner_projection", condition)
            gate, filtered = torch.chunk(y, 2, dim=1)
            y = self._conv(f"{layer}output_projection", torch.sigmoid(gate) * torch.tanh(filtered))
            residual, skip = torch.chunk(y, 2, dim=1)
            x = (x + residual) / math.sqrt(2.0)
            skips.append(skip)
        x = torch.sum(torch.stack(skips), dim=0) / math.sqrt(self.n_layers)
        x = F.relu(self._conv("skip_projection", x))
        return self._conv("output_projection", x)[:, None]

    def _conv(self, name: str, x: Tensor, *, padding: int = 0) -> Tensor:
        return F.conv1d(x, self.net[f"{name}.weight"], self.net[f"{name}.bias"], padding=padding)

    # ---- samplers --------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        x: Tensor,
        condition: Tensor,
        method: str,
        *,
        k_step: int,
        speedup: int,
        draw: Draw,
    ) -> Tensor:
        """Take the noise out of x (B, 1, M, N); `evaluations` counts the network's."""
        self.evaluations = 0
        if method == "ddpm":
            return self._ddpm(x, condition, k_step, draw)
        if method == "ddim":
            return self._ddim(x, condition, k_step, speedup)
        if method == "pndm":
            return self._pndm(x, condition, k_step, speedup)
        schedule = _Schedule(self.buffers["betas"][:k_step], trim=method != "unipc")
        times = torch.linspace(1.0, 1.0 / schedule.count, k_step // speedup + 1).to(x.device)

        def told(x: Tensor, time: Tensor) -> Tensor:
            asked = ((time - 1.0 / schedule.count) * schedule.count).expand(len(x))
            noise = self.denoise(x, asked, condition)
            if method == "dpm-solver":
                return noise
            return (x - schedule.sigma(time) * noise) / schedule.alpha(time)

        if method == "unipc":
            return _unipc(x, told, schedule, times)
        return _dpm_solver(x, told, schedule, times, predicts_data=method == "dpm-solver++")

    def _at(self, name: str, index: Tensor) -> Tensor:
        return self.buffers[name].gather(-1, index).reshape(-1, 1, 1, 1)

    def _ddpm(self, x: Tensor, condition: Tensor, k_step: int, draw: Draw) -> Tensor:
        for number in reversed(range(k_step)):
            i = torch.full((len(x),), number, device=x.device, dtype=torch.long)
            noise = self.denoise(x, i, condition)
            clean = self._at("sqrt_recip_alphas_cumprod", i) * x
            clean = clean - self._at("sqrt_recipm1_alphas_cumprod", i) * noise
            clean = clean.clamp(-1.0, 1.0)
            mean = self._at("posterior_mean_coef1", i) * clean
            mean = mean + self._at("posterior_mean_coef2", i) * x
            spread = (0.5 * self._at("posterior_log_variance_clipped", i)).exp()
            x = mean + (i != 0).to(x.dtype).reshape(-1, 1, 1, 1) * spread * draw()
        return x

    def _jump(self, x: Tensor, noise: Tensor, i: Tensor, speedup: int) -> Tensor:
        """The transfer function of spec_diffusion 8.3."""
        a = self._at("alphas_cumprod", i)
        p = self._at("alphas_cumprod", torch.clamp(i - speedup, min=0))
        along = x / (a.sqrt() * (a.sqrt() + p.sqrt()))
        away = noise / (a.sqrt() * (((1 - p) * a).sqrt() + ((1 - a) * p).sqrt()))
        return x + (p - a) * (along - away)

    def _ddim(self, x: Tensor, condition: Tensor, k_step: int, speedup: int) -> Tensor:
        for number in reversed(range(0, k_step, speedup)):
            i = torch.full((len(x),), number, device=x.device, dtype=torch.long)
            noise = self.denoise(x, i, condition)
            a = self._at("alphas_cumprod", i)
            p = self._at("alphas_cumprod", torch.clamp(i - speedup, min=0))
            change = ((1 - p) / p).sqrt() - ((1 - a) / a).sqrt()
            x = p.sqrt() * (x / a.sqrt() + change * noise)
        return x

    def _pndm(self, x: Tensor, condition: Tensor, k_step: int, speedup: int) -> Tensor:
        found: list[Tensor] = []
        for number in reversed(range(0, k_step, speedup)):
            i = torch.full((len(x),), number, device=x.device, dtype=torch.long)
            noise = self.denoise(x, i, condition)
            if not found:
                ahead = self._jump(x, noise, i, speedup)
                later = torch.clamp(i - speedup, min=0)
                direction = (noise + self.denoise(ahead, later, condition)) / 2
            elif len(found) == 1:
                direction = (3 * noise - found[-1]) / 2
            elif len(found) == 2:
                direction = (23 * noise - 16 * found[-1] + 5 * found[-2]) / 12
            else:
                direction = (55 * noise - 59 * found[-1] + 37 * found[-2] - 9 * found[-3]) / 24
            x = self._jump(x, direction, i, speedup)
            found = [*found, noise][-4:]
        return x


class _Schedule:
    """The continuous schedule of spec_diffusion 8.4: each look-up sorts the time among the knots."""

    def __init__(self, betas: Tensor, *, trim: bool) -> None:
        log_alpha = 0.5 * torch.log(1 - betas).cumsum(0)
        if trim:
            lambdas = log_alpha - 0.5 * torch.log(1 - torch.exp(2 * log_alpha))
            kept = len(lambdas) - int((lambdas.flip(0) >= -5.1).to(torch.int).argmax())
            log_alpha = log_alpha[:kept]
        self.count = len(log_alpha)
        self.values = log_alpha
        self.knots = torch.linspace(0.0, 1.0, self.count + 1)[1:].to(betas)

    def log_alpha(self, time: Tensor) -> Tensor:
        _, order = torch.sort(torch.cat((time.reshape(1), self.knots)))
        place = torch.clamp(torch.argmin(order), 1, self.count - 1)
        left, right = self.knots[place - 1], self.knots[place]
        share = (time - left) / (right - left)
        return self.values[place - 1] + share * (self.values[place] - self.values[place - 1])

    def alpha(self, time: Tensor) -> Tensor:
        return torch.exp(self.log_alpha(time))

    def sigma(self, time: Tensor) -> Tensor:
        return torch.sqrt(1 - torch.exp(2 * self.log_alpha(time)))

    def lambda_(self, time: Tensor) -> Tensor:
        log_alpha = self.log_alpha(time)
        return log_alpha - 0.5 * torch.log(1 - torch.exp(2 * log_alpha))


Told = Callable[[Tensor, Tensor], Tensor]


def _dpm_solver(
    x: Tensor, told: Told, schedule: _Schedule, times: Tensor, *, predicts_data: bool
) -> Tensor:
    steps = len(times) - 1
    before: Tensor | None = None
    for index in range(steps):
        s, t = times[index], times[index + 1]
        found = told(x, s)
        h = schedule.lambda_(t) - schedule.lambda_(s)
        direction = found
        if before is not None and not (index == steps - 1 and steps < _FEW):
            r0 = (schedule.lambda_(s) - schedule.lambda_(times[index - 1])) / h
            direction = found + 0.5 * (1.0 / r0) * (found - before)
        if predicts_data:
            x = schedule.sigma(t) / schedule.sigma(s) * x
            x = x - schedule.alpha(t) * torch.expm1(-h) * direction
        else:
            x = torch.exp(schedule.log_alpha(t) - schedule.log_alpha(s)) * x
            x = x - schedule.sigma(t) * torch.expm1(h) * direction
        before = found
    return x


def _unipc(x: Tensor, told: Told, schedule: _Schedule, times: Tensor) -> Tensor:
    steps = len(times) - 1
    found, before = told(x, times[0]), None
    for index in range(steps):
        s, t = times[index], times[index + 1]
        h = schedule.lambda_(t) - schedule.lambda_(s)
        gain = torch.expm1(-h)
        base = schedule.sigma(t) / schedule.sigma(s) * x - schedule.alpha(t) * gain * found
        guess, ratio, slope = base, None, None
        if before is not None and index < steps - 1:
            ratio = (schedule.lambda_(times[index - 1]) - schedule.lambda_(s)) / h
            slope = (before - found) / ratio
            guess = base - schedule.alpha(t) * gain * 0.5 * slope
        if index == steps - 1:
            return guess
        ahead = told(guess, t)
        if ratio is None or slope is None:
            change = 0.5 * (ahead - found)
        else:
            first = gain / -h - 1
            second = first / -h - 0.5
            one = torch.ones_like(ratio)
            matrix = torch.stack([torch.stack([one, one]), torch.stack([ratio, one])])
            rho = torch.linalg.solve(matrix, torch.stack([first / gain, 2 * second / gain]))
            change = rho[0] * slope + rho[1] * (ahead - found)
        x = base - schedule.alpha(t) * gain * change
        before, found = found, ahead
    return x
