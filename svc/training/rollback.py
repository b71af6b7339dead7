"""Going back to a checkpoint in the middle of a run: nets, optimizers and loss scaler as they were saved.

The position in the data goes on: the same clips with the same random numbers would give the same
result. The learning rate stays as it is. The checkpoint is the newest one that was not saved among
steps that were skipped: of weights from which nothing finite has come nobody knows that they are good.
Where that does not help, it is the next older one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from svc.checkpoint import list_checkpoints, load_checkpoint, step_of
from svc.diffusion.loading import diffusion_tensors, full_schedule
from svc.errors import CheckpointError
from svc.training import state
from svc.training.diffusion_files import Start as DiffusionStart
from svc.training.diffusion_files import list_models, load_start
from svc.training.diffusion_step import DiffusionLearner
from svc.training.pair import NetPair
from svc.training.ranks import Ranks
from svc.training.rundir import Kind, find_start, load_pair
from svc.training.trouble import KEY


def roll_back(
    nets: NetPair[nn.Module], run_dir: Path, kind: Kind, back: int
) -> tuple[Path, Mapping[str, Any]] | None:
    """Fill two nets and their optimizers from a checkpoint of their run.

    Args:
        nets: filled.
        run_dir: folder of the run.
        kind: of the run.
        back: 0 for the newest checkpoint, 1 for the one before ...; the oldest where there are fewer.

    Returns:
        The checkpoint of the generator and its ``svc`` entry; None when nothing has been saved yet.

    Raises:
        CheckpointError: it cannot be read or does not fit.
    """
    files = [file for file in list_checkpoints(run_dir, kind) if step_of(file)]
    found = _choose(nets.ranks, files, back)
    if found is None:
        return None
    start = find_start(run_dir, str(found), kind=kind)
    paths = start.generator, start.discriminator
    contents = load_pair(start)
    for module, optimizer, path, content in zip(
        nets.modules, nets.optimizers, paths, contents, strict=True
    ):
        if path is None or content is None:  # a resume has both
            continue
        state.fill(module, content["model"], what=path)
        _refill(optimizer, module, content)
    extra = state.exact_position(contents[0], start.step) or {}
    if extra.get("scaler"):
        nets.scaler.load_state_dict(dict(extra["scaler"]))
    nets.ranks.barrier()  # then it may be deleted
    return found, extra


def roll_back_diffusion(learner: DiffusionLearner, run_dir: Path, back: int) -> Path | None:
    """Fill a diffusion model and its optimizer from a checkpoint of its run.

    Args:
        learner: filled. Where the checkpoint has no optimizer (`train.save_opt`), a new one begins.
        run_dir: folder of the run.
        back: as for `roll_back`.

    Returns:
        The checkpoint; None when nothing has been saved yet.

    Raises:
        CheckpointError: it cannot be read or does not fit.
    """
    files = [file for step, file in list_models(run_dir).items() if step]
    path = _choose(learner.ranks, files, back)
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


def _choose(ranks: Ranks, files: Sequence[Path], back: int) -> Path | None:
    """Return the checkpoint to go back to, of those given from the oldest to the newest: for all
    processes what rank 0 finds, which may be further than the others, and saving.
    """
    found = ""
    if ranks.is_main:
        good = [file for file in reversed(files) if not _among_skipped(file)] or files[-1:]
        found = str(good[min(back, len(good) - 1)]) if good else ""
    found = ranks.exchange(found)[0]
    return Path(found) if found else None


def _among_skipped(file: Path) -> bool:
    """Return whether a checkpoint was saved while steps were being skipped."""
    try:
        extra = load_checkpoint(file, mmap=True).get(state.EXTRA)
    except CheckpointError:  # told of when it is loaded
        return False
    kept = extra.get(KEY) if isinstance(extra, Mapping) else None
    return isinstance(kept, Mapping) and bool(kept.get("in_a_row"))


def _refill(
    optimizer: torch.optim.Optimizer, module: nn.Module, content: Mapping[str, Any]
) -> None:
    """Take an optimizer's state from a checkpoint, but not its learning rate."""
    rate = optimizer.param_groups[0]["lr"]
    optimizer.state.clear()
    state.fill_optimizer(optimizer, module, content, (), learning_rate=rate)
    optimizer.param_groups[0]["lr"] = rate
