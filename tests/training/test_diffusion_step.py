"""One step of a diffusion model: rate, numbers, precision (spec_diffusion 6 and 11)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from svc.config.diffusion import DiffusionTrain
from svc.errors import ConfigError
from svc.training.diffusion_clips import DiffusionBatch, DiffusionDataset, batch_of
from svc.training.diffusion_step import DiffusionLearner, amp_dtype, learning_rate

CPU = torch.device("cpu")


@pytest.fixture
def batch(make_run: Callable[..., Any]) -> tuple[Any, DiffusionBatch]:
    """A run and a batch of three clips."""
    run = make_run()
    paths = [Path(f"clips/{name}.wav") for name in ("alice/0", "bob/1", "alice/2")]
    clips = DiffusionDataset(run.config, run.settings, paths)
    return run, batch_of([clips.crop(index, 1) for index in range(3)])


def learner(run: Any, **train: Any) -> DiffusionLearner:
    config = run.config
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **train))
    return DiffusionLearner(config, CPU, n_mels=16, seed=7)


def flat(net: DiffusionLearner) -> torch.Tensor:
    return torch.cat([value.detach().reshape(-1) for value in net.model.parameters()])


def test_rate_of_every_step() -> None:
    """spec_diffusion 11: lr · gamma^⌊max(n − 2, 0) / decay_step⌋ for update number n."""
    train = DiffusionTrain(lr=0.8, gamma=0.5, decay_step=3)
    rates = [learning_rate(train, step) for step in range(1, 12)]
    assert rates == [0.8, 0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2, 0.2, 0.2, 0.1]
    assert learning_rate(DiffusionTrain(), 100001) == 1e-4
    assert learning_rate(DiffusionTrain(), 100002) == 5e-5


def test_loss_falls_on_a_fixed_batch(batch: tuple[Any, DiffusionBatch]) -> None:
    """The same clips, times and noise: 60 steps bring the loss below a tenth (measured: 0.0063 of
    it).
    """
    run, clips = batch
    run.edit(model={"n_chans": 64})
    net = learner(run, lr=1e-2, decay_step=1000)
    losses = []
    for _ in range(60):
        detail = net.step(clips, 1, detailed=True)
        assert detail is not None
        losses.append(float(detail.loss))
    assert 0.8 < losses[0] < 1.2  # a fresh net tells no noise, whose mean square is 1
    assert losses[-1] < losses[0] / 10
    assert float(detail.gradient_norm) > 0


def test_a_step_draws_from_seed_and_number_alone(batch: tuple[Any, DiffusionBatch]) -> None:
    run, clips = batch
    results = []
    for number, disturbance in ((3, 0), (3, 1), (4, 0)):
        net = learner(run)
        torch.manual_seed(disturbance)
        torch.randn(10 * disturbance)
        net.step(clips, number, detailed=False)
        results.append(flat(net))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    before = torch.get_rng_state()
    learner(run).step(clips, 1, detailed=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_measuring_changes_nothing(batch: tuple[Any, DiffusionBatch]) -> None:
    run, clips = batch
    nets = [learner(run), learner(run)]
    for net, detailed in zip(nets, (True, False), strict=True):
        net.step(clips, 1, detailed=detailed)
    assert torch.equal(flat(nets[0]), flat(nets[1]))


def test_the_config_reaches_the_optimizer(batch: tuple[Any, DiffusionBatch]) -> None:
    run, clips = batch
    net = learner(run, weight_decay=0.25, lr=0.5, decay_step=1, gamma=0.1)
    (group,) = net.optimizer.param_groups
    assert (group["weight_decay"], group["betas"], group["eps"]) == (0.25, (0.9, 0.999), 1e-8)
    assert type(net.optimizer) is torch.optim.AdamW
    net.step(clips, 4, detailed=False)
    assert net.learning_rate == pytest.approx(0.005, rel=1e-12)


def test_bfloat16_on_the_cpu_learns_the_same(batch: tuple[Any, DiffusionBatch]) -> None:
    """Loss within 1 %, gradients in the same direction (cosine above 0.999)."""
    run, clips = batch
    losses, gradients = [], []
    for kind in ("fp32", "bf16"):
        net = learner(run, amp_dtype=kind)
        for step in range(1, 4):  # a fresh net's last weights are zero: most gradients too
            detail = net.step(clips, step, detailed=True)
        assert detail is not None
        losses.append(float(detail.loss))
        assert all(value.dtype == torch.float32 for value in net.model.parameters())
        parts = [value.grad for value in net.model.parameters() if value.grad is not None]
        gradients.append(torch.cat([part.reshape(-1) for part in parts]))
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert losses[1] != losses[0]
    assert float(torch.cosine_similarity(*gradients, dim=0)) > 0.999


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("fp16", r'"train.amp_dtype": "fp16" needs a CUDA device .* set it to "bf16"'),
        ("half", '"train.amp_dtype" is "half"; use fp32, fp16, bf16'),
    ],
)
def test_precisions_that_cannot_be_had(kind: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        amp_dtype(DiffusionTrain(amp_dtype=kind), CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_half_precision_on_a_gpu(batch: tuple[Any, DiffusionBatch], kind: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    run, clips = batch
    config = run.config
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, amp_dtype=kind))
    net = DiffusionLearner(config, torch.device("cuda"), n_mels=16, seed=7)
    losses = []
    for _ in range(60):
        detail = net.step(clips, 1, detailed=True)
        assert detail is not None
        losses.append(float(detail.loss))
    net.guard.drain()
    assert losses[-1] < losses[0] / 2


def test_a_loss_that_is_no_number_is_left_out_and_told(batch: tuple[Any, DiffusionBatch]) -> None:
    """It used to be an error here: what follows from it is the run's business (`test_trouble.py`)."""
    run, clips = batch
    mel = clips.mel.clone()
    mel[1, 3, 2] = torch.inf
    net = learner(run)
    net.step(clips, 11, detailed=False)
    before = flat(net)
    net.step(dataclasses.replace(clips, mel=mel), 12, detailed=False)
    assert torch.equal(flat(net), before)
    assert {float(state["step"]) for state in net.optimizer.state.values()} == {1.0}
    good, bad = net.guard.drain()
    assert not good.bad
    assert bad.bad
    assert "loss" in bad.strange
    assert bad.suspects == ("clips/bob/1.wav",)
    net.step(clips, 13, detailed=False)
    assert not torch.equal(flat(net), before)
    assert net.sound()
