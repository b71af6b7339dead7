"""What driving a diffusion model means to the loop: steps, log lines, validations and saves
(spec_diffusion 11).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from svc.errors import SvcError
from svc.training import figures
from svc.training.diffusion_clips import DiffusionBatch
from svc.training.diffusion_files import BEST, Best, model_path, prune, read_best, save_best
from svc.training.diffusion_resume import RunFacts, checkpoint
from svc.training.diffusion_step import DiffusionDetail, DiffusionLearner
from svc.training.diffusion_validation import Validation
from svc.training.journal import Journal
from svc.training.loop import Position
from svc.training.rollback import roll_back_diffusion
from svc.training.saving import Saver
from svc.training.stopping import StopSignal, never
from svc.training.trouble import Trouble


class DiffusionTask:
    """Drives the net for the loop.

    Args:
        learner: net and optimiser.
        facts: of the run; go into every checkpoint.
        run_dir: folder of the run.
        journal: where to log.
        validation: the held-out clips.
        position: that of the loop.
        keep: newest saves to keep, see `prune`.
        max_bad: skipped steps in a row after which the run goes back to its newest save.
        patience: validations without a lower loss after which the run ends; None = it goes on.
        stop: told so.
    """

    def __init__(
        self,
        learner: DiffusionLearner,
        facts: RunFacts,
        run_dir: Path,
        journal: Journal,
        validation: Validation,
        position: Position,
        *,
        keep: int,
        max_bad: int = 10,
        patience: int | None = None,
        stop: StopSignal | None = None,
    ) -> None:
        self.learner, self.facts, self.run_dir, self.journal = learner, facts, run_dir, journal
        self.validation, self.position, self.keep = validation, position, keep
        self.losses: dict[str, float] = {}
        self.best = read_best(run_dir)
        if self.best is not None and self.best.measure != validation.measure:
            journal.note(
                f"{self.best.path} was the best on other held-out clips: the next one takes its place"
            )
            self.best = None
        self._patience, self._stop = patience, stop
        self._stop_waiting(position.step)
        self._saved: int | None = None
        self.trouble = Trouble(
            learner, run_dir, journal, self.roll_back, max_bad=max_bad,
            advice='lower --learning_rate, or set "train.amp_dtype" to fp32',
        )  # fmt: skip
        self._detail: DiffusionDetail | None = None

    # ---- steps -----------------------------------------------------------------------------------

    def start_epoch(self, epoch: int) -> None:
        """Do nothing: rates and draws go by steps."""

    def finish_epoch(self, epoch: int, seconds: float) -> None:
        """Do nothing: an epoch of a small data set is a step or two."""

    def step(self, batch: DiffusionBatch, step: int, *, detailed: bool) -> None:
        """Train on one batch."""
        detail = self.learner.step(batch, step, detailed=detailed)
        self._detail = detail or self._detail
        self.trouble.look(step, self.position.epoch)

    def roll_back(self, back: int) -> Path | None:
        """Go back to a checkpoint; where that has no optimizer, a new one begins."""
        return roll_back_diffusion(self.learner, self.run_dir, back)

    def log(self, step: int, rate: float, waiting: float) -> str:
        """Write the scalars of the last detailed step."""
        if self._detail is None:
            return ""
        loss, norm = float(self._detail.loss), float(self._detail.gradient_norm)
        lr, self._detail = self.learner.learning_rate, None
        if not math.isfinite(loss):
            return f"{rate:.2g}/s wait {waiting:.0%} skipped"
        self.losses["loss"] = loss
        scalars = {"train/loss": loss, "train/lr": lr, "train/grad_norm": norm}
        self.journal.scalars(scalars, step)
        self.journal.record(
            "train", step, epoch=self.position.epoch, losses=dict(self.losses), learning_rate=lr,
            gradient_norms={"g": norm}, steps_per_second=rate, data_wait=waiting,
        )  # fmt: skip
        self.journal.note(
            f"step {step}: loss {loss:.4g}, lr {lr:.6g}, gradient norm {norm:.3g}; "
            f"{rate:.2f} steps/s, {waiting:.0%} of the time waiting for data"
        )
        return f"{rate:.2g}/s wait {waiting:.0%} loss {loss:.3g}"

    # ---- saving and validation -------------------------------------------------------------------

    def save(self, position: Position) -> None:
        """Write ``model_<step>.pt`` and remove old ones."""
        if self._saved == position.step:
            return
        train, kept = self.facts.config.train, self.trouble.entries()
        path = model_path(self.run_dir, position.step)
        content = checkpoint(
            self.learner, position, self.facts, optimizer=train.save_opt, more=kept
        )
        keep, force = self.trouble.keep(self.keep), train.interval_force_save
        saver = Saver(self.run_dir, lambda: prune(self.run_dir, keep=keep, force_save=force))
        saver.save({path.name: content})
        self._saved = position.saved = position.step
        self.journal.note(f"saved {path}")

    @torch.no_grad()
    def evaluate(self, step: int, stopping: Callable[[], bool] = never) -> None:
        """Save, so that a validation costs nothing that is done; then listen to held-out clips."""
        self.save(self.position)
        if not len(self.validation):
            return
        model, device, began = self.learner.model.eval(), self.learner.device, time.monotonic()
        try:
            loss = self.validation.loss(model, device, stopping)
            if loss is None:
                return
            self.losses["validation"] = loss
            self.journal.scalars({"validation/loss": loss}, step)
            self._keep_best(step, loss)
            self._stop_waiting(step)
            distances, factors = self._sing(step, stopping)
            if stopping():
                return
        except torch.cuda.OutOfMemoryError as error:
            raise SvcError(
                f"the GPU ran out of memory in the validation after step {step}, which is saved; "
                "take long clips out of data.validation_files, go on with the same command"
            ) from error
        finally:
            model.train()
        text = f"validation after step {step}: loss {loss:.4g}"
        scores: dict[str, float] = {}
        if distances:
            distance, factor = sum(distances) / len(distances), sum(factors) / len(factors)
            scores = {"mel_distance": distance, "rtf": factor}
            scalars = {f"validation/{name}": value for name, value in scores.items()}
            self.journal.scalars(scalars, step)
            text += (
                f"; {len(distances)} clips sung, {distance:.3g} from their mels, {factor:.3g} "
                "times their length"
            )
        self.journal.note(text)
        self.journal.record(
            "validation", step, seconds=round(time.monotonic() - began, 3), scores=scores,
            loss={"loss": loss}, clips=len(self.validation), measure=self.validation.measure,
        )  # fmt: skip

    def _sing(self, step: int, stopping: Callable[[], bool]) -> tuple[list[float], list[float]]:
        """Draw and record the clips that are sung; returns mel distances and real-time factors."""
        distances, factors = [], []
        rate = self.facts.config.data.sampling_rate
        for sung in self.validation.sing(self.learner.model, self.learner.device):
            if stopping():
                break
            picture = figures.comparison_image(sung.truth, sung.made)
            self.journal.eval_images({sung.name: picture}, step)
            stem = sung.name.removesuffix(".wav")
            audio = {f"{stem}_gt.wav": sung.recorded, f"{stem}_pred.wav": sung.wav}
            heard = {name: wav for name, wav in audio.items() if wav is not None}
            self.journal.eval_audio(heard, step, rate)
            distances.append(sung.distance)
            factors.append(sung.real_time_factor)
        return distances, factors

    def _keep_best(self, step: int, loss: float) -> None:
        if not math.isfinite(loss) or (self.best is not None and loss >= self.best.loss):
            return
        path = model_path(self.run_dir / BEST, step)
        self.best = Best(path, step, loss, self.validation.measure)
        # It is for singing: what only training needs stays out.
        content = checkpoint(self.learner, self.position, self.facts, optimizer=False)
        save_best(self.run_dir, self.best, content, self.facts.config.to_yaml())
        self.journal.event("best", step, score=loss, path=path.as_posix())
        self.journal.note(f"{path} is the best so far: loss {loss:.4g} on held-out clips")

    def _stop_waiting(self, step: int) -> None:
        """End the run as a signal would, when the loss has not been lower for long enough."""
        if self._patience is None or self._stop is None or self.best is None:
            return
        since = (step - self.best.step) // self.facts.config.train.interval_val
        if since >= self._patience and not self._stop.wished():
            self._stop.name = "patience"
            self.journal.note(
                f"{since} validations without a lower loss than {self.best.loss:.4g} at step "
                f"{self.best.step}"
            )
