"""From noise to mel: the samplers by name, and the three that walk the discrete steps.

A `Plan` holds everything that is known before the first evaluation: the times at which the network
will be asked (so it can prepare for all of them at once) and each step's numbers as plain floats.
Running it is arithmetic with those floats on whatever x is, a tensor or a NumPy array; this file
and the solvers import no torch. So-vits-svc 4.1 behaviour, spec_diffusion 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from svc.diffusion.dpm_solver import dpm_solver, solver_steps
from svc.diffusion.noise_schedule import make_grid
from svc.diffusion.schedule import Schedule
from svc.diffusion.unipc import unipc, unipc_steps
from svc.errors import ConfigError

METHODS = ("ddpm", "ddim", "pndm", "dpm-solver", "dpm-solver++", "unipc")
"""Names for `infer.method` of a diffusion config."""

Array = Any  # a torch tensor or a NumPy array
Denoise = Callable[[Array, float], Array]  # (x, time) -> the noise in x
Draw = Callable[[], Array]  # N(0, 1) of the shape of x

_SOLVERS = ("dpm-solver", "dpm-solver++", "unipc")
_LEAST_SOLVER_STEPS = 2


@dataclass(frozen=True)
class Plan:
    """A sampler with all its numbers."""

    method: str
    times: tuple[float, ...]
    """Time of every evaluation, in order."""
    run: Callable[[Array, Denoise, Draw], Array]
    """(noisy x, denoise, draw) -> x without its noise."""


def sampler_name(method: str | None, speedup: int) -> str:
    """Return which sampler a config's `infer` section means: speedup 1 is ddpm, whatever its method.

    Args:
        method: one of `METHODS`; None is ddpm.
        speedup: how many times fewer evaluations than ddpm; at least 1.

    Raises:
        ConfigError: unknown method, or a speedup below 1.
    """
    if method is not None and method not in METHODS:
        raise ConfigError(f'infer.method "{method}" is unknown; use {", ".join(METHODS)}')
    if speedup < 1:
        raise ConfigError(f"infer.speedup is {speedup}; use 1 (ddpm) or more, 10 is usual")
    return "ddpm" if method is None or speedup == 1 else method


def check_sampling(method: str | None, *, k_step: int, speedup: int) -> None:
    """Refuse what no sampler can do, before any work.

    Args:
        method: one of `METHODS`, or None.
        k_step: K, how many steps of noise are to be undone.
        speedup: of the config.

    Raises:
        ConfigError: unknown method, k_step or speedup below 1, or too few steps for a solver; says
            which values work.
    """
    name = sampler_name(method, speedup)
    if k_step < 1:
        raise ConfigError(f"k_step is {k_step}; use 1 or more, 100 is usual")
    n_steps = k_step // speedup
    if name in _SOLVERS and n_steps < _LEAST_SOLVER_STEPS:
        most = k_step // _LEAST_SOLVER_STEPS
        ways = [f"a k_step of {_LEAST_SOLVER_STEPS * speedup} or more", "infer.method ddim"]
        if most > 1:
            ways.insert(1, f"infer.speedup {most} or less")
        raise ConfigError(
            f"k_step {k_step} with infer.speedup {speedup} makes {n_steps or 'no'} step and {name} "
            f"needs {_LEAST_SOLVER_STEPS}; use {', or '.join(ways)}"
        )


def make_plan(
    schedule: Schedule, method: str | None, *, k_step: int, speedup: int, compat: bool = False
) -> Plan:
    """Choose a sampler and compute its numbers.

    Args:
        schedule: N steps.
        method: one of `METHODS`; None is ddpm.
        k_step: K, how many steps of noise x holds, 1 ... N.
        speedup: S; ddim and pndm evaluate every S-th step, the solvers spread K // S. With 1 it is
            ddpm, whatever the method.
        compat: ddim and pndm keep the original's last evaluation, which moves nothing, and where
            K <= S its only step, which moves nothing either (K − 1 -> 0 is taken otherwise).

    Returns:
        The plan.

    Raises:
        ConfigError: see `check_sampling`; or k_step is above N.
    """
    check_sampling(method, k_step=k_step, speedup=speedup)
    n_steps = len(schedule["betas"])
    if k_step > n_steps:
        raise ConfigError(f"k_step {k_step} is above the model's {n_steps} steps; use at most that")
    name = sampler_name(method, speedup)
    if name == "ddpm":
        return _ddpm_plan(schedule, k_step)
    if name in ("ddim", "pndm"):
        return _discrete_plan(name, schedule, k_step, speedup, compat)
    return _solver_plan(name, schedule, k_step, speedup)


# ---------------------------------------------------------------- ddpm


class DdpmStep(NamedTuple):
    """Numbers of the step from i to i − 1."""

    time: float
    recip: float
    recipm1: float
    """√(1/ᾱ) and √(1/ᾱ − 1): they make clean mel of x and its noise."""
    coef1: float
    coef2: float
    """The posterior mean's factors of clean mel and x."""
    std: float
    """Of the noise put back; 0 in the last step."""


