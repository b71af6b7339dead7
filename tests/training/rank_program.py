"""What `test_ranks.py` lets two processes do that torch.distributed joins: ``python rank_program.py FOLDER``, in the
folder of a small data set. Each leaves what it has seen in FOLDER.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from svc.config import load_config
from svc.dataset.filelist import read_filelist
from svc.errors import DatasetError, SvcError
from svc.training.batches import Batch, EpochBatches, collate, stream, stream_of
from svc.training.clips import ClipDataset
from svc.training.ranks import Ranks
from svc.training.step import Adversaries

SEED, STEPS = 7, 6


def learn(ranks: Ranks, batch_size: int) -> dict[str, Any]:
    """Take a few steps in float64; returns clips of every step, losses of the first, and the weights after three and
    after all steps.
    """
    config, device = load_config("config.json"), torch.device("cpu")
    torch.manual_seed(SEED + ranks.rank)  # other weights on each rank, until rank 0 gives its own
    nets = Adversaries(config, device)
    nets.ranks = ranks
    for module in nets.modules:
        ranks.broadcast(module.double())
    paths = read_filelist(Path(config.data.training_files))
    dataset = ClipDataset(config, paths, augment=True, seed=SEED)
    lengths = [dataset.clip(index, 1).frames for index in range(len(paths))]
    order = EpochBatches(lengths, batch_size, seed=SEED, rank=ranks.rank, world=ranks.world)
    batches = stream(dataset, order, workers=0, pin=False, ranks=ranks)
    seen, kept = [], {}
    for step, batch in zip(range(1, STEPS + 1), batches, strict=False):
        ranks.reseed(SEED, step)
        nets.step(_double(batch), step, detailed=False)
        seen.append([] if batch.filler else list(batch.names))
        if step in (3, STEPS):
            kept[step] = _weights(nets)
    return {"seen": seen, "weights": kept}


def _double(batch: Batch) -> Batch:
    wide = {
        item.name: value.double()
        for item in dataclasses.fields(batch)
        if isinstance(value := getattr(batch, item.name), Tensor) and value.is_floating_point()
    }
    return dataclasses.replace(batch, **wide)


def _weights(nets: Adversaries) -> dict[str, np.ndarray]:
    return {
        f"{number}.{name}": parameter.detach().numpy().copy()
        for number, module in enumerate(nets.modules)
        for name, parameter in module.named_parameters()
    }


def talk(ranks: Ranks) -> dict[str, Any]:
    """Use everything that ranks say to each other."""
    rank = ranks.rank
    found: dict[str, Any] = {
        "exchange": ranks.exchange("häl" + "lo" * rank),
        "table": ranks.table([rank, 2.5, 2**53 - rank]),
        "agree": [ranks.agree(rank == 1), ranks.agree(False), ranks.agree(True)],
        "any": [
            ranks.any(torch.tensor(bool(rank))).item(),
            ranks.any(torch.tensor(False)).item(),
            ranks.any(torch.tensor(float("nan") if rank else 0.0)).item(),
        ],
        "draw": [],
    }
    for step in (1, 2, 1):
        torch.manual_seed(0)
        ranks.reseed(SEED, step)
        found["draw"].append(torch.rand(()).item())
    # One parameter has a gradient everywhere, one on rank 1 only, one nowhere; buckets of a few numbers.
    net = nn.ParameterList([torch.zeros(3), torch.zeros(2, 2), torch.zeros(4)])
    net[0].grad = torch.tensor([1.0, 2.0, 3.0]) * (rank + 1)
    if rank:
        net[1].grad = torch.full((2, 2), 8.0)
    same = net[0].grad
    ranks.average(net)
    found["means"] = [None if p.grad is None else p.grad.flatten().tolist() for p in net]
    found["in place"] = net[0].grad is same
    found["facts"] = _refused(lambda: ranks.ready({"clips": 7 + rank, "seed": 3}, "do better"))
    return found


def _refused(call: Any) -> str:
    try:
        call()
    except SvcError as error:
        return f"{type(error).__name__}: {error}"
    return ""


class OneIsBad(Dataset[Any]):
    """Clips of which one cannot be read."""

    def __init__(self, clips: ClipDataset) -> None:
        self._clips = clips

    def __getitem__(self, key: tuple[int, int]) -> Any:
        return DatasetError("two.wav is bad") if key[1] == 2 else self._clips[key]


def read(ranks: Ranks) -> dict[str, Any]:
    """Read clips one by one, until one of them is bad."""
    config, names = load_config("config.json"), []
    paths = read_filelist(Path(config.data.training_files))
    dataset = OneIsBad(ClipDataset(config, paths, augment=False))
    order = EpochBatches([60] * len(paths), 1, seed=SEED, rank=ranks.rank, world=ranks.world)
    try:
        for batch in stream_of(dataset, order, collate, workers=0, pin=False, ranks=ranks):
            names.append(batch.names[0])
    except SvcError as error:
        return {"read": names, "unread": f"{type(error).__name__}: {error}"}
    return {}


def fail(ranks: Ranks, folder: Path) -> None:
    """Let one rank fail before all are ready, and then leave without a word."""
    found: dict[str, Any] = {}
    rank = ranks.rank
    try:
        with Ranks(rank, ranks.world) as again:  # not ready yet
            if rank == 1:
                raise DatasetError("one.wav is bad")
            again.gather("fine")
    except SvcError as error:
        found["told"] = f"{type(error).__name__}: {error}"
    if rank == 0:
        found["gone"] = _refused(ranks.barrier)
        ranks._leave()
        tasks = Path("/proc/self/task")
        names = [(task / "comm").read_text() for task in tasks.iterdir()] if tasks.is_dir() else []
        found["threads"] = [name for name in names if "gloo" in name]
    (folder / f"failed{rank}.json").write_text(json.dumps(found))
    os._exit(0)  # rank 1: as a process that is killed


def main() -> None:
    """Do everything, one thing after another: a process takes seconds to begin."""
    folder = Path(sys.argv[1])
    with Ranks.from_environment() as ranks:
        result = learn(ranks, 2)
        for step, weights in result.pop("weights").items():
            np.savez(folder / f"weights{ranks.rank}_{step}.npz", **weights)
        result |= {**read(ranks), **talk(ranks)}
        (folder / f"seen{ranks.rank}.json").write_text(json.dumps(result))
        fail(ranks, folder)


if __name__ == "__main__":
    main()
