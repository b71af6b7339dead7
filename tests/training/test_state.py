from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from svc.checkpoint import load_checkpoint, save_checkpoint
from svc.errors import CheckpointError
from svc.training import state
from svc.training.loop import Position
from svc.training.step import Adversaries

CPU = torch.device("cpu")


@pytest.fixture
def nets(voices: Any) -> Adversaries:
    torch.manual_seed(0)
    return Adversaries(voices.config, CPU)


def content_of(nets: Adversaries, position: Position | None = None) -> dict[str, Any]:
    where = position or Position(8, 3, 1)
    extra = state.extra_keys(nets.config, where, CPU, nets.scaler, {"clips": 8})
    return state.checkpoint(nets.generator, nets.optim_g, nets.config, where, extra)


def test_the_originals_keys_keep_their_meaning(
    nets: Adversaries, batch: Any, tmp_path: Path
) -> None:
    nets.step(batch, 1, detailed=False)
    nets.set_learning_rate(1e-5)
    content = content_of(nets)
    assert list(content)[:4] == ["model", "iteration", "optimizer", "learning_rate"]
    assert content["iteration"] == 3  # the epoch
    assert content["learning_rate"] == 2e-4  # the config's, not the decayed one
    group = content["optimizer"]["param_groups"][0]
    assert (group["lr"], group["initial_lr"], group["weight_decay"]) == (1e-5, 2e-4, 0.01)
    assert (group["betas"], group["eps"]) == ((0.8, 0.99), 1e-9)
    assert group["fused"] is None
    parameters = list(nets.generator.parameters())
    assert group["params"] == list(range(len(parameters)))
    assert set(content["optimizer"]["state"]) == set(group["params"])
    for index, entry in content["optimizer"]["state"].items():
        assert set(entry) == {"step", "exp_avg", "exp_avg_sq"}
        assert entry["exp_avg"].shape == parameters[index].shape
    wanted = {
        "version", "step", "epoch", "batch", "scheduler", "rng", "scaler", "config_hash",
        "speakers", "encoder", "released", "config", "order", "format",
    }  # fmt: skip
    assert set(content["svc"]) == wanted
    assert content["svc"]["released"] is False
    assert content["svc"]["speakers"] == {"alice": 0, "bob": 1}
    # Everything is plain enough for safe loading.
    save_checkpoint(content, tmp_path / "G_8.pth")
    loaded = load_checkpoint(tmp_path / "G_8.pth")
    assert loaded["svc"]["config"] == nets.config.to_dict()
    assert torch.equal(loaded["svc"]["rng"]["cpu"], content["svc"]["rng"]["cpu"])


def test_shared_tensors_are_written_once_and_under_every_name(nets: Adversaries) -> None:
    own = nets.generator.state_dict()
    plain = state.plain_state(nets.generator.double())
    assert list(plain) == list(own)
    assert {tensor.dtype for tensor in plain.values()} == {torch.float32}
    aliases = [name for name in plain if name.startswith("flow.wn.")]
    assert aliases
    for name in aliases:
        first = plain[name.replace("flow.wn.", "flow.flows.0.enc.")]
        assert plain[name].data_ptr() == first.data_ptr()


def test_config_hash_follows_the_content(voices: Any) -> None:
    before = state.config_hash(voices.config)
    assert before == state.config_hash(voices.config)
    assert before != state.config_hash(voices.edit(train={"c_kl": 0.5}))


def test_entries_of_single_parts_are_plain_and_keep_the_others(
    nets: Adversaries, tmp_path: Path
) -> None:
    def entry(**more: Any) -> dict[str, Any]:
        return state.extra_keys(nets.config, Position(), CPU, nets.scaler, {}, more)

    ema = {"pre.weight": torch.ones(2, requires_grad=True)}
    trouble = {"total": 3, "in_a_row": 0, "seen": [1, 2.5, None, True, "a"]}
    content = {"model": {"a": torch.zeros(1)}, "svc": entry(ema=ema, trouble=trouble)}
    save_checkpoint(content, tmp_path / "G_8.pth")
    # The way the original reads, with the strictest setting.
    loaded = torch.load(tmp_path / "G_8.pth", map_location="cpu", weights_only=True)
    assert loaded["svc"]["trouble"] == trouble
    assert torch.equal(loaded["svc"]["ema"]["pre.weight"], torch.ones(2))
    assert not loaded["svc"]["ema"]["pre.weight"].requires_grad
    with pytest.raises(ValueError, match='"step" has a meaning'):
        entry(step=3)
    for value in (np.float32(1), Path("a"), {"a": {(1, 2): 3}}, {1, 2}, Position()):
        with pytest.raises(ValueError, match="which a checkpoint cannot hold"):
            entry(trouble={"deep": [value]})


def test_exact_position_belongs_to_the_file_it_was_saved_in(nets: Adversaries) -> None:
    content = content_of(nets)
    found = state.exact_position(content, 8)
    assert found is not None
    assert (found["step"], found["epoch"], found["batch"]) == (8, 3, 1)
    assert state.exact_position(content, 800) is None  # renamed
    del content["svc"]
    assert state.exact_position(content, 8) is None  # the original's


def test_released_files_are_refused(nets: Adversaries) -> None:
    content = content_of(nets)
    state.refuse_released(content, Path("G_8.pth"))
    marked = {**content, "svc": {**content["svc"], "released": True}}
    stripped = {"model": {k: v for k, v in content["model"].items() if "enc_q" not in k}}
    for small in (marked, stripped):
        with pytest.raises(CheckpointError, match=r"G_8\.pth is a released \(compressed\) file"):
            state.refuse_released(small, Path("G_8.pth"))


