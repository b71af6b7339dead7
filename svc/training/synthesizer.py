"""Training a voice: what ``svc train`` does (spec_core 7)."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from svc.checkpoint import find_latest
from svc.config import SvcConfig, load_config
from svc.devices import resolve_device
from svc.f0.range_files import RANGE_KEY, plain_ranges
from svc.f0.voice_range import VoiceRange
from svc.progress import Progress
from svc.training import figures, state
from svc.training.batches import Batch, EpochBatches, choose_workers, stream
from svc.training.checks import CheckedList, read_lists
from svc.training.clips import ClipDataset, plan_memory
from svc.training.journal import Journal
from svc.training.loop import Position, Schedule, StopSignal, run
from svc.training.options import TrainOptions, TrainResult
from svc.training.ranges import measure_ranges, publish_ranges
from svc.training.resume import check_resumable, clip_order, prepare_folder, restore
from svc.training.rundir import find_start, load_pair
from svc.training.step import Adversaries
from svc.training.task import AdversarialTask

_SHOWN = {"mel": 3, "kl": 2, "gen": 2, "disc": 2}  # digits in the progress line


class SynthesizerTask(AdversarialTask[Batch]):
    """Drives the nets of a voice for the loop: steps, logs, evaluates and saves.

    Args:
        nets: generator and discriminator.
        config: the whole config.
        run_dir: folder of the run.
        journal: where to log.
        validation: clips of the evaluation.
        order: facts that decide which clips a batch holds; saved for exact resuming.
        ranges: which notes each speaker sings; saved for choosing a transposition.
    """

    def __init__(
        self,
        nets: Adversaries,
        config: SvcConfig,
        run_dir: Path,
        journal: Journal,
        validation: ClipDataset,
        order: Mapping[str, Any],
        ranges: Mapping[str, VoiceRange] | None = None,
    ) -> None:
        super().__init__(nets, config.train, journal, shown=_SHOWN)
        self.nets, self.config, self.run_dir = nets, config, run_dir
        self.validation, self.order, self.ranges = validation, order, dict(ranges or {})

    def log(self, step: int, rate: float, waiting: float) -> str:
        """Write scalars and pictures; the loss of the pitch as 0 where it has none (spec_core 7.3)."""
        text = super().log(step, rate, waiting)
        if "lf0" not in self.losses:
            self.journal.scalars({"loss/g/lf0": 0.0}, step)
        return text

    # ---- evaluation and saving -------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, step: int) -> None:
        """Let the voice sing the validation clips with their own pitch (spec_core 7.4)."""
        self.nets.guard.drain()
        generator, device = self.nets.generator.eval(), self.nets.device
        try:
            for index in range(len(self.validation)):
                clip = self.validation.clip(index, 1)
                wav, _ = generator.infer(
                    clip.units[None].to(device),
                    clip.f0[None].to(device),
                    clip.uv[None].to(device),
                    torch.tensor([clip.speaker], device=device),
                    volume=None if clip.volume is None else clip.volume[None].to(device),
                )
                audio = {
                    f"gen/audio_{index}": wav[0, 0].float().cpu().numpy(),
                    f"gt/audio_{index}": clip.wav.numpy(),
                }
                self.journal.eval_audio(audio, step, self.config.data.sampling_rate)
                if index == len(self.validation) - 1:
                    images = {
                        "gen/mel": self.nets.mel(wav[:, 0].float().cpu())[0],
                        "gt/mel": self.nets.mel.from_spec(clip.spec[None])[0],
                    }
                    drawn = {k: figures.spectrogram_image(v.numpy()) for k, v in images.items()}
                    self.journal.eval_images(drawn, step)
        finally:
            generator.train()
        self.journal.flush()

    def save(self, position: Position) -> None:
        """Write ``G_<step>.pth`` and ``D_<step>.pth`` and remove old ones."""
        nets = self.nets
        nets.guard.drain()
        extra = state.extra_keys(self.config, position, nets.device, nets.scaler, self.order)
        sings = {**extra, RANGE_KEY: plain_ranges(self.ranges)}
        generator, _ = state.save_pair(
            self.run_dir,
            position.step,
            state.checkpoint(nets.generator, nets.optim_g, self.config, position, sings),
            state.checkpoint(nets.discriminator, nets.optim_d, self.config, position, extra),
            keep=self.config.train.keep_ckpts,
        )
        self.journal.note(f"saved {generator} and its D at epoch {position.epoch}")


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
    # ---- everything that can be wrong is looked at before anything is written --------------------
    config = apply_overrides(load_config(options.config), options)
    device = resolve_device(options.device)
    run_dir = options.run_dir
    start = find_start(run_dir, options.resume, force=options.force)
    training, validation = read_lists(config)
    files = load_pair(start) if start.generator is not None else None
    if files is not None and start.kind == "resume" and not options.force:
        check_resumable(config, run_dir, start, files[0])
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
    del files, resumed  # as large as the nets and their optimisers

    memory = plan_memory(config, training.frames)
    dataset = ClipDataset(config, training.paths, augment=True, seed=seed, memory=memory)
    if memory.clips:
        dataset.preload()
    held_out = ClipDataset(config, validation.paths, augment=False)

    # ---- from here on the run folder changes -----------------------------------------------------
    notes += prepare_folder(config, run_dir, start, options.resume)
    publish_ranges(run_dir, ranges)
    with Journal(run_dir, position.step + 1) as journal, StopSignal() as stop:
        for note in notes:
            journal.note(note)
        workers = choose_workers(dataset)
        journal.note(
            f"{len(training.paths)} clips, {len(validation.paths)} held out, {workers} loader "
            "processes, in memory: "
            f"{'all' if memory.specs else 'clips' if memory.clips else 'nothing'}"
        )
        _warn(config, device, validation, journal)
        batches = EpochBatches(
            training.frames, config.train.batch_size, seed=seed,
            epoch=position.epoch, batch=position.batch,
        )  # fmt: skip
        task = SynthesizerTask(nets, config, run_dir, journal, held_out, order, ranges)
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
            stream(dataset, batches, workers=workers, pin=device.type == "cuda"),
            len(batches),
            position,
            schedule,
            stop=stop,
            progress=progress,
        )
        journal.note(f"ended by {reason} at step {position.step}, epoch {position.epoch}")
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
    )


def apply_overrides(config: SvcConfig, options: TrainOptions) -> SvcConfig:
    """Return the config with the values given on the command line. Raises ConfigError."""
    names = ("seed", "log_interval", "eval_interval", "batch_size", "learning_rate", "epochs")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
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
