"""What a diffusion checkpoint holds, and how a run goes on from one (spec_diffusion 2 and 11; 12,
B13).

The original's keys keep their meaning: ``global_step``, ``model``, and ``optimizer`` where
`train.save_opt` says so. All that exact resuming needs beyond them is under one key, ``svc``, which
the original ignores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from svc import __version__
from svc.config import DiffusionConfig, load_diffusion_config
from svc.dataset.feature_settings import PartSettings
from svc.diffusion.loading import CONFIG_NAME, diffusion_tensors, full_schedule, mismatches
from svc.errors import CheckpointError, ConfigError
from svc.training import state
from svc.training.diffusion_files import Start
from svc.training.diffusion_step import DiffusionLearner
from svc.training.loop import Position

_WAYS = "use another env.expdir (--expdir), or --resume never to begin again"
_TABLE = "spk_embed.weight"
_SAME = {
    "data": ("encoder", "encoder_out_channels", "sampling_rate", "block_size"),
    "model": ("n_layers", "n_chans", "n_hidden", "use_pitch_aug", "timesteps", "n_spk"),
}
"""Keys that a run cannot change on its way."""
_NULL_MEANS = {"timesteps": 1000, "n_spk": 1}


@dataclass(frozen=True)
class RunFacts:
    """What every checkpoint of a run says of it."""

    config: DiffusionConfig
    mel: PartSettings
    """How the vocoder measures mels."""
    order: Mapping[str, Any]
    """What decides which clips batch number n of an epoch holds."""


def checkpoint(
    learner: DiffusionLearner,
    position: Position,
    facts: RunFacts,
    *,
    optimizer: bool,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the dictionary that is saved.

    Args:
        learner: the net and its optimiser.
        position: what is done.
        facts: of the run.
        optimizer: with its state, three quarters of the size.
        more: entries of single parts of a run, see `state.run_keys`.
    """
    config = facts.config
    content: dict[str, Any] = {
        "global_step": position.step,
        "model": state.plain_state(learner.model),
    }
    if optimizer:
        content["optimizer"] = state.plain_optimizer(learner.optimizer)
    entry = {
        "format": state.FORMAT,
        "version": __version__,
        "step": position.step,
        "epoch": position.epoch,
        "batch": position.batch,
        "order": dict(facts.order),
        # Both by the number of the step: there is no state.
        "scheduler": {"gamma": config.train.gamma, "decay_step": config.train.decay_step},
        "rng": {"seed": learner.seed},
        "scaler": learner.scaler.state_dict(),
        "config": config.to_dict(),
        "config_hash": state.config_hash(config),
        "mel": dict(facts.mel),
        "speakers": dict(config.spk),
        "encoder": config.data.encoder,
    }
    content[state.EXTRA] = {**entry, **state.plain_entries(more or {}, entry)}
    return content


def check_same_run(
    facts: RunFacts, run_dir: Path, start: Start, content: Mapping[str, Any]
) -> None:
    """Refuse to go on with a model that was trained for another net, other speakers or other mels.

    Args:
        facts: of the run now.
        run_dir: its folder.
        start: where the file is from.
        content: of the file.

    Raises:
        ConfigError: names what differs and the ways on.
    """
    config, extra = facts.config, content.get(state.EXTRA)
    before: Mapping[str, Any] = {}
    if isinstance(extra, Mapping):
        before = extra.get("config") or {}
        mel = extra.get("mel")
        if isinstance(mel, Mapping) and dict(mel) != dict(facts.mel):
            raise ConfigError(
                f"{start.model} was trained on mels of another vocoder ({_differing(mel, facts.mel)})"
                f"; set vocoder.ckpt back, {_WAYS}"
            )
    elif start.model is not None and (file := start.model.with_name(CONFIG_NAME)).is_file():
        # A run of the original: its copy of the config says what the files were trained with.
        before = load_diffusion_config(file).to_dict()
    now = config.to_dict()
    for section, keys in _SAME.items():
        if isinstance(earlier := before.get(section), Mapping):
            one = {key: _meaning(key, earlier[key]) for key in keys if key in earlier}
            two = {key: _meaning(key, now[section][key]) for key in one}
            if one != two:
                raise ConfigError(
                    f"the {section} section of {config.path} differs from the one {start.model} was "
                    f"trained with ({_differing(one, two)}); {_WAYS}"
                )
    speakers = before.get("spk", config.spk)
    if dict(speakers) != config.spk:
        raise ConfigError(
            f"{start.model} was trained for the speakers {dict(speakers)} and {config.path} has "
            f"{config.spk}; {_WAYS}, or copy it to another folder as model_0.pt, the base of a new "
            "run"
        )


