"""DPM-Solver and DPM-Solver++ (Lu et al. 2022, arXiv:2206.00927 and arXiv:2211.01095), the one form
that so-vits-svc 4.1 uses: multistep, second order (spec_diffusion 8.5, 8.6).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from svc.diffusion.noise_schedule import Grid, rounded

_FEW = 10  # with fewer steps than this the last one is of first order


class SolverStep(NamedTuple):
    """Numbers of one step from a time s to the next one, t."""

    time: float
    """s as the network is told."""
    alpha: float
    sigma: float
    """At s."""
    keep: float
    """Factor of x."""
    gain: float
    """Factor of the direction, which is taken away."""
    slope: float
    """Weight of the difference to the evaluation before; 0 in a first-order step."""


def solver_steps(grid: Grid, *, predicts_data: bool) -> tuple[SolverStep, ...]:
    """Compute the numbers of every step.

    Args:
        grid: M + 1 times, M >= 2.
        predicts_data: dpm-solver++ (works on clean mels) instead of dpm-solver (on noise).

    Returns:
        M steps.
    """
    here, there = slice(None, -1), slice(1, None)
    h = grid.lambdas[there] - grid.lambdas[here]
    if predicts_data:
        keep = grid.sigma[there] / grid.sigma[here]
        gain = grid.alpha[there] * rounded(np.expm1, -h)
    else:
        keep = rounded(np.exp, grid.log_alpha[there] - grid.log_alpha[here])
        gain = grid.sigma[there] * rounded(np.expm1, h)
    # 0.5 / r with r the step before over this one; the first step has none before.
    slope = np.zeros_like(h)
    slope[1:] = np.float32(0.5) / (h[:-1] / h[1:])
    if len(h) < _FEW:
        slope[-1] = 0
    columns = (grid.times[here], grid.alpha[here], grid.sigma[here], keep, gain, slope)
    return tuple(SolverStep(*row) for row in zip(*(column.tolist() for column in columns)))


def dpm_solver(
    x: Any,
    denoise: Callable[[Any, float], Any],
    steps: Sequence[SolverStep],
    *,
    predicts_data: bool,
) -> Any:
    """Take the noise out of x.

    Args:
        x: array or tensor at the first time.
        denoise: (x, time) -> the noise in x.
        steps: of `solver_steps`.
        predicts_data: as given there.

    Returns:
        x at the last time.
    """
    before = None
    for step in steps:
        found = denoise(x, step.time)
        if predicts_data:
            found = (x - step.sigma * found) / step.alpha
        direction = found
        if step.slope and before is not None:
            direction = found + step.slope * (found - before)
        x = step.keep * x - step.gain * direction
        before = found
    return x
