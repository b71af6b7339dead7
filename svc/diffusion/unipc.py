"""UniPC (Zhao et al. 2023, arXiv:2302.04867) as so-vits-svc 4.1 calls it: clean mels, B₂(h) =
exp(h) − 1, second order, the last step of first (spec_diffusion 8.7).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from svc.diffusion.noise_schedule import Grid, rounded


class UnipcStep(NamedTuple):
    """Numbers of one step from a time s to the next one, t."""

    time: float
    """t as the network is told."""
    alpha: float
    sigma: float
    """At t."""
    keep: float
    """Factor of x."""
    gain: float
    """Factor of the direction, which is taken away."""
    ratio: float
    """(λ_r − λ_s) / h with r the time before s; negative. 0 in a first-order step."""
    rho_before: float
    rho_ahead: float
    """The corrector's weights of the difference to r and of the one to t."""


def unipc_steps(grid: Grid) -> tuple[UnipcStep, ...]:
    """Compute the numbers of every step.

    Args:
        grid: M + 1 times, M >= 2.

    Returns:
        M steps.
    """
    here, there = slice(None, -1), slice(1, None)
    h = grid.lambdas[there] - grid.lambdas[here]
    b = rounded(np.expm1, -h)
    ratio = np.zeros_like(h)
    ratio[1:-1] = -h[:-2] / h[1:-1]
    # The corrector makes the two integrals of exp(λ) times 1 and λ exact: [[1, 1], [ratio, 1]] ρ.
    first = b / -h - 1
    second = first / -h - np.float32(0.5)
    b1, b2 = first / b, 2 * second / b
    rho1 = (b1 - b2) / (1 - ratio)
    rho2 = b1 - rho1
    rho1[0], rho2[0] = 0, 0.5
    columns = (
        grid.times[there], grid.alpha[there], grid.sigma[there],
        grid.sigma[there] / grid.sigma[here], grid.alpha[there] * b, ratio, rho1, rho2,
    )  # fmt: skip
    return tuple(UnipcStep(*row) for row in zip(*(column.tolist() for column in columns)))


def unipc(
    x: Any,
    denoise: Callable[[Any, float], Any],
    steps: Sequence[UnipcStep],
    start: tuple[float, float, float],
) -> Any:
    """Take the noise out of x.

    Args:
        x: array or tensor at the first time.
        denoise: (x, time) -> the noise in x.
        steps: of `unipc_steps`.
        start: time, alpha and sigma of the first time.

    Returns:
        x at the last time.
    """
    time, alpha, sigma = start
    found = (x - sigma * denoise(x, time)) / alpha
    before = None
    for step in steps[:-1]:
        base = step.keep * x - step.gain * found
        slope = None if before is None else (before - found) / step.ratio
        guess = base if slope is None else base - (step.gain * 0.5) * slope
        # The corrector uses what was found at the guess; the corrected x is not evaluated again.
        ahead = (guess - step.sigma * denoise(guess, step.time)) / step.alpha
        change = step.rho_ahead * (ahead - found)
        x = base - step.gain * (change if slope is None else step.rho_before * slope + change)
        before, found = found, ahead
    return steps[-1].keep * x - steps[-1].gain * found