def _meaning(key: str, value: Any) -> Any:
    return _NULL_MEANS[key] if value is None and key in _NULL_MEANS else value


def _differing(one: Mapping[str, Any], two: Mapping[str, Any]) -> str:
    keys = [key for key in {**one, **two} if one.get(key) != two.get(key)]
    return "; ".join(f"{key} {one.get(key)!r} -> {two.get(key)!r}" for key in keys)


def restore(
    learner: DiffusionLearner,
    start: Start,
    content: Mapping[str, Any],
    position: Position,
    facts: RunFacts,
    *,
    batches: int,
) -> list[str]:
    """Fill net, optimiser and position from a checkpoint.

    Args:
        learner: filled.
        start: where the file is from.
        content: of the file.
        position: set to where the file was saved.
        facts: of the run now.
        batches: in an epoch, which tells the epoch of a file of the original.

    Returns:
        Lines for the log: what was taken from the file and what was not.

    Raises:
        CheckpointError: the file does not fit the config.
    """
    path, model, config = start.model, learner.model, facts.config
    if path is None:
        raise ValueError("a fresh start has no model")
    tensors = diffusion_tensors(content, str(path))
    # A base model may have been trained on other speakers, or on one.
    base = start.kind == "base"
    causes = [*mismatches(tensors, config, ignore=("model.n_spk",) if base else ())]
    n_mels = len(tensors["decoder.denoise_fn.output_projection.weight"])
    if n_mels != model.n_mels:
        causes.append(f"trained on mels of {n_mels} bands, the vocoder has {model.n_mels}")
    if causes:
        way = "take another base model, or correct the key named here" if base else _WAYS
        raise CheckpointError(
            f"{path} does not fit {config.path}: {'; '.join(causes)}. Next: {way}"
        )
    tensors = full_schedule(tensors, model.timesteps)
    tensors, note, fresh = _fit_speakers(tensors, model.state_dict())
    filled = state.fill(model, tensors, what=path, free=("spk_embed.",) if base else ())
    moments = state.fill_optimizer(
        learner.optimizer, model, content, (*filled.fresh, *fresh), learning_rate=config.train.lr
    )
    notes = [f"{path}: {filled}{note}; {moments}"]
    if base:
        return notes
    return notes + _restore_position(learner, content, position, facts, batches)


def _fit_speakers(
    tensors: dict[str, Tensor], own: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], str, tuple[str, ...]]:
    """Give a table of speakers of another size the size of the net's, keeping the rows both have.

    Returns the tensors, a clause for the log, and the names of those that are partly new.
    """
    table, mine = tensors.get(_TABLE), own.get(_TABLE)
    if table is None or mine is None or table.shape == mine.shape:
        return tensors, "", ()
    rows = min(len(table), len(mine))
    merged = mine.detach().cpu().clone()
    merged[:rows] = table[:rows].to(merged)
    note = f"; speakers 0 to {rows - 1} of its {len(table)}, the net has {len(mine)}"
    return {**tensors, _TABLE: merged}, note, (_TABLE,)


def _restore_position(
    learner: DiffusionLearner,
    content: Mapping[str, Any],
    position: Position,
    facts: RunFacts,
    batches: int,
) -> list[str]:
    position.step = content["global_step"]
    position.epoch = position.step // batches + 1
    extra = state.exact_position(content, position.step)
    if extra is None:
        return [f"no exact position in the file: epoch {position.epoch} from its beginning"]
    notes = []
    if dict(extra.get("order", {})) == dict(facts.order):
        position.epoch, position.batch = int(extra["epoch"]), int(extra["batch"])
    else:
        position.epoch = int(extra["epoch"])
        notes.append(
            f"the data set or batch size has changed: epoch {position.epoch} from its beginning"
        )
    if extra.get("scaler"):
        learner.scaler.load_state_dict(dict(extra["scaler"]))
    return notes
