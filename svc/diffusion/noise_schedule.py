"""The discrete schedule as functions of continuous time, for DPM-Solver and UniPC (Lu et al. 2022,
arXiv:2206.00927, appendix D.4; so-vits-svc 4.1 behaviour, spec_diffusion 8.4).

What a solver needs is the values at a grid of times that is known before it starts, so they are
computed once, as arrays. At little noise 1 − exp(2 log α) loses most of its digits in float32 and
the reference has it so: every operation here is rounded to float32 in the same order. Functions are
evaluated in float64 first, so the rounding is the same on every CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from svc.diffusion.schedule import FloatArray

_LEAST_LAMBDA = -5.1  # half the log of signal to noise; below it there is nothing to solve for


def rounded(function: Callable[[Any], Any], values: FloatArray) -> FloatArray:
    """Return a function of float32 values, correctly rounded to float32."""
    result: FloatArray = np.asarray(function(values.astype(np.float64))).astype(np.float32)
    return result


@dataclass(frozen=True, eq=False)
class Grid:
    """The schedule at M + 1 times, from the noisiest on; float32 arrays (M + 1,)."""

    times: FloatArray
    """What the network is told: a step number, mostly fractional."""
    log_alpha: FloatArray
    alpha: FloatArray
    """Share of the signal, as an amplitude."""
    sigma: FloatArray
    """Share of the noise; alpha² + sigma² = 1."""
    lambdas: FloatArray
    """log(alpha / sigma); it grows along the grid."""


def make_grid(betas: FloatArray, n_steps: int, *, trim: bool) -> Grid:
    """Spread times evenly over a schedule.

    Args:
        betas: (K,) of the K steps to be undone, K >= 2.
        n_steps: M >= 1.
        trim: leave out the noisiest end, where signal over noise is below exp(−5.1).

    Returns:
        The grid.
    """
    log_alpha = _log_alpha(betas)
    n_knots = len(log_alpha)
    if trim:
        too_noisy = _lambda(log_alpha) < _LEAST_LAMBDA
        n_knots -= int(np.argmin(too_noisy[::-1]))  # only at the end: lambda falls with time
    knots = (np.arange(1, n_knots + 1) / n_knots).astype(np.float32)
    times = np.linspace(1, knots[0], n_steps + 1).astype(np.float32)
    found = np.interp(times, knots, log_alpha[:n_knots]).astype(np.float32)
    return Grid(
        times=(times - knots[0]) * np.float32(n_knots),
        log_alpha=found,
        alpha=rounded(np.exp, found),
        sigma=np.sqrt(_noise_power(found)),
        lambdas=_lambda(found),
    )


def _log_alpha(betas: FloatArray) -> FloatArray:
    # torch sums float32 numbers in float64 on the CPU and rounds each sum.
    total = np.cumsum(rounded(np.log, 1 - betas), dtype=np.float64)
    return (total / 2).astype(np.float32)


def _noise_power(log_alpha: FloatArray) -> FloatArray:
    power: FloatArray = 1 - rounded(np.exp, 2 * log_alpha)
    return power


def _lambda(log_alpha: FloatArray) -> FloatArray:
    found: FloatArray = log_alpha - np.float32(0.5) * rounded(np.log, _noise_power(log_alpha))
    return found
