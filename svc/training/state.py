"""What a checkpoint of a training run holds, and how it gets back into nets and optimisers
(spec_core 7.4, 7.5).

The original's keys keep their meaning: ``model``, ``iteration`` (the epoch), ``optimizer``,
``learning_rate`` (the config's). All that exact resuming needs beyond them is under one key,
``svc``, which the original ignores.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from svc import __version__
from svc.checkpoint import load_state, strip_prefix
from svc.config import SvcConfig, TrainConfig
from svc.errors import CheckpointError
from svc.training.loop import Position
from svc.training.rundir import RunConfig
from svc.vocoder.weight_norm import respell_state

EXTRA = "svc"
FORMAT = 1
"""Version of the extra keys; readers ignore keys they do not know."""
_MOMENTS = ("exp_avg", "exp_avg_sq")


class AdversarialConfig(RunConfig, Protocol):
    """The config of a run that trains a generator against a discriminator."""

    @property
    def train(self) -> TrainConfig:
        """How it is trained."""


# ---- writing -------------------------------------------------------------------------------------


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a state dictionary of plain float32 CPU tensors.

    Shared tensors stay shared, and occur under every name (spec_core 2.5).
    """
    copies: dict[int, Tensor] = {}
    state = {}
    for name, tensor in module.state_dict().items():
        address = tensor.data_ptr()
        if address not in copies or copies[address].shape != tensor.shape:
            kind = torch.float32 if tensor.is_floating_point() else tensor.dtype
            copies[address] = tensor.detach().to("cpu", kind).contiguous()
        state[name] = copies[address]
    return state


def plain_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an AdamW state on the CPU, without the choice of kernels: it is the machine's."""
    state = optimizer.state_dict()
    groups = [
        {key: None if key in ("fused", "foreach") else value for key, value in group.items()}
        for group in state["param_groups"]
    ]
    entries = {
        index: {
            key: value.detach().cpu() if isinstance(value, Tensor) else value
            for key, value in entry.items()
        }
        for index, entry in state["state"].items()
    }
    return {"state": entries, "param_groups": groups}