def ddpm(x: Array, denoise: Denoise, draw: Draw, steps: Sequence[DdpmStep]) -> Array:
    """Undo one step after the other (Ho et al. 2020, algorithm 2); the clean mel is clipped to
    [-1, 1].
    """
    for step in steps:
        clean = (step.recip * x - step.recipm1 * denoise(x, step.time)).clip(-1.0, 1.0)
        mean = step.coef1 * clean + step.coef2 * x
        # Drawn in the last step too, as the original does.
        x = mean + step.std * draw()
    return x


def _ddpm_plan(schedule: Schedule, k_step: int) -> Plan:
    std = np.exp(0.5 * schedule["posterior_log_variance_clipped"].astype(np.float64))
    std[0] = 0
    columns = (
        np.arange(k_step, dtype=np.float64),
        schedule["sqrt_recip_alphas_cumprod"],
        schedule["sqrt_recipm1_alphas_cumprod"],
        schedule["posterior_mean_coef1"],
        schedule["posterior_mean_coef2"],
        std.astype(np.float32),
    )
    steps = [DdpmStep(*row) for row in zip(*(column[:k_step].tolist() for column in columns))]
    steps.reverse()

    def run(x: Array, denoise: Denoise, draw: Draw) -> Array:
        return ddpm(x, denoise, draw, steps)

    return Plan("ddpm", tuple(step.time for step in steps), run)


# ---------------------------------------------------------------- ddim, pndm


class JumpStep(NamedTuple):
    """Numbers of a jump from step i to an earlier one."""

    time: float
    next_time: float
    keep: float
    lose: float
    """x -> keep · x − lose · noise."""


def ddim(x: Array, denoise: Denoise, steps: Sequence[JumpStep]) -> Array:
    """Jump without new noise (Song et al. 2021, arXiv:2010.02502, eq. 12 with σ = 0)."""
    for step in steps:
        x = step.keep * x - step.lose * denoise(x, step.time)
    return x


# Adams-Bashforth: the weights of the newest and of older predictions, by how many there are.
_ADAMS = (
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def pndm(x: Array, denoise: Denoise, steps: Sequence[JumpStep]) -> Array:
    """Jump along a direction fitted to the last four (Liu et al. 2022, arXiv:2202.09778, PLMS)."""
    found: list[Array] = []  # newest first
    for step in steps:
        noise = denoise(x, step.time)
        if not found:
            ahead = denoise(step.keep * x - step.lose * noise, step.next_time)
            direction = (noise + ahead) / 2
        else:
            weights = _ADAMS[min(len(found), 3) - 1]
            direction = weights[0] * noise
            for weight, older in zip(weights[1:], found):
                direction = direction + weight * older
        x = step.keep * x - step.lose * direction
        found = [noise, *found[:2]]
    return x


def _discrete_plan(name: str, schedule: Schedule, k_step: int, speedup: int, compat: bool) -> Plan:
    index = np.arange(0, k_step, speedup)[::-1]
    later = np.maximum(index - speedup, 0)
    if not compat:
        # From 0 it goes to 0: an evaluation for nothing. Where that is the only step, the noise of
        # K − 1 steps would stay in the mel.
        index, later = index[:-1], later[:-1]
        if not len(index) and k_step > 1:
            index, later = np.array([k_step - 1]), np.array([0])
    kept = schedule["alphas_cumprod"].astype(np.float64)
    a, p = kept[index], kept[later]
    # Both papers write √p (x/√a + (√(1/p − 1) − √(1/a − 1)) ε), each in its own way.
    keep = np.sqrt(p / a)
    lose = np.sqrt(p) * (np.sqrt(1 / a - 1) - np.sqrt(1 / p - 1))
    columns = (index.astype(np.float64), later.astype(np.float64), keep, lose)
    steps = [JumpStep(*row) for row in zip(*(column.tolist() for column in columns))]
    times = [step.time for step in steps]
    if name == "pndm" and steps:
        times.insert(1, steps[0].next_time)
    sampler = ddim if name == "ddim" else pndm

    def run(x: Array, denoise: Denoise, draw: Draw) -> Array:
        return sampler(x, denoise, steps)

    return Plan(name, tuple(times), run)


# ---------------------------------------------------------------- solvers in continuous time


def _solver_plan(name: str, schedule: Schedule, k_step: int, speedup: int) -> Plan:
    grid = make_grid(schedule["betas"][:k_step], k_step // speedup, trim=name != "unipc")
    times = tuple(grid.times[:-1].tolist())
    solve: Callable[[Array, Denoise], Array]
    if name == "unipc":
        start = (times[0], float(grid.alpha[0]), float(grid.sigma[0]))
        solve = partial(unipc, steps=unipc_steps(grid), start=start)
    else:
        on_data = name == "dpm-solver++"
        steps = solver_steps(grid, predicts_data=on_data)
        solve = partial(dpm_solver, steps=steps, predicts_data=on_data)

    def run(x: Array, denoise: Denoise, draw: Draw) -> Array:
        return solve(x, denoise)

    return Plan(name, times, run)
