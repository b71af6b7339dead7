"""Tensors by name, described: what every recogniser of weights looks at."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svc.checkpoint import strip_prefix
from svc.inspection.report import Fact

WRAPPERS = ("model", "state_dict", "generator", "model_state_dict", "hubert", "weight")
"""Keys of a file under which the tensors of its net may lie."""


@dataclass(frozen=True)
class Weights:
    """The content of a weight file; its tensors have shapes and dtypes and no values."""

    path: Path
    value: Any
    """What was saved: mostly a dictionary."""
    stored: str
    """In which format: "torch" or "safetensors"."""
    bookkeeping: tuple[str, ...] = ()
    """Names that only readers of foreign encoders take."""

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """The dictionary that was saved; empty where it is something else."""
        if not isinstance(self.value, Mapping):
            return {}
        return {str(key): item for key, item in self.value.items()}

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors of its net by name, without the prefix of data-parallel wrappers."""
        for key in WRAPPERS:
            found = tensors_in(self.content.get(key))
            if found:
                return found
        return tensors_in(self.content)

    def has(self, pattern: str) -> bool:
        """Return whether a tensor's name begins like a regular expression."""
        return has(self.tensors, pattern)

    def axis(self, name: str, axis: int) -> int | None:
        """Return the length of one axis of a tensor; None where there is no such."""
        return axis_of(self.tensors, name, axis)


def tensors_in(value: Any) -> dict[str, Tensor]:
    """Return the members of a dictionary that are tensors, without the prefix "module."."""
    if not isinstance(value, Mapping):
        return {}
    return strip_prefix({str(key): item for key, item in value.items() if isinstance(item, Tensor)})


def has(state: Mapping[str, Tensor], pattern: str) -> bool:
    """Return whether a name begins like a regular expression."""
    compiled = re.compile(pattern)
    return any(compiled.match(name) for name in state)


def axis_of(state: Mapping[str, Tensor], name: str, axis: int) -> int | None:
    """Return the length of one axis of a tensor; None where there is no such."""
    tensor = state.get(name)
    return int(tensor.shape[axis]) if tensor is not None and tensor.dim() > axis else None


def count_of(state: Mapping[str, Tensor], pattern: str) -> int:
    """Count the different numbers that `pattern` (one group) finds at the start of names."""
    compiled = re.compile(pattern)
    return len({found.group(1) for name in state if (found := compiled.match(name))})


def kernels_of(state: Mapping[str, Tensor], pattern: str) -> list[int]:
    """List the last axes of the weights that `pattern` (one group: a number) matches, by number."""
    compiled = re.compile(pattern + r"\.(?:weight_v|weight|parametrizations\.weight\.original1)$")
    found = {
        int(match.group(1)): int(tensor.shape[-1])
        for name, tensor in state.items()
        if (match := compiled.match(name)) and tensor.dim()
    }
    return [found[index] for index in sorted(found)]


def size_facts(state: Mapping[str, Tensor]) -> dict[str, Fact]:
    """Return how many numbers a state holds, each shared one once, and in which precision."""
    distinct = {id(tensor): tensor for tensor in state.values()}
    kinds = {
        str(tensor.dtype).removeprefix("torch.")
        for tensor in distinct.values()
        if tensor.is_floating_point()
    }
    return {
        "values": sum(tensor.numel() for tensor in distinct.values()),
        "precision": " and ".join(sorted(kinds)) or "no floating-point numbers",
    }


def training_facts(content: Mapping[str, Any]) -> dict[str, Fact]:
    """Return what a checkpoint says of its training, under the original's keys (spec_core 7.4)."""
    facts: dict[str, Fact] = {}
    for key in ("iteration", "learning_rate", "global_step"):
        if isinstance(content.get(key), int | float):
            facts[key] = content[key]
    if "optimizer" in content:
        facts["optimizer"] = _optimizer(content["optimizer"])
    return facts


def _optimizer(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "absent"
    entries = value.get("state")
    count = len(entries) if isinstance(entries, Mapping) else 0
    return f"state of {count} tensors" if count else "settings only"


def all_tensors(value: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor in a tree of dictionaries and lists, with its place."""
    waiting: list[tuple[str, Any]] = [("", value)]
    seen: set[int] = set()
    while waiting:
        place, item = waiting.pop()
        if isinstance(item, torch.Tensor):
            yield place, item
        elif isinstance(item, Mapping | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            pairs = item.items() if isinstance(item, Mapping) else enumerate(item)
            waiting += [(f"{place}.{key}".lstrip("."), part) for key, part in pairs][::-1]