def draw_states(device: torch.device) -> dict[str, Any]:
    """Return the states of the global generators a step draws from."""
    states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def config_hash(config: RunConfig) -> str:
    """Return the SHA-256 of a config's content, independent of how its file is laid out."""
    text = json.dumps(config.to_dict(), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def extra_keys(
    config: SvcConfig,
    position: Position,
    device: torch.device,
    scaler: torch.amp.GradScaler,
    order: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the ``svc`` entry of a voice's checkpoint; arguments as `run_keys`."""
    return {
        **run_keys(config, position, device, scaler, order, more),
        "speakers": dict(config.spk),
        "encoder": config.model.speech_encoder,
        "released": False,
    }


def run_keys(
    config: AdversarialConfig,
    position: Position,
    device: torch.device,
    scaler: torch.amp.GradScaler,
    order: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what every ``svc`` entry of a checkpoint holds: plain values, which safe loading reads.

    Args:
        config: the config in use.
        position: what is done.
        device: where the nets are.
        scaler: the loss scaler.
        order: facts that decide which clips batch number n of an epoch holds.
        more: entries of single parts of a run by their name, such as "trouble" or "ema"; plain
            values and tensors in plain containers.

    Raises:
        ValueError: `more` holds something else, or takes a name that has a meaning here.
    """
    train = config.train
    entry = {
        "format": FORMAT,
        "version": __version__,
        "step": position.step,
        "epoch": position.epoch,
        "batch": position.batch,
        "order": dict(order),
        "scheduler": {"gamma": train.lr_decay, "warmup_epochs": train.warmup_epochs},
        "rng": draw_states(device),
        "scaler": scaler.state_dict(),
        "config": config.to_dict(),
        "config_hash": config_hash(config),
    }
    return {**entry, **plain_entries(more or {}, entry)}


def plain_entries(more: Mapping[str, Any], taken: Collection[str]) -> dict[str, Any]:
    """Return entries for the ``svc`` key with their tensors on the CPU.

    Args:
        more: entries by name.
        taken: names that are not free.

    Raises:
        ValueError: a name is taken, or a value is none that every torch reads safely.
    """
    for name in more:
        if name in taken:
            raise ValueError(f'the entry "{name}" has a meaning of its own')
    return {name: _plain(value, name) for name, value in more.items()}


def _plain(value: Any, where: str) -> Any:
    # Exactly these types: of a class of its own, even one made from int, a safe reader makes nothing.
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if type(value) in (list, tuple):
        return type(value)(_plain(item, where) for item in value)
    if isinstance(value, Mapping) and all(type(key) in (str, int) for key in value):
        return {key: _plain(item, f"{where}/{key}") for key, item in value.items()}
    raise ValueError(f"{where} is a {type(value).__name__}, which a checkpoint cannot hold")


def checkpoint(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: AdversarialConfig,
    position: Position,
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the dictionary that is saved for one net."""
    return {
        "model": plain_state(module),
        "iteration": position.epoch,
        "optimizer": plain_optimizer(optimizer),
        "learning_rate": config.train.learning_rate,
        EXTRA: dict(extra),
    }


# ---- reading -------------------------------------------------------------------------------------


def exact_position(content: Mapping[str, Any], step: int) -> Mapping[str, Any] | None:
    """Return the ``svc`` entry if it describes this very file: not an original or renamed one."""
    extra = content.get(EXTRA)
    if not isinstance(extra, Mapping) or extra.get("step") != step:
        return None
    return extra


def refuse_released(content: Mapping[str, Any], what: Path) -> None:
    """Refuse to go on from a file that was made smaller for use: its posterior encoder is gone.
    Raises CheckpointError.
    """
    extra = content.get(EXTRA)
    marked = isinstance(extra, Mapping) and bool(extra.get("released"))
    if marked or not any("enc_q." in name for name in content["model"]):
        raise CheckpointError(
            f"{what} is a released (compressed) file: it sings, but its posterior encoder (enc_q) "
            "and optimizer state are gone, so training cannot go on from it; take the full "
            "checkpoint, or --force to train with a new posterior encoder"
        )


@dataclass(frozen=True)
class Filled:
    """What did not come from a file."""

    fresh: tuple[str, ...]
    """Tensors that keep their initial values: absent in the file, or of another shape."""
    surplus: tuple[str, ...]
    """Tensors of the file that the net does not have."""

    def __str__(self) -> str:
        """Summary for the log: modules with counts."""
        parts = []
        for what, names in (("new", self.fresh), ("not used", self.surplus)):
            modules: dict[str, int] = {}
            for name in names:
                top = name.split(".")[0]
                modules[top] = modules.get(top, 0) + 1
            if modules:
                counts = ", ".join(f"{top} ({count})" for top, count in modules.items())
                parts.append(f"{what}: {counts}")
        return "; ".join(parts) or "every tensor"


def fill(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    what: Path,
    free: Sequence[str] = (),
    force: bool = False,
    hint: str = "",
) -> Filled:
    """Copy the tensors of a file into a net.

    Args:
        module: the net.
        state: tensors by name; half precision, a ``module.`` prefix and other spellings of weight
            norm are understood.
        what: the file, for messages.
        free: prefixes of names that may be absent or of another shape.
        force: everything may.
        hint: likely cause of a mismatch.

    Returns:
        What did not come from the file.

    Raises:
        CheckpointError: something outside `free` does not fit; nothing was copied.
    """
    own = module.state_dict()
    given = respell_state(strip_prefix(state), module)
    fitting = {
        name: tensor
        for name, tensor in given.items()
        if name in own and own[name].shape == tensor.shape
    }
    # One name of a shared tensor is enough: the others are the same memory.
    covered = {own[name].data_ptr() for name in fitting}
    aliases = [name for name in own if name not in given and own[name].data_ptr() in covered]
    if not force:
        strict = {
            name: tensor
            for name, tensor in given.items()
            if name in fitting or not name.startswith(tuple(free))
        }
        load_state(module, strict, what=str(what), allow_missing=(*free, *aliases), hint=hint)
    else:
        load_state(module, fitting, what=str(what), allow_missing=("",))
    return Filled(
        fresh=tuple(n for n in own if n not in fitting and own[n].data_ptr() not in covered),
        surplus=tuple(name for name in given if name not in own),
    )


def fill_optimizer(
    optimizer: torch.optim.Optimizer,
    module: nn.Module,
    content: Mapping[str, Any],
    fresh: Sequence[str],
    *,
    learning_rate: float,
) -> str:
    """Copy an AdamW state, except for tensors that do not come from the file (spec_core 10, T6).

    Args:
        optimizer: one group over ``module.parameters()``.
        module: its net.
        content: the checkpoint.
        fresh: names of tensors that are new.
        learning_rate: the config's; when it differs from the one the file was trained with, the
            decayed rate is scaled by their ratio, so that editing the config has an effect.

    Returns:
        One clause for the log.
    """
    saved = content.get("optimizer") or {}
    groups, entries = saved.get("param_groups") or [], saved.get("state") or {}
    order = [index for group in groups for index in group["params"]]
    names = [name for name, _ in module.named_parameters()]
    if groups and "lr" in groups[0]:
        before = content.get("learning_rate")
        lr = float(groups[0]["lr"])
        optimizer.param_groups[0]["lr"] = (
            lr if before in (None, 0, learning_rate) else lr * learning_rate / float(before)
        )
    if not entries:
        return "no optimizer state in the file"
    if len(order) != len(names):
        return f"optimizer state of {len(order)} tensors dropped: the net has {len(names)}"
    new = set(fresh)
    kept = {}
    for index, (name, parameter) in enumerate(module.named_parameters()):
        entry = entries.get(order[index])
        if entry is None or name in new:
            continue
        if all(entry[key].shape == parameter.shape for key in _MOMENTS):
            kept[index] = entry
    optimizer.load_state_dict(
        {"state": kept, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    return f"optimizer state of {len(kept)} of {len(names)} tensors"


def restore_draws(states: Mapping[str, Any], device: torch.device) -> bool:
    """Set the global generators; returns whether those a step draws from were all there."""
    kinds = {"cpu", "cuda"} if device.type == "cuda" else {"cpu"}
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    return kinds <= states.keys()
