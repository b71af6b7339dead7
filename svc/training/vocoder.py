"""Training a mel vocoder: what ``svc train-vocoder`` does (spec_vocoder 1 to 5; spec_core 7)."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from svc.checkpoint import find_latest
from svc.config import find_template
from svc.config.vocoder_training import VocoderRunConfig, load_vocoder_run_config
from svc.devices import resolve_device
from svc.progress import Progress
from svc.training import state
from svc.training.batches import EpochBatches, choose_workers, stream_of
from svc.training.best import KEY, Contest, Record
from svc.training.checks import tell
from svc.training.claim import claim
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
from svc.training.reporting import report, show
from svc.training.resume import clip_order, prepare_folder, restore_position
from svc.training.rollback import roll_back
from svc.training.rundir import Start, find_start, load_pair
from svc.training.saving import save_pair
from svc.training.scores import Score
from svc.training.stopping import StoppedError, StopSignal, never
from svc.training.task import AdversarialTask
from svc.training.vocoder_clips import (
    VocoderBatch,
    VocoderDataset,
    collate,
    hold_out,
    list_clips,
    read_takes,
)
from svc.training.vocoder_files import (
    BEST,
    MODEL,
    Base,
    Best,
    check_folder,
    check_resumable,
    config_of,
    export,
    later_exports,
    read_base,
    read_best,
    save_best,
)
from svc.training.vocoder_options import VocoderTrainOptions, VocoderTrainResult
from svc.training.vocoder_step import VocoderPair
from svc.training.vocoder_validation import VocoderValidation

TEMPLATE = "template_vocoder.json"
_SHOWN = {"mel": 3, "gen": 2, "disc": 2}  # digits in the progress line
_HEARD = 4  # held-out clips whose sound is written down
_FULL_SIZE = 400  # channels; from here on a CPU is too slow
_HINT = 'Next: leave "train.discriminator_width" as it was, or begin again with --resume never'


class VocoderTask(AdversarialTask[VocoderBatch]):
    """Drives the nets of a vocoder for the loop: steps, logs, evaluates and saves.

    Args:
        nets: generator and discriminator.
        config: the vocoder and its training.
        run_dir: folder of the run.
        journal: where to log.
        validation: clips of the evaluation.
        order: facts that decide which clips a batch holds; saved for exact resuming.
        best: the best evaluation so far.
        contest: the regular evaluations.
        stop: told when there has been no better one for too long.
    """

    def __init__(
        self,
        nets: VocoderPair,
        config: VocoderRunConfig,
        run_dir: Path,
        journal: Journal,
        validation: VocoderValidation,
        order: Mapping[str, Any],
        best: Best | None,
        contest: Contest,
        stop: StopSignal,
    ) -> None:
        super().__init__(
            nets, config.train, run_dir, journal,
            advice="lower --lr, or take --precision fp32", shown=_SHOWN,
        )  # fmt: skip
        self.nets, self.config, self.run_dir = nets, config, run_dir
        self.validation, self.order, self.best = validation, order, best
        self.contest, self.stop = contest, stop
        self.scores: dict[str, float] = {}

    def evaluate(self, step: int, stopping: Callable[[], bool] = never) -> None:
        """Let the vocoder sing the held-out clips; keep it where it is the best so far."""
        self.trouble.settle()
        if not len(self.validation):
            return
        generator, clips, began = self.nets.generator.eval(), [], time.monotonic()
        rate, count = self.config.vocoder.sampling_rate, len(self.validation)
        measure = self.validation.measure
        try:
            for sung in self.validation.sing(generator, self.nets.device, stopping):
                clips.append(sung.score)
                if sung.index < _HEARD or sung.index == count - 1:
                    show(self.journal, sung, step, rate, last=sung.index == count - 1)
        except StoppedError:
            return
        finally:
            generator.train()
        score, took = Score.of(clips), time.monotonic() - began
        self.scores = score.scalars()
        report(self.journal, step, score, took, generator, clips=count, measure=measure)
        if step % self.config.train.eval_interval == 0:
            self.contest.enter(Record(step, score.mel, measure))
        best = Best(step, score.mel, measure)
        if self.best is None or self.best.measure != best.measure or best.mel < self.best.mel:
            save_best(self.run_dir, generator, self._config_file, best, score)
            self.best = best
            self.journal.event("best", step, score=best.mel, path=(self.run_dir / BEST).as_posix())
            self.journal.note(f"the best so far: {self.run_dir / BEST}")

    def roll_back(self, back: int) -> Path | None:
        """Go back to a checkpoint."""
        found = roll_back(self.nets, self.run_dir, "V", back)
        return None if found is None else found[0]

    def save(self, position: Position) -> None:
        """Write ``V_<step>.pth`` and ``D_<step>.pth``, remove old ones, and write the export."""
        nets = self.nets
        more = {KEY: self.contest.state_dict(), **self.trouble.entries()}
        extra = state.run_keys(self.config, position, nets.device, nets.scaler, self.order, more)
        generator, _ = save_pair(
            self.run_dir,
            position.step,
            state.checkpoint(nets.generator, nets.optim_g, self.config, position, extra),
            state.checkpoint(nets.discriminator, nets.optim_d, self.config, position, extra),
            keep=self.trouble.keep(self.config.train.keep_ckpts),
            kind="V",
        )
        position.saved = position.step  # whatever becomes of the export
        exported = export(nets.generator, self._config_file, self.run_dir)
        self.journal.note(f"saved {generator} and its D at epoch {position.epoch}, and {exported}")
        self.contest.stop_waiting(self.stop, self.journal)

    @property
    def _config_file(self) -> Path:
        return self.run_dir / "config.json"


def train_vocoder(
    options: VocoderTrainOptions, *, progress: Progress | None = None
) -> VocoderTrainResult:
    """Train a vocoder until a limit or a signal; a later call goes on where this one ended.

    Args:
        options: what to do.
        progress: called after each step with (step, last step, rate and losses).

    Returns:
        Where the run stands.

    Raises:
        SvcError: config, data, checkpoint, base or device are not usable, or a loss is not finite;
            says what to do.
    """
    with Ranks.from_environment() as ranks, claim(options.output, needed=ranks.is_main):
        return _train(options, ranks, progress)


def _train(
    options: VocoderTrainOptions, ranks: Ranks, progress: Progress | None
) -> VocoderTrainResult:
    # ---- everything that can be wrong is looked at before anything is written --------------------
    device = resolve_device(ranks.device(options.device))
    run_dir = options.output
    check_folder(run_dir)
    start = find_start(run_dir, options.resume, kind="V")
    path = config_of(options.config, start, options.base) or find_template(TEMPLATE)
    config = apply_overrides(load_vocoder_run_config(path), options)
    files = load_pair(start) if start.generator is not None else None
    if files is not None and start.kind == "resume":
        check_resumable(config, start, files[0])
    base = None
    if options.base is not None and files is None:
        base = read_base(options.base, config)
    clips, held = hold_out(list_clips(options.dataset), options.validation, options.val_clips)
    training = read_takes(config, options.dataset, clips)
    validation = read_takes(config, options.validation or options.dataset, held)
    earlier = None if files is None else state.exact_position(files[0], start.step)
    config, searching = settle_batch_size(config, options.batch_size, earlier)
    seed = config.train.seed
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(seed)
    nets = VocoderPair(config, device)
    position = Position()
    notes = [f"{'base' if base else start.kind} start on {device}, config {path}"]
    order = {**clip_order(config, training), "segment_frames": config.segment_frames}
    if files is not None:
        notes += _restore(nets, start, files, position, order)
        if options.base is not None:
            notes.append(f"--base {options.base} is not read: the run goes on")
    if base is not None:
        notes += _begin_from(nets, base)
    contest, extra = Contest(options.patience), None
    if files is not None and start.kind == "resume":
        extra = state.exact_position(files[0], start.step) or {}
        contest.load_state_dict(extra.get(KEY))
    del files, base  # as large as the nets and their optimisers

    dataset = VocoderDataset(config, training, seed=seed)
    if dataset.memory.clips:
        dataset.preload()
    held_out = VocoderValidation(config, validation)
    if searching:
        size, found = find_batch_size(
            nets, ranks, longest_clips(dataset, collate, [1] * len(dataset)), len(dataset),
            step=max(1, config.train.gan_start_step),
        )  # fmt: skip
        config, notes = with_batch_size(config, size), [*notes, found]
        order["batch_size"] = size
    same = {**order, "step": position.step, "config": state.config_hash(config)}
    begin_together(nets, ranks, same)

    # ---- from here on the run folder changes -----------------------------------------------------
    aside = later_exports(run_dir, start.step) if options.resume != "auto" else []
    if ranks.is_main:
        notes += prepare_folder(config, run_dir, start, options.resume, "V", aside)
    best = read_best(run_dir) if ranks.is_main else None
    if best is not None and best.step > start.step:
        best = None  # of work that a kill took with it and that is done again
    stopping = StopSignal(cut_waits=ranks.world == 1)
    with journal_of(ranks, run_dir, position.step + 1) as journal, stopping as stop, lost_loaders():
        for note in notes:
            journal.note(note)
        workers = choose_workers(dataset, processes=ranks.local_world)
        journal.note(
            f"{len(training.paths)} clips, {len(dataset)} crops of them an epoch, {len(held_out)} "
            f"clips held out, {workers} loader processes, in memory: "
            f"{dataset.memory}"
        )
        tell(journal.note, training, validation)
        _warn(config, device, [*training.dropped, *validation.dropped], held_out, journal)
        batches = EpochBatches(
            [config.segment_frames] * len(dataset), config.train.batch_size, seed=seed,
            epoch=position.epoch, batch=position.batch, rank=ranks.rank, world=ranks.world,
        )  # fmt: skip
        task = VocoderTask(
            nets, config, run_dir, journal, held_out, order, best, contest, stop
        )  # fmt: skip
        task.trouble.go_on(extra)
        contest.stop_waiting(stop, journal)
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
            stream_of(
                dataset, batches, collate, workers=workers, pin=device.type == "cuda", ranks=ranks
            ),
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
    return VocoderTrainResult(
        run_dir=run_dir,
        step=position.step,
        epoch=position.epoch,
        steps_run=position.step - first,
        seconds=time.monotonic() - began,
        reason=reason,
        generator=find_latest(run_dir, "V"),
        discriminator=find_latest(run_dir, "D"),
        losses=task.losses,
        trouble=task.trouble.summary(),
        scores=task.scores,
        record=contest.best,
        exported=file if (file := run_dir / MODEL).is_file() else None,
        best=run_dir / BEST / MODEL if task.best is not None else None,
        best_score=task.best,
    )


def apply_overrides(config: VocoderRunConfig, options: VocoderTrainOptions) -> VocoderRunConfig:
    """Return the config with the values given on the command line. Raises ConfigError."""
    names = (
        "seed", "log_interval", "eval_interval", "batch_size", "learning_rate", "epochs",
        "max_bad_steps",
    )  # fmt: skip
    given: dict[str, Any] = {
        name: value for name in names if (value := getattr(options, name)) not in (None, AUTO)
    }
    if options.keep is not None:
        given["keep_ckpts"] = options.keep
    if options.segment_frames is not None:
        given["segment_size"] = options.segment_frames * config.vocoder.hop_size
    if options.precision is not None:
        given["fp16_run"] = options.precision != "fp32"
        if given["fp16_run"]:
            given["half_type"] = options.precision
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **given))


def _restore(
    nets: VocoderPair,
    start: Start,
    files: tuple[dict[str, Any], dict[str, Any] | None],
    position: Position,
    order: Mapping[str, Any],
) -> list[str]:
    """Fill everything from the checkpoints of a run; returns lines for the log."""
    notes = []
    pairs = (
        (nets.generator, nets.optim_g, files[0], start.generator),
        (nets.discriminator, nets.optim_d, files[1], start.discriminator),
    )
    for module, optimizer, content, path in pairs:
        if content is None or path is None:
            notes.append("no discriminator file: it begins new")
            continue
        filled = state.fill(module, content["model"], what=path, hint=_HINT)
        moments = state.fill_optimizer(
            optimizer, module, content, filled.fresh, learning_rate=nets.config.train.learning_rate
        )
        notes.append(f"{path}: {filled}; {moments}")
    return notes + restore_position(nets, start, files[0], position, order)


def _begin_from(nets: VocoderPair, base: Base) -> list[str]:
    """Take the weights of a vocoder, strictly; returns lines for the log."""
    filled = state.fill(nets.generator, base.generator, what=base.weights)
    notes = [f"{base.weights}: {filled} of {len(base.generator)}"]
    if base.others:
        notes.append(f"{base.weights}: not used: {', '.join(base.others)}")
    if base.discriminator is None or base.partner is None:
        return [*notes, "the discriminator begins new"]
    filled = state.fill(
        nets.discriminator, base.discriminator["model"], what=base.partner, hint=_HINT
    )
    return [*notes, f"{base.partner}: {filled}"]


def _warn(
    config: VocoderRunConfig,
    device: torch.device,
    dropped: list[Path],
    validation: VocoderValidation,
    journal: Journal,
) -> None:
    """Say what is unusual and allowed."""
    if dropped:
        journal.note(
            f"{len(dropped)} clips are shorter than a crop of {config.segment_frames} frames and "
            f"left out, the first: {dropped[0]}",
            level=logging.WARNING,
        )
    if device.type == "cpu" and config.vocoder.upsample_initial_channel >= _FULL_SIZE:
        journal.note(
            "training a full-size vocoder on a CPU takes weeks: use a GPU, or  --config "
            "configs/template_vocoder_small.json",
            level=logging.WARNING,
        )
    if not len(validation):
        journal.note(
            "no held-out clips: nothing is evaluated, and there is no best export",
            level=logging.WARNING,
        )
