"""Training a mel vocoder: what ``svc train-vocoder`` does (spec_vocoder 1 to 5; spec_core 7)."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from svc.checkpoint import find_latest
from svc.config import find_template
from svc.config.vocoder_training import VocoderRunConfig, load_vocoder_run_config
from svc.devices import resolve_device
from svc.progress import Progress
from svc.training import figures, state
from svc.training.batches import EpochBatches, choose_workers, stream_of
from svc.training.journal import Journal
from svc.training.loop import Position, Schedule, StopSignal, run
from svc.training.resume import clip_order, prepare_folder, restore_position
from svc.training.rundir import Start, find_start, load_pair
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
from svc.training.vocoder_validation import Judge, VocoderValidation

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
    ) -> None:
        super().__init__(nets, config.train, journal, shown=_SHOWN)
        self.nets, self.config, self.run_dir = nets, config, run_dir
        self.validation, self.order, self.best = validation, order, best

    def evaluate(self, step: int) -> None:
        """Let the vocoder sing the held-out clips; keep it where it is the best so far."""
        self.nets.guard.drain()
        if not len(self.validation):
            return
        generator, judge = self.nets.generator.eval(), Judge(self.config)
        rate = self.config.vocoder.sampling_rate
        try:
            for index, clip in enumerate(self.validation.sing(generator, self.nets.device)):
                judge.add(clip)
                if index < _HEARD:
                    audio = {f"gen/audio_{index}": clip.made, f"gt/audio_{index}": clip.recorded}
                    self.journal.eval_audio(audio, step, rate)
        finally:
            generator.train()
        drawn = {"gen/mel": clip.mel, "gt/mel": clip.truth}
        images = {name: figures.spectrogram_image(mel) for name, mel in drawn.items()}
        self.journal.eval_images(images, step)
        score = judge.score()
        self.journal.eval_scalars(
            {f"eval/{name}": value for name, value in score.scalars().items()}, step
        )
        told = ", ".join(f"{name} {value:.4g}" for name, value in score.scalars().items())
        self.journal.note(f"evaluation at step {step}: {told}")
        best = Best(step, score.mel, self.validation.measure)
        if self.best is None or self.best.measure != best.measure or best.mel < self.best.mel:
            save_best(self.run_dir, generator, self._config_file, best, score)
            self.best = best
            self.journal.note(f"the best so far: {self.run_dir / BEST}")
        self.journal.flush()

    def save(self, position: Position) -> None:
        """Write ``V_<step>.pth`` and ``D_<step>.pth``, remove old ones, and write the export."""
        nets = self.nets
        nets.guard.drain()
        extra = state.run_keys(self.config, position, nets.device, nets.scaler, self.order)
        generator, _ = state.save_pair(
            self.run_dir,
            position.step,
            state.checkpoint(nets.generator, nets.optim_g, self.config, position, extra),
            state.checkpoint(nets.discriminator, nets.optim_d, self.config, position, extra),
            keep=self.config.train.keep_ckpts,
            kind="V",
        )
        exported = export(nets.generator, self._config_file, self.run_dir)
        self.journal.note(f"saved {generator} and its D at epoch {position.epoch}, and {exported}")

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
    # ---- everything that can be wrong is looked at before anything is written --------------------
    device = resolve_device(options.device)
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
    del files, base  # as large as the nets and their optimisers

    dataset = VocoderDataset(config, training, seed=seed)
    if dataset.memory.clips:
        dataset.preload()
    held_out = VocoderValidation(config, validation)

    # ---- from here on the run folder changes -----------------------------------------------------
    aside = later_exports(run_dir, start.step) if options.resume != "auto" else []
    notes += prepare_folder(config, run_dir, start, options.resume, "V", aside)
    best = read_best(run_dir)
    if best is not None and best.step > start.step:
        best = None  # of work that a kill took with it and that is done again
    with Journal(run_dir, position.step + 1) as journal, StopSignal() as stop:
        for note in notes:
            journal.note(note)
        workers = choose_workers(dataset)
        journal.note(
            f"{len(training.paths)} clips, {len(dataset)} crops of them an epoch, {len(held_out)} "
            f"clips held out, {workers} loader processes, in memory: "
            f"{'clips' if dataset.memory.clips else 'nothing'}"
        )
        _warn(config, device, [*training.dropped, *validation.dropped], held_out, journal)
        batches = EpochBatches(
            [config.segment_frames] * len(dataset), config.train.batch_size, seed=seed,
            epoch=position.epoch, batch=position.batch,
        )  # fmt: skip
        task = VocoderTask(nets, config, run_dir, journal, held_out, order, best)
        schedule = Schedule(
            config.train.log_interval,
            config.train.eval_interval,
            config.train.epochs,
            options.max_steps,
            None if options.max_minutes is None else 60 * options.max_minutes,
        )
        first, began = position.step, time.monotonic()
        reason = run(
            task,
            stream_of(dataset, batches, collate, workers=workers, pin=device.type == "cuda"),
            len(batches),
            position,
            schedule,
            stop=stop,
            progress=progress,
        )
        journal.note(f"ended by {reason} at step {position.step}, epoch {position.epoch}")
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
        exported=file if (file := run_dir / MODEL).is_file() else None,
        best=run_dir / BEST / MODEL if task.best is not None else None,
        best_score=task.best,
    )


def apply_overrides(config: VocoderRunConfig, options: VocoderTrainOptions) -> VocoderRunConfig:
    """Return the config with the values given on the command line. Raises ConfigError."""
    names = ("seed", "log_interval", "eval_interval", "batch_size", "learning_rate", "epochs")
    given: dict[str, Any] = {
        name: value for name in names if (value := getattr(options, name)) is not None
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
