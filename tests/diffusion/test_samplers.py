"""Samplers: reference outputs, a mel that is known exactly, numbers of evaluations, refusals."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from svc.diffusion import METHODS, Plan, Unit2Mel, make_plan, sampler_name, schedule_arrays
from svc.errors import ConfigError

FASTER = ("ddim", "pndm", "dpm-solver", "dpm-solver++", "unipc")
SHALLOW = [
    (method, *steps) for method in FASTER for steps in ((100, 10), (95, 10), (60, 10), (200, 7))
]
SCHEDULE = schedule_arrays(1000)
Array = npt.NDArray[np.float64]


def plan_of(method: str, k_step: int, speedup: int, **options: Any) -> Plan:
    return make_plan(SCHEDULE, method, k_step=k_step, speedup=speedup, **options)


# ---------------------------------------------------------------- reference outputs


@pytest.mark.parametrize(("method", "k_step", "speedup"), SHALLOW)
def test_golden_refinement(
    reference: Unit2Mel,
    arrays: dict[str, Any],
    inputs: dict[str, Tensor],
    clean: Tensor,
    drawn_like_a_mel: Callable[[], Tensor],
    method: str,
    k_step: int,
    speedup: int,
) -> None:
    torch.manual_seed(5)
    options = {"k_step": k_step, "method": method, "speedup": speedup}
    found = reference.infer(**inputs, mel=clean, **options, noise=drawn_like_a_mel())
    expected = arrays[f"{method}_k{k_step}_s{speedup}"]
    assert np.abs(found.mT.numpy() - expected).max() <= 1e-5


@pytest.mark.parametrize("method", FASTER)
def test_golden_from_noise_alone(
    reference: Unit2Mel, arrays: dict[str, Any], inputs: dict[str, Tensor], method: str
) -> None:
    noise = torch.from_numpy(arrays["noise_only"])
    found = reference.infer(**inputs, method=method, speedup=50, noise=noise)
    expected = arrays[f"only_{method}_s50"]
    assert np.abs(found.mT.numpy() - expected).max() <= 1e-5 * np.abs(expected).max()


def test_golden_ddpm(
    reference: Unit2Mel,
    arrays: dict[str, Any],
    inputs: dict[str, Tensor],
    clean: Tensor,
    drawn_like_a_mel: Callable[[], Tensor],
) -> None:
    torch.manual_seed(7)
    first = drawn_like_a_mel()
    later = iter([torch.randn(1, 1, 8, 20).double() for _ in range(30)])
    decoder = reference.decoder
    x = decoder.add_noise(decoder.normalize(clean), torch.tensor([29]), first)
    plan = decoder.plan(None, k_step=30, speedup=1)
    x = decoder.sample(x, reference.condition(**inputs), plan, lambda: next(later))
    assert np.abs(decoder.denormalize(x).mT.numpy() - arrays["ddpm_k30"]).max() <= 1e-5
    assert not list(later)  # one draw per step, the last one too


# ---------------------------------------------------------------- properties


def levels(time: float) -> tuple[float, float]:
    """(alpha, sigma) at a time between the steps."""
    log_alpha = np.log(SCHEDULE["alphas_cumprod"].astype(np.float64)) / 2
    alpha = float(np.exp(np.interp(time, np.arange(1000), log_alpha)))
    return alpha, float(np.sqrt(1 - alpha**2))


@pytest.mark.parametrize("method", FASTER)
@pytest.mark.parametrize(
    ("k_step", "speedup"), [(100, 10), (95, 10), (200, 7), (1000, 50), (20, 10)]
)
def test_a_network_that_knows_the_mel_finds_it(
    method: str, k_step: int, speedup: int, rng: np.random.Generator
) -> None:
    """With the true noise at every time, each jump lands exactly: x = √ᾱ mel + √(1 − ᾱ) noise."""
    mel, noise = rng.uniform(-1, 1, (2, 1, 1, 8, 20))
    plan = plan_of(method, k_step, speedup)
    alpha, sigma = levels(plan.times[0])

    def denoise(x: Array, time: float) -> Array:
        alpha, sigma = levels(time)
        return (x - alpha * mel) / sigma

    found = plan.run(alpha * mel + sigma * noise, denoise, lambda: pytest.fail("drew noise"))
    alpha, sigma = levels(0)
    # Where little noise is left, float32 has few digits of how little (see noise_schedule.py).
    np.testing.assert_allclose(found, alpha * mel + sigma * noise, atol=1e-3)


def test_ddpm_with_a_network_that_knows_the_mel(rng: np.random.Generator) -> None:
    mel, noise = rng.uniform(-1, 1, (2, 1, 1, 8, 20))

    def denoise(x: Array, time: float) -> Array:
        alpha, sigma = levels(time)
        return (x - alpha * mel) / sigma

    plan = plan_of("ddpm", 200, 1)
    alpha, sigma = levels(199)
    draws = itertools.count()

    def draw() -> Array:
        next(draws)
        return rng.standard_normal(mel.shape)

    found = plan.run(alpha * mel + sigma * noise, denoise, draw)
    np.testing.assert_allclose(found, mel, atol=1e-5)
    assert next(draws) == 200


@pytest.mark.parametrize("method", METHODS)
def test_arrays_and_tensors_give_the_same(method: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 1, 6, 9)).astype(np.float32)
    draws = rng.standard_normal((30, 2, 1, 6, 9)).astype(np.float32)
    plan = plan_of(method, 30, 1 if method == "ddpm" else 7)

    def denoise(noisy: Any, time: float) -> Any:
        assert type(time) is float
        return 0.3 * noisy + 0.001 * time

    one, two = iter(draws), iter(torch.from_numpy(draws))
    array = plan.run(x, denoise, lambda: next(one))
    tensor = plan.run(torch.from_numpy(x), denoise, lambda: next(two))
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.float32
    assert isinstance(tensor, Tensor)
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-5, atol=1e-5)


def test_the_samplers_need_no_torch() -> None:
    code = (
        "import sys, numpy as np; from svc.diffusion import make_plan, schedule_arrays\n"
        "plan = make_plan(schedule_arrays(100), 'unipc', k_step=50, speedup=10)\n"
        "plan.run(np.ones(3, 'f4'), lambda x, t: x, None)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("method", "k_step", "speedup", "count"),
    [
        ("ddpm", 100, 10, 100),
        ("ddim", 100, 10, 9),
        ("ddim", 95, 10, 9),
        ("pndm", 100, 10, 10),
        ("dpm-solver", 95, 10, 9),
        ("dpm-solver++", 100, 10, 10),
        ("unipc", 200, 7, 28),
    ],
)
def test_every_announced_time_is_asked_for_once(
    method: str, k_step: int, speedup: int, count: int
) -> None:
    plan = plan_of(method, k_step, speedup)
    asked: list[float] = []

    def denoise(x: Array, time: float) -> Array:
        asked.append(time)
        return 0.1 * x

    plan.run(np.ones(4), denoise, lambda: np.zeros(4))
    assert asked == list(plan.times)
    assert len(asked) == count
    assert max(asked) <= k_step - 1
    assert min(asked) >= 0


@pytest.mark.parametrize("method", ["ddim", "pndm"])
@pytest.mark.parametrize(("k_step", "speedup"), [(100, 10), (95, 10), (21, 10)])
def test_the_evaluation_that_is_left_out_changes_nothing(
    method: str, k_step: int, speedup: int, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((3, 5)).astype(np.float32)
    ours, original = (plan_of(method, k_step, speedup, compat=c) for c in (False, True))
    assert original.times == (*ours.times, 0.0)
    runs = [p.run(x, lambda y, t: np.sin(y + t), x.copy) for p in (ours, original)]
    assert np.array_equal(*runs)


@pytest.mark.parametrize("method", ["ddim", "pndm"])
@pytest.mark.parametrize(("k_step", "speedup"), [(10, 10), (7, 10), (2, 50)])
def test_fewer_steps_than_the_speedup_are_one_jump(method: str, k_step: int, speedup: int) -> None:
    """The original leaves the noise where it is, or crashes."""
    x = np.ones(3)

    def denoise(noisy: Array, time: float) -> Array:
        return 0.5 * noisy

    ours, original = (plan_of(method, k_step, speedup, compat=c) for c in (False, True))
    assert ours.times[0] == k_step - 1
    assert np.all(ours.run(x, denoise, x.copy) < 1)
    assert np.array_equal(original.run(x, denoise, x.copy), x)
    assert np.array_equal(plan_of(method, 1, speedup).run(x, denoise, x.copy), x)


# ---------------------------------------------------------------- choice and refusals


def test_speedup_1_is_ddpm_whatever_the_method() -> None:
    assert sampler_name("unipc", 1) == sampler_name(None, 10) == sampler_name("ddpm", 10) == "ddpm"
    assert sampler_name("unipc", 2) == "unipc"
    assert plan_of("unipc", 20, 1).times == tuple(map(float, range(19, -1, -1)))


@pytest.mark.parametrize(
    ("method", "k_step", "speedup", "words"),
    [
        (
            "dpm-solver++",
            15,
            10,
            ["k_step 15", "makes 1 step and", "20 or more", "infer.speedup 7 or"],
        ),
        ("unipc", 3, 10, ["20 or more", "infer.method ddim"]),
        ("dpm-solver", 9, 10, ["makes no step and dpm-solver needs 2", "infer.speedup 4 or less"]),
        ("euler", 100, 10, ['"euler" is unknown', "ddpm, ddim, pndm", "unipc"]),
        ("euler", 100, 1, ['"euler" is unknown']),
        ("ddim", 0, 10, ["k_step is 0", "1 or more"]),
        ("ddim", 100, 0, ["infer.speedup is 0"]),
        ("ddim", 1001, 10, ["k_step 1001 is above the model's 1000"]),
    ],
)
def test_what_cannot_work_is_said(method: str, k_step: int, speedup: int, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_of(method, k_step, speedup)
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert "\n" not in text


def test_what_the_refusal_advises_works() -> None:
    for k_step, speedup in ((20, 10), (15, 7), (9, 4)):
        assert len(plan_of("dpm-solver++", k_step, speedup).times) == 2
