"""Going on from checkpoints: what is refused, what is restored, and the run folder made ready."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from svc.checkpoint import step_of, strip_prefix
from svc.config import SvcConfig, load_config
from svc.errors import CheckpointError
from svc.synthesizer.check import describe_mismatch
from svc.training import state
from svc.training.checks import CheckedList
from svc.training.loop import Position
from svc.training.pair import NetPair
from svc.training.rundir import (
    Kind,
    RunConfig,
    Start,
    check_same_voice,
    cut_off_saves,
    publish_config,
    remove_halves,
    set_aside,
)
from svc.training.step import Adversaries

logger = logging.getLogger(__name__)

_HINT = "Take a file of the same kind, correct the config, or add --force to keep only what fits"


def clip_order(config: state.AdversarialConfig, training: CheckedList) -> dict[str, Any]:
    """Return the facts that decide which clips batch number n of an epoch holds."""
    return order_facts(training, batch_size=config.train.batch_size, seed=config.train.seed)


def order_facts(training: CheckedList, *, batch_size: int, seed: int) -> dict[str, Any]:
    """Return what `clip_order` says of a config."""
    names = "\n".join(path.as_posix() for path in training.paths)
    return {
        "clips": len(training.paths),
        "batch_size": batch_size,
        "seed": seed,
        "names": zlib.crc32(names.encode("utf-8", "surrogatepass")),
        "frames": sum(training.frames),
    }


def check_resumable(
    config: SvcConfig, run_dir: Path, start: Start, content: Mapping[str, Any]
) -> None:
    """Refuse to go on from a file that cannot be trained on, or with the config of another voice.

    Args:
        config: the config now.
        run_dir: folder of the run.
        start: what the run begins from.
        content: the checkpoint of G.

    Raises:
        CheckpointError: the file was made smaller for use.
        ConfigError: it was trained with another model section or for other speakers.
    """
    if start.generator is None:
        return
    state.refuse_released(content, start.generator)
    extra = content.get(state.EXTRA)
    if isinstance(extra, Mapping):
        saved = extra.get("config")
        model = saved.get("model") if isinstance(saved, Mapping) else None
        check_same_voice(config, model, extra.get("speakers"), start.generator)
    elif start.generator.parent == run_dir and (run_dir / "config.json").is_file():
        # A folder of the original: its copy of the config says what the files were trained with.
        earlier = load_config(run_dir / "config.json")
        check_same_voice(config, earlier.to_dict()["model"], earlier.spk, start.generator)


def restore(
    nets: Adversaries,
    start: Start,
    files: tuple[dict[str, Any], dict[str, Any] | None],
    position: Position,
    order: Mapping[str, Any],
    *,
    force: bool,
) -> list[str]:
    """Fill nets, optimisers, random number generators and position from checkpoints.

    Args:
        nets: filled.
        start: where the files are from.
        files: dictionaries of G and of D.
        position: set to where the files were saved.
        order: `clip_order` of this run; where the file's differs, its epoch begins anew.
        force: take what fits.

    Returns:
        Lines for the log.

    Raises:
        CheckpointError: more differs than may.
    """
    notes = []
    pairs = (
        (nets.generator, nets.optim_g, files[0], start.generator),
        (nets.discriminator, nets.optim_d, files[1], start.discriminator),
    )
    lr = nets.config.train.learning_rate
    for module, optimizer, content, path in pairs:
        if content is None or path is None:
            notes.append("no discriminator file: it begins new")
            continue
        # A base model may have another number of speakers, and none of the posterior encoder
        # (spec_core 10, T7).
        free = ("emb_g.", "enc_q.") if start.kind == "base" and module is nets.generator else ()
        try:
            filled = state.fill(
                module, content["model"], what=path, free=free, force=force, hint=_HINT
            )
        except CheckpointError as error:
            # For the generator the cause is known better than by a list of tensors.
            found = describe_mismatch(strip_prefix(content["model"]), nets.config.model)
            causes = [str(item) for item in found if not item.tensor.startswith(free)]
            if module is nets.discriminator or not causes:
                raise
            raise CheckpointError(
                f"{path} does not fit {nets.config.path}: {'; '.join(causes)}. {_HINT}"
            ) from error
        if start.kind == "base" and any(name.startswith("enc_q.") for name in filled.fresh):
            logger.warning(
                "%s has no posterior encoder (enc_q) that fits, like a compressed file: a new one "
                "begins from random values; a full checkpoint is the better base model",
                path,
            )
        moments = state.fill_optimizer(optimizer, module, content, filled.fresh, learning_rate=lr)
        notes.append(f"{path}: {filled}; {moments}")
    return notes + restore_position(nets, start, files[0], position, order)


def restore_position(
    nets: NetPair[nn.Module],
    start: Start,
    content: Mapping[str, Any],
    position: Position,
    order: Mapping[str, Any],
) -> list[str]:
    """Fill position, loss scaler and random number generators from the checkpoint of a generator.

    Args:
        nets: what is trained.
        start: where the file is from.
        content: the dictionary of G (or V).
        position: set to where the file was saved.
        order: facts that decide which clips a batch holds; where the file's differ, its epoch
            begins anew.

    Returns:
        Lines for the log.
    """
    notes: list[str] = []
    position.epoch = max(int(content.get("iteration") or 1), 1)
    if start.kind == "base":
        return notes
    position.step = start.step
    extra = state.exact_position(content, start.step)
    if extra is None:
        return [f"no exact position in the file: epoch {position.epoch} from its beginning"]
    position.epoch = int(extra["epoch"])
    if dict(extra.get("order", {})) == dict(order):
        position.batch = int(extra["batch"])
    else:
        notes.append(
            f"the data set or batch size has changed: epoch {position.epoch} from its beginning"
        )
    if extra.get("scaler"):
        nets.scaler.load_state_dict(dict(extra["scaler"]))
    if not state.restore_draws(extra.get("rng") or {}, nets.device):
        notes.append("saved on another kind of device: its random numbers begin anew")
    return notes


def prepare_folder(
    config: RunConfig,
    run_dir: Path,
    start: Start,
    resume: str,
    kind: Kind = "G",
    later: Sequence[Path] = (),
) -> list[str]:
    """Make room for this run in its folder; returns lines for the log.

    Args:
        config: copied into the folder.
        run_dir: the folder.
        start: what the run begins from.
        resume: as it was asked for.
        kind: of the run.
        later: files beside the checkpoints that move away with those of later steps.
    """
    notes = remove_halves(run_dir)
    if resume == "auto":
        for file in cut_off_saves(run_dir, kind):
            file.unlink(missing_ok=True)
            notes.append(
                f"removed {file}: its save was cut off before the {kind} of step {step_of(file)}"
            )
    else:
        aside = set_aside(run_dir, start.step, later)
        if aside is not None:
            notes.append(f"checkpoints of later steps moved to {aside}")
    backup = publish_config(config, run_dir)
    if backup is not None:
        notes.append(f"the earlier config is now {backup}")
    return notes
