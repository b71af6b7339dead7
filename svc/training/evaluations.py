"""What a voice goes through every `train.eval_interval` steps: it is measured on held-out clips, what it
sings is written down, and the best one is kept (spec_core 7.4).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from svc import __version__
from svc.config import SvcConfig
from svc.errors import OutputError
from svc.synthesizer.model import Synthesizer
from svc.training import state
from svc.training.best import KEY, BestFile, Contest, Record
from svc.training.ema import Ema
from svc.training.journal import Journal
from svc.training.loop import Position
from svc.training.reporting import report, show
from svc.training.scores import Score
from svc.training.step import Adversaries
from svc.training.stopping import StoppedError, StopSignal, never
from svc.training.validation import Validation

_SHARE = 0.1  # of the time between two evaluations; one that takes more is told of


class Evaluations:
    """The evaluations of a run.

    What sings is the average of the weights where there is one (`train.ema_decay`), as in
    ``G_best.pth``; the losses on crops are measured of the plain weights as well.

    Args:
        nets: what is trained.
        config: the whole config.
        run_dir: folder of the run.
        journal: where to write.
        validation: the held-out clips.
        patience: evaluations without a better score after which the run is to end.
        entries: further entries of the ``svc`` key of ``G_best.pth``.
    """

    def __init__(
        self,
        nets: Adversaries,
        config: SvcConfig,
        run_dir: Path,
        journal: Journal,
        validation: Validation,
        *,
        patience: int | None = None,
        entries: Mapping[str, Any] | None = None,
    ) -> None:
        self.nets, self.config, self.journal, self.validation = nets, config, journal, validation
        decay = (
            config.train.ema_decay if len(validation) else 0.0
        )  # else nothing would sing with it
        self.ema = Ema(nets.generator, decay) if decay else None
        self.contest = Contest(patience)
        self.scores: dict[str, float] = {}
        """Of the last evaluation, by name."""
        self.best, self._entries = BestFile(run_dir), dict(entries or {})
        self._before: tuple[int, float] | None = None  # step and time of the last one's end
        self._told = False

    # ---- what a checkpoint keeps -----------------------------------------------------------------

    def keys(self) -> dict[str, Any]:
        """Return entries for the ``svc`` key of a checkpoint."""
        kept: dict[str, Any] = {KEY: self.contest.state_dict()}
        return kept if self.ema is None else {**kept, **self.ema.keys()}

    def restore(
        self, extra: Mapping[str, Any] | None, position: Position, stop: StopSignal
    ) -> None:
        """Go on from a checkpoint, and make up for an evaluation that the end of the call before has
        cut short.

        Args:
            extra: the ``svc`` entry of the checkpoint; None = there is none.
            position: what is done.
            stop: told when the run has already waited long enough.
        """
        self.contest.load_state_dict((extra or {}).get(KEY))
        if self.ema is not None:
            self.journal.note(self.ema.restore(extra))
        if self.contest.missed:
            self.run(position.step, position.epoch, stop.wished)
        self.contest.stop_waiting(stop, self.journal)

    def roll_back(self, extra: Mapping[str, Any]) -> None:
        """Bring the average back to a checkpoint's, by its ``svc`` entry, as the weights were."""
        if self.ema is not None:
            self.journal.note(self.ema.restore(extra))

    def follow(self) -> None:
        """Take the weights after a step into their average."""
        if self.ema is not None:
            self.ema.update()

    # ---- evaluation ------------------------------------------------------------------------------

    def run(self, step: int, epoch: int, stopping: Callable[[], bool] = never) -> None:
        """Evaluate after a step.

        Args:
            step: steps that are done.
            epoch: the running epoch.
            stopping: asked between clips whether the run is to end: then the evaluation does, too,
                and is made up for by the next start.

        Raises:
            SvcError: a held-out clip cannot be read.
        """
        if not len(self.validation):
            return
        # One at the end of a run, between two regular ones, must not change what the next start
        # goes on with: a run in parts is the run in one piece.
        regular = step % self.config.train.eval_interval == 0
        began = time.monotonic()
        try:
            self._evaluate(step, epoch, regular, stopping)
        except StoppedError:
            self.contest.missed = regular
            self.journal.note(f"evaluation at step {step} left: the run is to end")
        except torch.cuda.OutOfMemoryError:
            # What has been trained is worth more than what it scores.
            torch.cuda.empty_cache()
            self.contest.missed = False
            self.journal.note(
                f"the GPU ran out of memory in the evaluation after step {step}, which has no "
                'scores: lower "train.val_clips", or take long clips out of '
                f"{self.config.data.validation_files}",
                level=logging.WARNING,
            )
        self._tell_time(step, began)

    def _evaluate(self, step: int, epoch: int, regular: bool, stopping: Callable[[], bool]) -> None:
        began = time.monotonic()
        generator, device = self.nets.generator, self.nets.device
        raw: dict[str, float] = {}
        with _singing(generator, device):
            if self.ema is not None:
                raw = self.validation.losses(generator, device, stopping)
            with self.ema.applied() if self.ema is not None else contextlib.nullcontext():
                losses = self.validation.losses(generator, device, stopping)
                clips = []
                rate, count = self.config.data.sampling_rate, len(self.validation.sung)
                for sung in self.validation.sing(generator, device, stopping):
                    show(self.journal, sung, step, rate, last=sung.index == count - 1)
                    clips.append(sung.score)
                score = Score.of(clips)
                self.scores = score.scalars()
                report(
                    self.journal, step, score, time.monotonic() - began, generator,
                    losses={"loss": losses, "raw_loss": raw}, clips=count,
                    measure=self.validation.measure, averaged=self.ema is not None,
                )  # fmt: skip
                record = Record(step, score.mel, self.validation.measure)
                if regular:
                    self.contest.enter(record)
                self._keep(record, score, epoch)

    def _keep(self, record: Record, score: Score, epoch: int) -> None:
        """Write ``G_best.pth`` where this is the best voice so far; the averaged weights are in the
        net.
        """
        if not record.beats(self.best.record):
            return
        config, nets = self.config, self.nets
        optimizer = {**state.plain_optimizer(nets.optim_g), "state": {}}  # it is for singing
        content = {
            "model": state.plain_state(nets.generator),
            "iteration": epoch,
            "optimizer": optimizer,
            "learning_rate": config.train.learning_rate,
            state.EXTRA: {
                "format": state.FORMAT,
                "version": __version__,
                "step": record.step,
                "epoch": epoch,
                "config": config.to_dict(),
                "config_hash": state.config_hash(config),
                "speakers": dict(config.spk),
                "encoder": config.model.speech_encoder,
                "released": False,
                **self._entries,
                KEY: {"scores": score.scalars(), "averaged": self.ema is not None},
            },
        }
        try:
            self.best.save(content, record)
        except OutputError as error:
            self.journal.note(
                f"{error}; training goes on, and the next better voice is written again",
                level=logging.WARNING,
            )
            return
        path = self.best.path
        self.journal.event("best", record.step, score=record.score, path=path.as_posix())
        self.journal.note(f"the best so far: {path}, mel {record.score:.4g}")

    def _tell_time(self, step: int, began: float) -> None:
        """Say once when evaluations take much of the time."""
        now, before = time.monotonic(), self._before
        self._before = (step, now)
        if before is None or self._told or step - before[0] != self.config.train.eval_interval:
            return
        share = (now - began) / max(now - before[1], 1e-9)
        if share > _SHARE:
            self._told = True
            self.journal.note(
                f"evaluations take {share:.0%} of the time ({now - began:.1f} s each): raise "
                '--eval_interval, or lower "train.val_clips"',
                level=logging.WARNING,
            )


@contextlib.contextmanager
def _singing(generator: Synthesizer, device: torch.device) -> Iterator[None]:
    """Let a net sing: without dropout, and with the global random numbers left as they were."""
    devices, mode = [device] if device.type == "cuda" else [], generator.training
    with torch.random.fork_rng(devices), torch.no_grad():
        generator.eval()
        try:
            yield
        finally:
            generator.train(mode)
