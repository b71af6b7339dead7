"""The original's losses, gradient norms and weights after one step of the full-size nets
(spec_core 12), however the step is computed. Compiled nets are compared with these in test_compiling.py.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from svc.training.batches import Batch
from svc.training.step import Adversaries
from svc.training.task import StepDetail
from svc.vocoder.convolution import use_channels_last

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "reference_nets.py"
VARIANT = "default_vec768l12"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("svc_reference_nets_of_a_step", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def golden(shared: Path) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads((shared / "golden/golden_trainstep.json").read_text())
    return expected


def one_step(
    reference: ModuleType,
    shared: Path,
    *,
    bf16: bool = False,
    channels_last: bool = True,
    one_pass: bool | None = None,
) -> tuple[Adversaries, StepDetail]:
    config = reference.variant_config(shared, VARIANT)
    train = dataclasses.replace(config.train, fp16_run=bf16, half_type="bf16")
    nets = Adversaries(
        dataclasses.replace(config, train=train),
        torch.device("cpu"),
        generator=reference.build(shared, VARIANT),
        discriminator=reference.build_discriminator(),
    )
    for net in (nets.generator.eval(), nets.discriminator.eval()):
        use_channels_last(net, channels_last)
    nets.discriminator.one_pass = one_pass
    wav = torch.from_numpy(reference._uniform(9103, (2, 1, 20480), 0.3))
    batch = Batch(**reference.reference_inputs(config), wav=wav, names=("a", "b"))
    torch.manual_seed(1234)
    detail = nets.step(batch, 1, detailed=True)
    assert detail is not None
    return nets, detail


def check(
    nets: Adversaries,
    detail: StepDetail,
    expected: Mapping[str, Any],
    *,
    losses: float,
    norms: float,
    weights: float,
    flips: int = 0,
) -> None:
    """AdamW's first step is +-lr for every weight, whatever the gradient's size: a gradient near zero
    that rounding pushes to the other side moves the sum of a tensor by 2 lr. `flips` of them may be in
    a tensor that is too small for `weights`, a share of its sum, to hold any.
    """
    rate = 1e-4  # template's learning rate
    for name in ("disc", "mel", "kl", "fm", "gen", "lf0", "total"):
        assert float(detail.losses[name]) == pytest.approx(expected[name], rel=losses), name
    for name in ("g", "d"):
        norm = float(detail.gradient_norms[name])
        assert norm == pytest.approx(expected[f"grad_norm_{name}"], rel=norms), name
    for net, sums in (
        (nets.generator, expected["after_step_abs_sum"]),
        (nets.discriminator, expected["D_after_step_abs_sum"]),
    ):
        state = net.state_dict()
        for name, value in sums.items():
            found = float(state[name].double().abs().sum())
            assert found == pytest.approx(value, rel=weights, abs=2.5 * rate * flips), name


@pytest.mark.parametrize(
    "options",
    [
        {"channels_last": False, "one_pass": False},
        {"channels_last": False, "one_pass": True},
        {"channels_last": True, "one_pass": False},
        {"channels_last": True},
    ],
    ids=["plain", "one pass", "channels last", "as trained"],
)
def test_in_float32(reference: ModuleType, shared: Path, options: dict[str, Any]) -> None:
    check(
        *one_step(reference, shared, **options), golden(shared),
        losses=1e-5, norms=1e-4, weights=1e-6,
    )  # fmt: skip


def test_in_bfloat16(reference: ModuleType, shared: Path) -> None:
    check(
        *one_step(reference, shared, bf16=True), golden(shared),
        losses=2e-2, norms=5e-2, weights=1e-5, flips=1,
    )  # fmt: skip
