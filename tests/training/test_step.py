from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from svc.config import load_config
from svc.errors import ConfigError
from svc.synthesizer.model import Synthesizer
from svc.training.batches import Batch
from svc.training.numerics import FiniteGuard, autocast_dtype
from svc.training.step import Adversaries
from svc.vocoder.discriminator import Discriminator

CPU = torch.device("cpu")


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def moved(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    now = module.state_dict()
    return {name for name in before if not torch.equal(now[name], before[name])}


def test_a_step_moves_every_tensor_of_both_nets(voices: Any, batch: Batch) -> None:
    torch.manual_seed(0)
    nets = Adversaries(voices.config, CPU)
    before = snapshot(nets.generator), snapshot(nets.discriminator)
    detail = nets.step(batch, 1, detailed=True)
    assert moved(nets.generator, before[0]) == set(before[0])
    assert moved(nets.discriminator, before[1]) == set(before[1])
    assert detail is not None
    assert set(detail.losses) == {"disc", "mel", "kl", "fm", "gen", "lf0", "total"}
    parts = [detail.losses[name] for name in ("mel", "kl", "fm", "gen", "lf0")]
    assert float(detail.losses["total"]) == pytest.approx(float(sum(parts)), rel=1e-6)
    assert detail.mels["slice/mel_org"].shape == detail.mels["slice/mel_gen"].shape == (20, 20)
    assert detail.mels["all/mel"].shape == (20, 70)
    assert set(detail.curves) == {"all/lf0", "all/norm_lf0"}
    for name, module in (("g", nets.generator), ("d", nets.discriminator)):
        squares = sum(
            float(p.grad.square().sum()) for p in module.parameters() if p.grad is not None
        )
        if (
            name == "g"
        ):  # D's gradients are those of its own step: its parameters rest in the G step
            assert float(detail.gradient_norms[name]) == pytest.approx(math.sqrt(squares), rel=1e-4)
        assert float(detail.gradient_norms[name]) > 0
    assert all(parameter.requires_grad for parameter in nets.discriminator.parameters())
    assert nets.step(batch, 2, detailed=False) is None


def test_the_generator_step_leaves_the_discriminator_alone(voices: Any, batch: Batch) -> None:
    nets = Adversaries(voices.config, CPU)
    seen: list[dict[str, Tensor]] = []
    step_d = nets.optim_d.step

    def note(*args: Any, **kwargs: Any) -> Any:
        result = step_d(*args, **kwargs)
        seen.append({n: p.grad.clone() for n, p in nets.discriminator.named_parameters()
                     if p.grad is not None})  # fmt: skip
        return result

    nets.optim_d.step = note  # type: ignore[method-assign]
    nets.step(batch, 1, detailed=False)
    after = {n: p.grad for n, p in nets.discriminator.named_parameters() if p.grad is not None}
    assert after
    assert all(torch.equal(after[name], seen[0][name]) for name in after)


def test_the_discriminator_rests_before_gan_start_step(
    make_voices: Callable[..., Any], batch: Batch
) -> None:
    config = make_voices(train={"gan_start_step": 3}).config
    nets = Adversaries(config, CPU)
    before = snapshot(nets.discriminator)
    detail = nets.step(batch, 2, detailed=True)
    assert detail is not None
    assert set(detail.losses) == {"mel", "kl", "lf0", "total"}
    assert set(detail.gradient_norms) == {"g"}
    assert not moved(nets.discriminator, before)
    detail = nets.step(batch, 3, detailed=True)
    assert detail is not None
    assert {"disc", "fm", "gen"} <= set(detail.losses)
    assert moved(nets.discriminator, before)


def test_reduced_precision(voices: Any, batch: Batch) -> None:
    train = voices.config.train
    assert autocast_dtype(train, CPU) is None
    on = dataclasses.replace(train, fp16_run=True)
    assert autocast_dtype(on, CPU) is torch.bfloat16
    assert autocast_dtype(dataclasses.replace(on, half_type="fp16"), torch.device("cuda")) is (
        torch.float16
    )
    with pytest.raises(ConfigError, match=r"fp16.*needs a CUDA device and this run is on cpu"):
        autocast_dtype(dataclasses.replace(on, half_type="fp16"), CPU)

    losses = []
    for config in (voices.config, voices.edit(train={"fp16_run": True, "half_type": "bf16"})):
        torch.manual_seed(1)
        nets = Adversaries(config, CPU)
        nets.generator.eval()  # without dropout
        torch.manual_seed(2)
        detail = nets.step(batch, 1, detailed=True)
        assert detail is not None
        losses.append({name: float(value) for name, value in detail.losses.items()})
        assert {value.dtype for value in detail.losses.values()} == {torch.float32}
        assert {p.dtype for p in nets.generator.parameters()} == {torch.float32}
        assert not nets.scaler.is_enabled()
    assert nets.dtype is torch.bfloat16
    assert losses[0] != losses[1]
    for name in losses[0]:
        assert losses[1][name] == pytest.approx(losses[0][name], rel=0.05, abs=0.02), name


def test_guard_sees_infinity_and_lets_numbers_pass() -> None:
    """It tells, where it used to raise: such a step is left out, and what follows from it is the
    run's business (`test_trouble.py`).
    """
    guard, sound = FiniteGuard(CPU), torch.tensor([True, False])
    values = {"a": torch.tensor(1e38), "b": torch.tensor(-2.0)}
    guard.watch(1, ("x", "y"), values, torch.tensor(False), torch.tensor([True, True]))
    values = {"a": torch.tensor(0.0), "b": torch.tensor(torch.inf)}
    guard.watch(2, ("x", "y"), values, torch.tensor(True), sound)
    one, two = guard.drain()
    assert (one.step, one.bad, one.strange, one.suspects) == (1, False, {}, ())
    assert (two.step, two.bad, two.strange, two.suspects) == (2, True, {"b": math.inf}, ("y",))
    assert guard.drain() == []


def test_guard_on_a_device_looks_some_steps_later() -> None:
    guard = FiniteGuard(CPU)
    for step in range(1, 6):
        guard.watch(step, (), {"a": torch.tensor(1.0)}, torch.tensor(False), torch.zeros(0))
    assert [seen.step for seen in guard.drain(keep=3)] == [1, 2]
    assert [seen.step for seen in guard.drain()] == [3, 4, 5]


@pytest.mark.parametrize(
    "model",
    [
        {"vol_embedding": True},
        {"use_automatic_f0_prediction": False},
        {"use_transformer_flow": True},
        {"vocoder_name": "nsf-snake-hifigan", "use_depthwise_conv": True},
        {"use_spectral_norm": True, "resblock": "2"},
    ],
    ids=lambda model: "+".join(model),
)
def test_every_variant_takes_a_step(make_voices: Callable[..., Any], model: dict[str, Any]) -> None:
    from svc.training.batches import collate
    from svc.training.clips import ClipDataset

    voices = make_voices(lengths=(40, 30), model=model)
    dataset = ClipDataset(voices.config, voices.files(), augment=True)
    batch = collate([dataset.clip(index, 1) for index in range(2)])
    assert isinstance(batch, Batch)
    nets = Adversaries(voices.config, CPU)
    before = snapshot(nets.generator)
    detail = nets.step(batch, 1, detailed=True)
    assert detail is not None
    assert torch.isfinite(detail.losses["total"])
    # The flow begins as the identity: what lies before its zero output layers gets no gradient yet,
    # and weight decay leaves zeros where they are.
    still = set(before) - moved(nets.generator, before)
    assert all("filter" in name or not before[name].any() for name in still)
    assert ("lf0" in detail.losses) == model.get("use_automatic_f0_prediction", True)


def hash_noise(stream: int, count: int) -> np.ndarray:
    """The reference arrays' numbers, spec_core 12."""
    s = np.sin(12.9898 * np.arange(count, dtype=np.float64) + 78.233 * stream + 1) * 43758.5453
    return 2 * (s - np.floor(s)) - 1


def reference_weights(listing: Path) -> dict[str, Tensor]:
    weights = {}
    for stream, (name, shape, _) in enumerate(json.loads(listing.read_text())):
        count = int(np.prod(shape))
        r = hash_noise(stream, count)
        if name.endswith("weight_g"):
            value = 1 + 0.2 * r
        elif name.endswith("gamma"):
            value = 1 + 0.1 * r
        elif name.endswith(".beta"):
            value = 0.1 * r
        elif name.endswith("bias"):
            value = 0.05 * r
        elif name in ("emb_g.weight", "emb_uv.weight", "enc_p.f0_emb.weight"):
            value = r
        elif "emb_rel" in name:
            value = 0.3 * r
        else:
            value = r * math.sqrt(3 * shape[0] / count)
        weights[name] = torch.from_numpy(value.astype(np.float32).reshape(shape))
    return weights


@pytest.mark.slow
def test_a_step_of_the_trainer_equals_the_originals(shared: Path) -> None:
    """Losses, gradient norms and weights after one step of the full-size nets (spec_core 12)."""
    tables = shared / "spec" / "tables"
    expected = json.loads((shared / "golden" / "golden_trainstep.json").read_text())
    config = load_config(tables / "config_default_vec768l12.json")
    with torch.device("meta"):  # the weights below replace the initial ones
        generator, discriminator = Synthesizer.from_config(config, compat=True), Discriminator()
    for net, listing in ((generator, "G_default_vec768l12"), (discriminator, "D")):
        net.load_state_dict(reference_weights(tables / f"statedict_{listing}.json"), assign=True)
    nets = Adversaries(config, CPU, generator=generator, discriminator=discriminator)
    nets.generator.eval()
    nets.discriminator.eval()

    def array(stream: int, *shape: int, scale: float = 1.0, offset: float = 0.0) -> np.ndarray:
        return offset + scale * hash_noise(stream, int(np.prod(shape))).reshape(shape)

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.float32))

    f0 = array(9002, 2, 40, scale=100, offset=300)
    f0[:, 10:14] = 0
    uv = (f0 > 0).astype(np.float32)
    f0[0, 20:23] = 1120
    f0[1, 33:] = uv[1, 33:] = 0
    batch = Batch(
        units=tensor(array(9001, 2, 768, 40)),
        f0=tensor(f0),
        uv=tensor(uv),
        spec=tensor(array(9003, 2, 1025, 40, scale=0.5, offset=0.5)),
        wav=tensor(array(9103, 2, 1, 20480, scale=0.3)),
        speaker=torch.tensor([1, 3]),
        lengths=torch.tensor([40, 33]),
        volume=None,
        names=("a", "b"),
    )
    torch.manual_seed(1234)
    detail = nets.step(batch, 1, detailed=True)
    assert detail is not None
    for name in ("disc", "mel", "kl", "fm", "gen", "lf0", "total"):
        assert float(detail.losses[name]) == pytest.approx(expected[name], rel=1e-5), name
    for name in ("g", "d"):
        norm = float(detail.gradient_norms[name])
        assert norm == pytest.approx(expected[f"grad_norm_{name}"], rel=1e-4)
    for net, sums in (
        (nets.generator, expected["after_step_abs_sum"]),
        (nets.discriminator, expected["D_after_step_abs_sum"]),
    ):
        weights = net.state_dict()
        for name, value in sums.items():
            assert float(weights[name].double().abs().sum()) == pytest.approx(value, rel=1e-6), name
