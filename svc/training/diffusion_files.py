"""The files of a diffusion run: ``model_<step>.pt`` in its folder, and the best one below it
(spec_diffusion 2 and 11).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from svc.atomic import write_text
from svc.checkpoint import load_checkpoint, save_checkpoint
from svc.diffusion.loading import CONFIG_NAME, diffusion_tensors
from svc.errors import CheckpointError, MissingFileError, SvcError
from svc.training.rundir import move_aside
from svc.training.state import EXTRA

BEST = "best"
"""Sub-folder of the best model. The original takes the highest ``model_<number>.pt`` beside the
config for the newest; one further down counts as 0 for it.
"""
_NAME = re.compile(r"model_(\d+)\.pt")


@dataclass(frozen=True)
class Start:
    """What a run begins from."""

    kind: Literal["fresh", "base", "resume"]
    """``base``: the weights of model_0.pt, a new run. ``resume``: an earlier run goes on."""
    model: Path | None = None


@dataclass(frozen=True)
class Best:
    """The best model so far."""

    path: Path
    step: int
    loss: float
    """On the held-out clips."""
    measure: str
    """Of which clips and how; only losses of the same measure can be compared."""


def model_path(run_dir: Path, step: int) -> Path:
    """Return where the model of a step lies."""
    return run_dir / f"model_{step}.pt"


def list_models(folder: Path) -> dict[int, Path]:
    """Return the models directly in a folder by the step in their name, lowest first."""
    if not folder.is_dir():
        return {}
    found = {int(m[1]): path for path in folder.iterdir() if (m := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def find_start(run_dir: Path, resume: str) -> Start:
    """Decide what a run begins from, by file names alone (spec_diffusion 11).

    Args:
        run_dir: folder of the run; it need not exist.
        resume: ``auto``, ``never``, or the path of a ``model_<step>.pt`` or of a folder with some.

    Returns:
        The start.

    Raises:
        MissingFileError: the path given does not exist or holds no model.
        CheckpointError: it has another name.
    """
    if resume not in ("auto", "never"):
        return _start_from(Path(resume))
    models = list_models(run_dir)
    newest = max(models, default=0)
    if newest and resume == "auto":
        return Start("resume", models[newest])
    return Start("base", models[0]) if 0 in models else Start("fresh")


def _start_from(path: Path) -> Start:
    if path.is_dir():
        models = list_models(path)
        if not models:
            raise MissingFileError(f"--resume {path}: the folder holds no model_<step>.pt")
        path = models[max(models)]
    elif not path.is_file():
        raise MissingFileError(
            f"--resume {path} is not there; give auto, never or an existing model_*.pt"
        )
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"--resume {path}: the name must be model_<step>.pt")
    return Start("resume" if int(match[1]) else "base", path)


def load_start(start: Start) -> dict[str, Any]:
    """Read the model of a start.

    Args:
        start: base or resume.

    Returns:
        The dictionary.

    Raises:
        CheckpointError: it is unreadable or no diffusion model; names the file and, by reading
            them, the last good one.
    """
    if start.model is None:
        raise ValueError("a fresh start has no model")
    try:
        return _load(start.model, start.kind)
    except CheckpointError as error:
        if start.kind == "base":
            raise
        models = list_models(start.model.parent)
        others = [path for step, path in sorted(models.items(), reverse=True) if step]
        good = (path for path in others if path != start.model and _readable(path))
        last = next(good, None)
        way = "there is no older one; restore the file, or begin again with --resume never"
        if last is not None:
            way = f"the last good one is --resume {last}"
        raise CheckpointError(f"{error}. Nothing was started; {way}") from error


def _load(path: Path, kind: str) -> dict[str, Any]:
    content = load_checkpoint(path, verify=kind == "resume")
    diffusion_tensors(content, str(path))
    step = content.get("global_step")
    if kind == "resume" and (type(step) is not int or step < 0):
        raise CheckpointError(
            f'{path}: holds no "global_step", so training cannot go on from it; as the base of a '
            "new run it is named model_0.pt"
        )
    return content


def _readable(path: Path) -> bool:
    try:
        _load(path, "resume")
    except SvcError:
        return False
    return True


def prune(run_dir: Path, *, keep: int, force_save: int) -> list[Path]:
    """Delete models that are neither among the newest nor at a step that is always kept.

    With `keep` 1 it is the original's rule (spec_diffusion 11), and covers saves between its steps,
    which an interrupted run makes.

    Args:
        run_dir: folder of the run.
        keep: newest ones to keep; 0 keeps all.
        force_save: multiples of it are kept, and with them the base model.

    Returns:
        The deleted files.
    """
    if keep == 0:
        return []
    models = list_models(run_dir)
    spare = [step for step in list(models)[:-keep] if step % force_save]
    for step in spare:
        models[step].unlink(missing_ok=True)
    return [models[step] for step in spare]


# ---- the best one --------------------------------------------------------------------------------


def read_best(run_dir: Path) -> Best | None:
    """Return the best model of a run; None when there is none, or none that says how good it is."""
    for step, path in reversed(list_models(run_dir / BEST).items()):
        try:
            extra = load_checkpoint(path, mmap=True).get(EXTRA)
        except CheckpointError:
            continue  # it is looked at again only when a better one takes its place
        if isinstance(extra, Mapping) and isinstance(loss := extra.get("validation_loss"), float):
            return Best(path, step, loss, str(extra.get("measure")))
    return None


def save_best(run_dir: Path, best: Best, content: Mapping[str, Any], config: str) -> None:
    """Put a model into the place of the best one, with the config that singing with it needs.

    Args:
        run_dir: folder of the run.
        best: what is known of it.
        content: its dictionary.
        config: text of its config.yaml.

    Raises:
        OutputError: it cannot be written; the earlier one is still there.
    """
    write_text(best.path.with_name(CONFIG_NAME), config)
    known = {"validation_loss": best.loss, "measure": best.measure}
    save_checkpoint({**content, EXTRA: {**content[EXTRA], **known}}, best.path, read_back=True)
    for step, path in list_models(run_dir / BEST).items():
        if step != best.step:
            path.unlink(missing_ok=True)


def set_aside(run_dir: Path, after: int) -> Path | None:
    """Move models of steps above `after` into a sub-folder, the best one of them too.

    Left where they are, the next start would take them for the newest or the best of this run.
    Raises OutputError.
    """
    places = (run_dir, run_dir / BEST)
    return move_aside(
        run_dir, [path for place in places for step, path in list_models(place).items() if step > after]
    )  # fmt: skip
