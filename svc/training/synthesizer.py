"""Training a voice: what ``svc train`` does (spec_core 7)."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from svc.checkpoint import find_latest
from svc.config import SvcConfig, load_config
from svc.devices import resolve_device
from svc.f0.range_files import RANGE_KEY, plain_ranges
from svc.f0.voice_range import VoiceRange
from svc.progress import Progress
from svc.training import state
from svc.training.batches import Batch, EpochBatches, choose_workers, collate, stream
from svc.training.best import make_room, outdated
from svc.training.checks import CheckedList, read_lists, tell
from svc.training.claim import claim
from svc.training.clips import ClipDataset, plan_memory
from svc.training.compiling import compile_nets, uncompiled
from svc.training.evaluations import Evaluations
from svc.training.following import begin_together, journal_of, task_of
from svc.training.journal import Journal
from svc.training.loaders import lost_loaders
from svc.training.loop import Position, Schedule, run
from svc.training.machine import choose_kernels, with_precision
from svc.training.options import TrainOptions, TrainResult
from svc.training.probe import (
    AUTO,
    find_batch_size,
    longest_clips,
    settle_batch_size,
    with_batch_size,
)
from svc.training.ranges import measure_ranges, publish_ranges
from svc.training.ranks import Ranks
from svc.training.resume import check_resumable, clip_order, prepare_folder, restore
from svc.training.rollback import roll_back
from svc.training.rundir import find_start, load_pair
from svc.training.saving import save_pair
from svc.training.step import Adversaries
from svc.training.stopping import StopSignal, never
from svc.training.task import AdversarialTask
from svc.training.validation import Validation
from svc.vocoder.backends.compiled import check_compiler

_SHOWN = {"mel": 3, "kl": 2, "gen": 2, "disc": 2}  # digits in the progress line


class SynthesizerTask(AdversarialTask[Batch]):
    """Drives the nets of a voice for the loop: steps, logs, evaluates and saves.

    Args:
        nets: generator and discriminator.
        config: the whole config.
        run_dir: folder of the run.
        journal: where to log.
        evaluations: on held-out clips.
        stop: told when there has been no better evaluation for too long.
        order: facts that decide which clips a batch holds; saved for exact resuming.
        ranges: which notes each speaker sings; saved for choosing a transposition.
    """

    def __init__(
        self,
        nets: Adversaries,
        config: SvcConfig,
        run_dir: Path,
        journal: Journal,
        evaluations: Evaluations,
        stop: StopSignal,
        order: Mapping[str, Any],
        ranges: Mapping[str, VoiceRange] | None = None,
    ) -> None:
        super().__init__(
            nets, config.train, run_dir, journal,
            advice='lower --learning_rate, or set "train.fp16_run" to false', shown=_SHOWN,
        )  # fmt: skip
        self.nets, self.config, self.run_dir = nets, config, run_dir
        self.evaluations, self.stop = evaluations, stop
        self.order, self.ranges = order, dict(ranges or {})

    def step(self, batch: Batch, step: int, *, detailed: bool) -> None:
        """Train on one batch."""
        super().step(batch, step, detailed=detailed)
        self.evaluations.follow()

    def log(self, step: int, rate: float, waiting: float) -> str:
        """Write scalars and pictures; the loss of the pitch as 0 where it has none (spec_core 7.3)."""
        text = super().log(step, rate, waiting)
        if "lf0" not in self.losses:
            self.journal.scalars({"loss/g/lf0": 0.0}, step)
        return text

    def roll_back(self, back: int) -> Path | None:
        """Go back to a checkpoint, with the average of the weights."""
        found = roll_back(self.nets, self.run_dir, "G", back)
        if found is None:
            return None
        self.evaluations.roll_back(found[1])
        return found[0]

    # ---- evaluation and saving -------------------------------------------------------------------

    def evaluate(self, step: int, stopping: Callable[[], bool] = never) -> None:
        """Measure the voice on the held-out clips and keep the best one (spec_core 7.4)."""
        self.trouble.settle()
        with uncompiled(self.nets.generator):
            self.evaluations.run(step, self.epoch, stopping)

    def save(self, position: Position) -> None:
        """Write ``G_<step>.pth`` and ``D_<step>.pth`` and remove old ones."""
        nets, kept = self.nets, self.trouble.entries()
        extra = state.extra_keys(self.config, position, nets.device, nets.scaler, self.order, kept)
        sings = {**extra, **self.evaluations.keys(), RANGE_KEY: plain_ranges(self.ranges)}
        generator, _ = save_pair(
            self.run_dir,
            position.step,
            state.checkpoint(nets.generator, nets.optim_g, self.config, position, sings),
            state.checkpoint(nets.discriminator, nets.optim_d, self.config, position, extra),
            keep=self.trouble.keep(self.config.train.keep_ckpts),
        )
        self.journal.note(f"saved {generator} and its D at epoch {position.epoch}")
        self.evaluations.contest.stop_waiting(self.stop, self.journal)


def train(options: TrainOptions, *, progress: Progress | None = None) -> TrainResult:
    """Train a voice until a limit or a signal; a later call goes on where this one ended.

    Steps count from 1, so ``G_800.pth`` has done 800 of them (the original's first step is 0 in a
    fresh run and 1 on a base model).

    Args:
        options: what to do.
        progress: called after each step with (step, last step, rate and losses).

    Returns:
        Where the run stands.

    Raises:
        SvcError: config, data, checkpoint or device are not usable, or a loss is not finite; says
            what to do.
    """
    with Ranks.from_environment() as ranks, claim(options.run_dir, needed=ranks.is_main):
        return _train(options, ranks, progress)


def _train(options: TrainOptions, ranks: Ranks, progress: Progress | None) -> TrainResult:
    # ---- everything that can be wrong is looked at before anything is written --------------------
    config = apply_overrides(load_config(options.config), options)
    device = resolve_device(ranks.device(options.device))
    config = dataclasses.replace(
        config, train=with_precision(config.train, options.precision, device)
    )
    choose_kernels(device)
    if options.compile:
        check_compiler(device)
    run_dir = options.run_dir
    start = find_start(run_dir, options.resume, force=options.force)
    training, validation = read_lists(config)
    if not ranks.is_main:
        validation = CheckedList([], [])  # rank 0 evaluates
    files = load_pair(start) if start.generator is not None else None
    if files is not None and start.kind == "resume" and not options.force:
        check_resumable(config, run_dir, start, files[0])
    earlier = None if files is None else state.exact_position(files[0], start.step)
    config, searching = settle_batch_size(config, options.batch_size, earlier)
    seed = config.train.seed
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(seed)
    nets = Adversaries(config, device)
    position, notes = Position(), [f"{start.kind} start on {device}"]
    order = clip_order(config, training)
    if files is not None:
        notes += restore(nets, start, files, position, order, force=options.force)
    resumed = files[0] if files is not None and start.kind == "resume" else None
    ranges, told = measure_ranges(config, training, run_dir, resumed)
    notes += told
    extra = None if resumed is None else state.exact_position(resumed, start.step)
    del files, resumed  # as large as the nets and their optimisers

    memory = plan_memory(config, training.frames, packed=training.packed)
    dataset = ClipDataset(
        config, training.paths, augment=True, seed=seed, memory=memory, store=training.store
    )
    if memory.clips or memory.specs:
        dataset.preload()
    held_out = ClipDataset(config, validation.paths, augment=False, store=validation.store)
    if searching:
        size, found = find_batch_size(
            nets, ranks, longest_clips(dataset, collate, training.frames), len(training.paths),
            step=max(1, config.train.gan_start_step),
        )  # fmt: skip
        config, notes = with_batch_size(config, size), [*notes, found]
        order = clip_order(config, training)
    facts = {**order, "step": position.step, "config": state.config_hash(config)}
    begin_together(nets, ranks, facts)
    if options.compile:
        notes.append(compile_nets(nets.generator, nets.discriminator))

    # ---- from here on the run folder changes -----------------------------------------------------
    if ranks.is_main:
        later = outdated(run_dir, start)
        notes += prepare_folder(config, run_dir, start, options.resume, later=later)
        notes += make_room(run_dir, start)
        publish_ranges(run_dir, ranges)
    stopping = StopSignal(cut_waits=ranks.world == 1)
    with journal_of(ranks, run_dir, position.step + 1) as journal, stopping as stop, lost_loaders():
        for note in notes:
            journal.note(note)
        workers = choose_workers(dataset, processes=ranks.local_world)
        journal.note(
            f"{len(training.paths)} clips, {len(validation.paths)} held out, {workers} loader "
            "processes, in memory: "
            f"{memory}"
        )
        tell(journal.note, training, validation)
        _warn(config, device, validation, journal)
        batches = EpochBatches(
            training.frames, config.train.batch_size, seed=seed,
            epoch=position.epoch, batch=position.batch, rank=ranks.rank, world=ranks.world,
        )  # fmt: skip
        evaluations = Evaluations(
            nets, config, run_dir, journal, Validation(config, held_out, validation.frames, nets.mel),
            patience=options.patience, entries={RANGE_KEY: plain_ranges(ranges)},
        )  # fmt: skip
        evaluations.restore(extra, position, stop)
        task = SynthesizerTask(nets, config, run_dir, journal, evaluations, stop, order, ranges)
        task.trouble.go_on(extra)
        schedule = Schedule(
            config.train.log_interval,
            config.train.eval_interval,
            config.train.epochs,
            options.max_steps,
            None if options.max_minutes is None else 60 * options.max_minutes,
        )
        first, began = position.step, time.monotonic()
        reason = run(
            task_of(task, ranks, seed),
            stream(dataset, batches, workers=workers, pin=device.type == "cuda", ranks=ranks),
            len(batches),
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
    return TrainResult(
        run_dir=run_dir,
        step=position.step,
        epoch=position.epoch,
        steps_run=position.step - first,
        seconds=time.monotonic() - began,
        reason=reason,
        generator=find_latest(run_dir, "G"),
        discriminator=find_latest(run_dir, "D"),
        losses=task.losses,
        trouble=task.trouble.summary(),
        scores=evaluations.scores,
        best=evaluations.best.path if evaluations.best.record is not None else None,
        record=evaluations.best.record,
    )


def apply_overrides(config: SvcConfig, options: TrainOptions) -> SvcConfig:
    """Return the config with the values given on the command line. Raises ConfigError."""
    names = (
        "seed", "log_interval", "eval_interval", "batch_size", "learning_rate", "epochs",
        "max_bad_steps",
    )  # fmt: skip
    given: dict[str, Any] = {
        name: value for name in names if (value := getattr(options, name)) not in (None, AUTO)
    }
    if not options.ema:
        given["ema_decay"] = 0.0
    if options.keep is not None:
        given["keep_ckpts"] = options.keep
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **given))


def _warn(
    config: SvcConfig, device: torch.device, validation: CheckedList, journal: Journal
) -> None:
    """Say what is unusual and allowed."""
    if device.type == "cpu" and config.model.upsample_initial_channel >= 400:
        journal.note(
            "training a full-size voice on a CPU takes weeks: use a GPU, or a config made with  "
            "svc preprocess --template template_quick.json",
            level=logging.WARNING,
        )
    if not validation.paths:
        journal.note("no held-out clips: nothing is evaluated", level=logging.WARNING)
    if config.train.vol_aug and not config.model.vol_embedding:
        journal.note(
            '"train.vol_aug" has no effect without "model.vol_embedding"', level=logging.WARNING
        )