def changed(nets: Adversaries, change: Callable[[dict[str, Tensor]], None]) -> dict[str, Tensor]:
    tensors = {name: tensor.clone() + 1 for name, tensor in nets.generator.state_dict().items()}
    change(tensors)
    return tensors


def test_half_prefixed_and_one_named_tensors_fill_a_net(nets: Adversaries) -> None:
    wanted = changed(nets, lambda tensors: None)
    given = {
        f"module.{name}": tensor.half()
        for name, tensor in wanted.items()
        if not name.startswith("flow.wn.")
    }
    filled = state.fill(nets.generator, given, what=Path("G_0.pth"))
    assert filled == state.Filled((), ())
    assert str(filled) == "every tensor"
    for name, tensor in nets.generator.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.allclose(tensor, wanted[name], atol=1e-2), name


def test_what_may_differ_is_reported_and_the_rest_is_an_error(nets: Adversaries) -> None:
    def other_speakers(tensors: dict[str, Tensor]) -> None:
        tensors["emb_g.weight"] = torch.zeros(9, 6)

    def other_content(tensors: dict[str, Tensor]) -> None:
        tensors["pre.weight"] = torch.zeros(8, 5, 5)
        del tensors["emb_uv.weight"]
        tensors["emb_vol.weight"] = torch.zeros(8, 1)

    net, base = nets.generator, Path("G_0.pth")
    start = net.emb_g.weight.detach().clone()
    filled = state.fill(net, changed(nets, other_speakers), what=base, free=("emb_g.", "enc_q."))
    assert filled.fresh == ("emb_g.weight",)
    assert str(filled) == "new: emb_g (1)"
    assert torch.equal(net.emb_g.weight, start)

    with pytest.raises(CheckpointError, match=r"emb_g\.weight is \[9, 6\] .* \[2, 6\]"):
        state.fill(net, changed(nets, other_speakers), what=base)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"pre\.weight is \[8, 5, 5\].*emb_uv.*emb_vol"):
        state.fill(net, changed(nets, other_content), what=base, free=("emb_g.",))
    assert all(torch.equal(before[name], now) for name, now in net.state_dict().items())

    filled = state.fill(net, changed(nets, other_content), what=base, force=True)
    assert filled.fresh == ("pre.weight", "emb_uv.weight")
    assert filled.surplus == ("emb_vol.weight",)
    assert str(filled) == "new: pre (1), emb_uv (1); not used: emb_vol (1)"
    assert torch.equal(net.state_dict()["pre.bias"], before["pre.bias"] + 1)


def test_optimizer_state_of_new_tensors_is_dropped(
    nets: Adversaries, voices: Any, batch: Any
) -> None:
    nets.step(batch, 1, detailed=False)
    content = content_of(nets)
    wider = voices.edit(model={"n_speakers": 5}, spk={"alice": 0, "bob": 1, "carol": 4})
    other = Adversaries(wider, CPU)
    filled = state.fill(other.generator, content["model"], what=Path("G_0.pth"), free=("emb_g.",))
    note = state.fill_optimizer(
        other.optim_g, other.generator, content, filled.fresh, learning_rate=2e-4
    )
    count = len(list(other.generator.parameters()))
    assert note == f"optimizer state of {count - 1} of {count} tensors"
    assert other.generator.emb_g.weight not in other.optim_g.state
    kept = other.optim_g.state[other.generator.pre.weight]
    assert torch.equal(kept["exp_avg"], nets.optim_g.state[nets.generator.pre.weight]["exp_avg"])
    other.step(batch, 2, detailed=False)  # the missing moments begin at zero


def test_optimizer_states_of_the_original_load(nets: Adversaries, batch: Any) -> None:
    nets.step(batch, 1, detailed=False)
    content = content_of(nets)
    saved = content["optimizer"]
    # Older torch: steps as numbers, fewer keys in the group.
    for entry in saved["state"].values():
        entry["step"] = int(entry["step"])
    keys = ("lr", "betas", "eps", "weight_decay", "amsgrad", "initial_lr", "params")
    saved["param_groups"] = [{key: saved["param_groups"][0][key] for key in keys}]
    other = Adversaries(nets.config, CPU)
    state.fill_optimizer(other.optim_g, other.generator, content, (), learning_rate=2e-4)
    other.step(batch, 2, detailed=False)
    assert float(other.optim_g.state[other.generator.pre.weight]["step"]) == 2


def test_learning_rate_follows_an_edited_config(nets: Adversaries) -> None:
    nets.set_learning_rate(5e-5)
    content = content_of(nets)
    for config_value, expected in ((2e-4, 5e-5), (4e-4, 1e-4)):
        other = Adversaries(nets.config, CPU)
        state.fill_optimizer(
            other.optim_g, other.generator, content, (), learning_rate=config_value
        )
        assert other.learning_rate == pytest.approx(expected, rel=1e-12)


def test_optimizer_of_another_net_is_dropped(nets: Adversaries, batch: Any) -> None:
    nets.step(batch, 1, detailed=False)
    content = content_of(nets)
    note = state.fill_optimizer(nets.optim_d, nets.discriminator, content, (), learning_rate=2e-4)
    assert "dropped" in note
    note = state.fill_optimizer(
        nets.optim_g, nets.generator, {**content, "optimizer": None}, (), learning_rate=2e-4
    )
    assert note == "no optimizer state in the file"
