"""Going back to the newest checkpoint in the middle of a run: nets, optimizers and loss scaler as they
were saved.

The position in the data goes on: the same clips with the same random numbers would give the same
result. The learning rate stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from svc.diffusion.loading import diffusion_tensors, full_schedule
from svc.training import state
from svc.training.diffusion_files import Start as DiffusionStart
from svc.training.diffusion_files import find_start as find_diffusion_start
from svc.training.diffusion_files import load_start
from svc.training.diffusion_step import DiffusionLearner
from svc.training.pair import NetPair
from svc.training.ranks import Ranks
from svc.training.rundir import Kind, find_start, load_pair


def roll_back(
    nets: NetPair[nn.Module], run_dir: Path, kind: Kind
) -> tuple[Path, Mapping[str, Any]] | None:
    """Fill two nets and their optimizers from the newest checkpoint of their run.

    Args:
        nets: filled.
        run_dir: folder of the run.
        kind: of the run.

    Returns:
        The checkpoint of the generator and its ``svc`` entry; None when nothing has been saved yet.

    Raises:
        CheckpointError: it cannot be read or does not fit.
    """
    start = find_start(run_dir, "auto", kind=kind)
    found = _agree(nets.ranks, start.generator if start.kind == "resume" else None)
    if found is None:
        return None
    start = find_start(run_dir, str(found), kind=kind)
    paths = start.generator, start.discriminator
    files = load_pair(start)
    for module, optimizer, path, content in zip(
        nets.modules, nets.optimizers, paths, files, strict=True
    ):
        if path is None or content is None:  # a resume has both
            continue
        state.fill(module, content["model"], what=path)
        _refill(optimizer, module, content)
    extra = state.exact_position(files[0], start.step) or {}
    if extra.get("scaler"):
        nets.scaler.load_state_dict(dict(extra["scaler"]))
    nets.ranks.barrier()  # then it may be deleted
    return found, extra


def roll_back_diffusion(learner: DiffusionLearner, run_dir: Path) -> Path | None:
    """Fill a diffusion model and its optimizer from the newest checkpoint of its run.

    Returns:
        The checkpoint; None when nothing has been saved yet.

    Raises:
        CheckpointError: it cannot be read or does not fit.
    """
    start = find_diffusion_start(run_dir, "auto")
    path = _agree(learner.ranks, start.model if start.kind == "resume" else None)
    if path is None:
        return None
    content = load_start(DiffusionStart("resume", path))
    tensors = full_schedule(diffusion_tensors(content, str(path)), learner.model.timesteps)
    state.fill(learner.model, tensors, what=path)
    _refill(learner.optimizer, learner.model, content)
    scaler = (state.exact_position(content, content["global_step"]) or {}).get("scaler")
    if scaler:
        learner.scaler.load_state_dict(dict(scaler))
    learner.ranks.barrier()
    return path


def _agree(ranks: Ranks, newest: Path | None) -> Path | None:
    """Return what rank 0 has found: it may be further than the others, and saving."""
    found = ranks.exchange("" if newest is None else str(newest))[0]
    return Path(found) if found else None


def _refill(
    optimizer: torch.optim.Optimizer, module: nn.Module, content: Mapping[str, Any]
) -> None:
    """Take an optimizer's state from a checkpoint, but not its learning rate."""
    rate = optimizer.param_groups[0]["lr"]
    optimizer.state.clear()
    state.fill_optimizer(optimizer, module, content, (), learning_rate=rate)
    optimizer.param_groups[0]["lr"] = rate
