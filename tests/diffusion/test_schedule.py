from __future__ import annotations

import numpy as np
import pytest

from svc.diffusion.noise_schedule import make_grid
from svc.diffusion.schedule import schedule_arrays


def test_values_of_the_specification() -> None:
    arrays = schedule_arrays(1000)
    assert len(arrays) == 12
    assert all(a.dtype == np.float32 and a.shape == (1000,) for a in arrays.values())
    assert arrays["betas"][[0, -1]].tolist() == np.float32([1e-4, 0.02]).tolist()
    assert arrays["alphas_cumprod"][999] == pytest.approx(4.0358e-5, rel=1e-5)
    assert arrays["posterior_log_variance_clipped"][0] == pytest.approx(-46.0517, abs=1e-4)
    assert arrays["alphas_cumprod_prev"][0] == 1


def test_the_arrays_agree_with_each_other() -> None:
    a = {name: values.astype(np.float64) for name, values in schedule_arrays(250).items()}
    kept = a["alphas_cumprod"]
    np.testing.assert_allclose(kept[1:] / kept[:-1], 1 - a["betas"][1:], rtol=1e-6)
    np.testing.assert_allclose(a["sqrt_alphas_cumprod"] ** 2, kept, rtol=1e-6)
    np.testing.assert_allclose(
        a["sqrt_alphas_cumprod"] ** 2 + a["sqrt_one_minus_alphas_cumprod"] ** 2, 1, rtol=1e-6
    )
    np.testing.assert_allclose(
        a["sqrt_recip_alphas_cumprod"] ** 2 - a["sqrt_recipm1_alphas_cumprod"] ** 2, 1, rtol=1e-4
    )
    # A mel without noise stays where it is: its posterior mean is √ᾱ of the step before.
    mean = a["posterior_mean_coef1"] + a["posterior_mean_coef2"] * a["sqrt_alphas_cumprod"]
    np.testing.assert_allclose(mean, np.sqrt(a["alphas_cumprod_prev"]), rtol=1e-6)


@pytest.mark.parametrize("k_step", [60, 1000])
def test_the_grid_meets_the_steps_it_was_made_from(k_step: int) -> None:
    arrays = schedule_arrays(1000)
    grid = make_grid(arrays["betas"][:k_step], k_step - 1, trim=False)  # every step of the schedule
    back = np.arange(k_step)[::-1]
    np.testing.assert_allclose(grid.times, back, atol=1e-3)
    np.testing.assert_allclose(grid.alpha, arrays["sqrt_alphas_cumprod"][back], rtol=2e-4)
    np.testing.assert_allclose(grid.sigma**2 + grid.alpha**2, 1, atol=1e-6)
    assert np.all(np.diff(grid.lambdas) > 0)
    np.testing.assert_allclose(grid.lambdas, np.log(grid.alpha / grid.sigma), atol=2e-3)


@pytest.mark.parametrize(("timesteps", "left"), [(1000, 1000), (2000, 1418)])
def test_the_noisiest_end_is_left_out_where_asked(timesteps: int, left: int) -> None:
    betas = schedule_arrays(timesteps)["betas"]
    assert make_grid(betas, 4, trim=True).times[0] == pytest.approx(left - 1)
    assert make_grid(betas, 4, trim=False).times[0] == pytest.approx(timesteps - 1)
