"""Training a diffusion model: what ``svc train-diff`` does (spec_diffusion 11)."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from svc.config import DiffusionConfig, load_diffusion_config
from svc.dataset.feature_settings import FeatureSettings
from svc.diffusion.loading import CONFIG_NAME
from svc.errors import ConfigError
from svc.progress import Progress
from svc.threads import cpu_count
from svc.training import state
from svc.training.batches import TINY_DATASET, EpochBatches, stream_of
from svc.training.checks import tell
from svc.training.claim import claim
from svc.training.diffusion_checks import (
    DiffusionLists,
    check_config,
    choose_cache,
    choose_device,
    feature_settings,
    open_vocoder,
    read_lists,
)
from svc.training.diffusion_clips import Cache, DiffusionDataset, collate, crop_frames
from svc.training.diffusion_files import (
    Start,
    find_start,
    list_models,
    load_start,
    model_path,
    set_aside,
)
from svc.training.diffusion_options import DiffusionTrainOptions, DiffusionTrainResult
from svc.training.diffusion_resume import RunFacts, check_same_run, restore
from svc.training.diffusion_step import DiffusionLearner
from svc.training.diffusion_task import DiffusionTask
from svc.training.diffusion_validation import Validation, check_sampling
from svc.training.following import begin_together, journal_of, task_of
from svc.training.journal import Journal
from svc.training.loaders import lost_loaders
from svc.training.loop import Position, Schedule, run
from svc.training.probe import (
    AUTO,
    find_batch_size,
    longest_clips,
    settle_batch_size,
    with_batch_size,
)
from svc.training.ranks import Ranks
from svc.training.resume import order_facts
from svc.training.rundir import move_aside, publish, remove_halves
from svc.training.stopping import StopSignal

_LOG, _EVENTS = "log_info.txt", "logs"
_WARNING = logging.WARNING


def train(
    options: DiffusionTrainOptions,
    *,
    progress: Progress | None = None,
    loading: Progress | None = None,
) -> DiffusionTrainResult:
    """Train a diffusion model until a limit or a signal; a later call goes on where this one ended.

    Args:
        options: what to do.
        progress: called after each step with (step, last step, rate and loss).
        loading: called after each clip that is read into memory.

    Returns:
        Where the run stands.

    Raises:
        SvcError: config, data, checkpoint or device are not usable, or the loss is not finite; says
            what to do.
    """
    with Ranks.from_environment() as ranks:
        written = load_diffusion_config(options.config)
        run_dir = Path(apply_overrides(written, options).env.expdir)
        with claim(run_dir, needed=ranks.is_main):
            return _train(written, options, ranks, progress, loading)


def _train(
    written: DiffusionConfig,
    options: DiffusionTrainOptions,
    ranks: Ranks,
    progress: Progress | None,
    loading: Progress | None,
) -> DiffusionTrainResult:
    # ---- everything that can be wrong is looked at before anything is written --------------------
    config = apply_overrides(written, options)
    check_config(config)
    run_dir = Path(config.env.expdir)
    asked = options.device or ("cpu" if config.device == "cpu" else None)
    device, strange_device = choose_device(config, ranks.device(asked))
    start = find_start(run_dir, options.resume)
    settings = feature_settings(config)
    lists = read_lists(config, settings)
    cache = choose_cache(config, device)
    content = load_start(start) if start.model is not None else None
    earlier = None
    if content is not None and start.kind == "resume":
        earlier = state.exact_position(content, content["global_step"])
    config, searching = settle_batch_size(config, options.batch_size, earlier)
    facts = _facts(config, settings, lists, options.seed)
    if content is not None and start.kind == "resume":
        check_same_run(facts, run_dir, start, content)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    learner = DiffusionLearner(config, device, n_mels=settings.n_mels, seed=options.seed)
    check_sampling(config, learner.model)
    vocoder, silent = open_vocoder(config, device)
    position, notes = Position(), [f"{start.kind} start on {device}"]
    lengths = [crop_frames(config)] * len(lists.training.paths)
    if content is not None:
        batches = -(-len(lengths) // config.train.batch_size)
        notes += restore(learner, start, content, position, facts, batches=batches)
    del content  # as large as the net and its optimiser

    dataset = DiffusionDataset(
        config, settings, lists.training.paths,
        seed=options.seed, cache=cache, store=lists.training.store,
    )  # fmt: skip
    cache = dataset.keeps
    workers = choose_workers(
        options.num_workers, config, cache, device, len(dataset), processes=ranks.local_world
    )
    kept = dataset.preload(loading) if cache is not None else 0
    validation = Validation(
        config, settings, lists.validation.paths if ranks.is_main else [],
        samples=options.val_samples, vocoder=vocoder, store=lists.validation.store,
    )  # fmt: skip
    if searching:
        size, found = find_batch_size(
            learner, ranks, longest_clips(dataset, collate, lengths), len(lengths)
        )
        config, notes = with_batch_size(config, size), [*notes, found]
        facts = _facts(config, settings, lists, options.seed)
    same = {**facts.order, "step": position.step, "config": state.config_hash(config)}
    begin_together(learner, ranks, same)

    # ---- from here on the run folder changes -----------------------------------------------------
    if ranks.is_main:
        notes += prepare_folder(written, run_dir, start, position)
    logs: dict[str, Any] = {"log_name": _LOG, "events": _EVENTS, "evaluation": None}
    with (
        journal_of(ranks, run_dir, position.step + 1, **logs) as journal,
        StopSignal(cut_waits=ranks.world == 1) as stop,
        lost_loaders(),
    ):
        for note in notes:
            journal.note(note)
        texts = [text for text in (strange_device, silent) if text is not None]
        _tell(journal, config, lists, len(validation), settings.n_mels, texts)
        tell(journal.note, lists.training, lists.validation)
        journal.note(
            f"{len(dataset)} clips, {len(lists.validation.paths)} held out, {workers} loader "
            f"processes, in memory: {f'{kept / 1e6:.0f} MB' if cache is not None else 'nothing'}"
        )
        task = DiffusionTask(
            learner, facts, run_dir, journal, validation, position,
            keep=options.keep, max_bad=options.max_bad_steps, patience=options.patience, stop=stop,
        )  # fmt: skip
        task.trouble.go_on(earlier)
        sequence = EpochBatches(
            lengths, config.train.batch_size, seed=options.seed,
            epoch=position.epoch, batch=position.batch, rank=ranks.rank, world=ranks.world,
        )  # fmt: skip
        schedule = Schedule(
            config.train.interval_log,
            config.train.interval_val,
            config.train.epochs,
            options.max_steps,
            None if options.max_minutes is None else 60 * options.max_minutes,
        )
        first, began = position.step, time.monotonic()
        pin = device.type == "cuda" and not (cache and cache.device.type == "cuda")
        reason = run(
            task_of(task, ranks, options.seed),
            stream_of(dataset, sequence, collate, workers=workers, pin=pin, ranks=ranks),
            len(sequence),
            position,
            schedule,
            stop=stop,
            progress=progress,
            note=journal.note,
            agree=ranks.agree,
            world=ranks.world,
        )
        journal.note(f"ended by {reason} at step {position.step}, epoch {position.epoch}")
        task.trouble.tell_summary()
    models = list_models(run_dir)
    return DiffusionTrainResult(
        run_dir=run_dir,
        step=position.step,
        epoch=position.epoch,
        steps_run=position.step - first,
        seconds=time.monotonic() - began,
        reason=reason,
        model=models[max(models)] if models else None,
        best=None if task.best is None else task.best.path,
        losses=task.losses,
        trouble=task.trouble.summary(),
    )


def _facts(
    config: DiffusionConfig, settings: FeatureSettings, lists: DiffusionLists, seed: int
) -> RunFacts:
    order = order_facts(lists.training, batch_size=config.train.batch_size, seed=seed)
    return RunFacts(config, settings.of("mel"), {**order, "crop": crop_frames(config)})


def apply_overrides(config: DiffusionConfig, options: DiffusionTrainOptions) -> DiffusionConfig:
    """Return the config with the values given on the command line. Raises ConfigError."""
    given: dict[str, Any] = {
        "epochs": options.epochs,
        "batch_size": None if options.batch_size == AUTO else options.batch_size,
        "lr": options.learning_rate,
        "interval_log": options.log_interval,
        "interval_val": options.eval_interval,
    }
    train = {name: value for name, value in given.items() if value is not None}
    env = config.env
    if options.expdir is not None:
        env = dataclasses.replace(env, expdir=options.expdir.as_posix())
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **train), env=env)


def choose_workers(
    asked: int | None,
    config: DiffusionConfig,
    cache: Cache | None,
    device: torch.device,
    n_clips: int,
    *,
    processes: int = 1,
) -> int:
    """Return how many loader processes serve the clips.

    Args:
        asked: the flag; None = `train.num_workers`, as far as they are of use.
        config: the whole config.
        cache: where the clips are kept.
        device: where the net is.
        n_clips: clips in the list.
        processes: that train on this machine, each with loaders of its own.

    Raises:
        ConfigError: processes are asked for and cannot reach the clips.
    """
    if cache is not None and cache.device.type != "cpu":
        if asked:
            raise ConfigError(
                f"--num_workers {asked}: clips in the memory of {cache.device} cannot be served by "
                'other processes; leave the flag out, or set "train.cache_device" to cpu'
            )
        return 0
    if asked is not None:
        return asked
    spare = cpu_count() // processes - 1
    shares = multiprocessing.get_start_method(allow_none=False) == "fork"
    if n_clips < TINY_DATASET or spare < 2:
        return 0
    if cache is not None and (device.type == "cpu" or not shares):
        # A batch is put together from memory in less time than a CPU's step leaves.
        return 0
    return min(config.train.num_workers, spare)


def prepare_folder(
    config: DiffusionConfig, run_dir: Path, start: Start, position: Position
) -> list[str]:
    """Make room for this run in its folder; returns lines for the log."""
    notes = remove_halves(run_dir)
    here = start.model is not None and start.model.parent.resolve() == run_dir.resolve()
    named = model_path(run_dir, position.step)
    if start.model is not None and here and start.model.name not in (named.name, "model_0.pt"):
        # The original goes on from the step inside, and would find the higher name again.
        if named.exists():
            move_aside(run_dir, [run_dir / start.model.name])
        else:
            start.model.replace(named)
        notes.append(f"{start.model} holds step {position.step}, which counts")
    aside = set_aside(run_dir, position.step if here else 0)
    if aside is not None:
        notes.append(f"models of later steps moved to {aside}")
    backup = publish(config.to_yaml().encode(), run_dir / CONFIG_NAME)
    if backup is not None:
        notes.append(f"the earlier config is now {backup}")
    return notes


def _tell(
    journal: Journal,
    config: DiffusionConfig,
    lists: DiffusionLists,
    held_out: int,
    n_mels: int,
    texts: Sequence[str],
) -> None:
    """Say what is unusual and allowed."""
    if config.model.n_chans < 2 * n_mels:
        # The input projection is followed by a ReLU, which halves what its channels can carry.
        journal.note(
            f'"model.n_chans" is {config.model.n_chans}: less than twice the {n_mels} mel bands '
            "cannot carry all of the noise that the net has to tell, and its loss stays high",
            level=_WARNING,
        )
    if lists.dropped:
        journal.note(
            f"{len(lists.dropped)} clips are shorter than a crop ({config.data.duration:g} s, "
            f"data.duration) and left out: {_some(lists.dropped)}",
            level=_WARNING,
        )
    if not held_out:
        journal.note("no held-out clips: nothing is validated, none is the best", level=_WARNING)
    if not config.train.save_opt:
        journal.note(
            '"train.save_opt" is false: the optimizer is not saved, and a resumed run begins with a '
            "new one"
        )
    for text in texts:
        journal.note(text, level=_WARNING)


def _some(paths: Sequence[Path]) -> str:
    more = len(paths) - 3
    return ", ".join(map(str, paths[:3])) + (f" and {more} more" if more > 0 else "")
