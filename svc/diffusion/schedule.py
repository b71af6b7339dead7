"""How much noise a mel holds at each of N discrete steps (Ho et al. 2020, arXiv:2006.11239), the
linear schedule of so-vits-svc 4.1 (spec_diffusion 4). NumPy only: exported graphs are sampled
without torch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Schedule = Mapping[str, FloatArray]
"""The arrays of `schedule_arrays` by name; from there, or the buffers of a loaded checkpoint."""

_FIRST_BETA, _LAST_BETA = 1e-4, 0.02
_MIN_VARIANCE = 1e-20  # its logarithm must be finite; the first one is 0


def schedule_arrays(timesteps: int) -> dict[str, FloatArray]:
    """Return the schedule, computed in float64, under the names and in the order of checkpoints.

    Args:
        timesteps: N, at least 1.

    Returns:
        12 float32 arrays (N,).
    """
    beta = np.linspace(_FIRST_BETA, _LAST_BETA, timesteps)
    alpha = 1 - beta
    kept = np.cumprod(alpha)  # the share of the signal's power that is left
    before = np.append(1.0, kept[:-1])
    variance = beta * (1 - before) / (1 - kept)
    arrays = {
        "betas": beta,
        "alphas_cumprod": kept,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": np.sqrt(kept),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - kept),
        "log_one_minus_alphas_cumprod": np.log(1 - kept),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / kept),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / kept - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, _MIN_VARIANCE)),
        "posterior_mean_coef1": beta * np.sqrt(before) / (1 - kept),
        "posterior_mean_coef2": (1 - before) * np.sqrt(alpha) / (1 - kept),
    }
    return {name: values.astype(np.float32) for name, values in arrays.items()}
