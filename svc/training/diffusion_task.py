"""What driving a diffusion model means to the loop: steps, log lines, validations and saves
(spec_diffusion 11).
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from svc.checkpoint import save_checkpoint
from svc.errors import SvcError
from svc.training import figures
from svc.training.diffusion_clips import DiffusionBatch
from svc.training.diffusion_files import BEST, Best, model_path, prune, read_best, save_best
from svc.training.diffusion_resume import RunFacts, checkpoint
from svc.training.diffusion_step import DiffusionDetail, DiffusionLearner
from svc.training.diffusion_validation import Validation
from svc.training.journal import Journal
from svc.training.loop import Position


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
        self._saved: int | None = None
        self._detail: DiffusionDetail | None = None

    # ---- steps -----------------------------------------------------------------------------------

    def start_epoch(self, epoch: int) -> None:
        """Do nothing: rates and draws go by steps."""

    def finish_epoch(self, epoch: int, seconds: float) -> None:
        """Do nothing: an epoch of a small data set is a step or two."""

    def step(self, batch: DiffusionBatch, step: int, *, detailed: bool) -> None:
        """Train on one batch."""
        try:
            detail = self.learner.step(batch, step, detailed=detailed)
        except torch.cuda.OutOfMemoryError as error:
            raise SvcError(
                f"the GPU ran out of memory at step {step} with batch_size "
                f"{self.facts.config.train.batch_size}; lower --batch_size or data.duration, or set "
                '"train.amp_dtype" to bf16; go on with the same command'
            ) from error
        self._detail = detail or self._detail

    def log(self, step: int, rate: float, waiting: float) -> str:
        """Write the scalars of the last detailed step."""
        if self._detail is None:
            return ""
        loss, norm = float(self._detail.loss), float(self._detail.gradient_norm)
        lr, self._detail = self.learner.learning_rate, None
        self.losses["loss"] = loss
        scalars = {"train/loss": loss, "train/lr": lr, "train/grad_norm": norm}
        self.journal.scalars(scalars, step)
        self.journal.note(
            f"step {step}: loss {loss:.4g}, lr {lr:.6g}, gradient norm {norm:.3g}; "
            f"{rate:.2f} steps/s, {waiting:.0%} of the time waiting for data"
        )
        return f"{rate:.2g}/s loss {loss:.3g}"

    # ---- saving and validation -------------------------------------------------------------------

    def save(self, position: Position) -> None:
        """Write ``model_<step>.pt`` and remove old ones."""
        if self._saved == position.step:
            return
        self.learner.guard.drain()
        train = self.facts.config.train
        path = model_path(self.run_dir, position.step)
        content = checkpoint(self.learner, position, self.facts, optimizer=train.save_opt)
        save_checkpoint(content, path)
        prune(self.run_dir, keep=self.keep, force_save=train.interval_force_save)
        self._saved = position.step
        self.journal.note(f"saved {path}")

    @torch.no_grad()
    def evaluate(self, step: int) -> None:
        """Save, so that a validation costs nothing that is done; then listen to held-out clips."""
        self.save(self.position)
        if not len(self.validation):
            return
        model, device = self.learner.model.eval(), self.learner.device
        try:
            loss = self.validation.loss(model, device)
            self.losses["validation"] = loss
            self.journal.scalars({"validation/loss": loss}, step)
            self._keep_best(step, loss)
            distances, factors = self._sing(step)
        except torch.cuda.OutOfMemoryError as error:
            raise SvcError(
                f"the GPU ran out of memory in the validation after step {step}, which is saved; "
                "take long clips out of data.validation_files, go on with the same command"
            ) from error
        finally:
            model.train()
        text = f"validation after step {step}: loss {loss:.4g}"
        if distances:
            distance, factor = sum(distances) / len(distances), sum(factors) / len(factors)
            self.journal.scalars(
                {"validation/mel_distance": distance, "validation/rtf": factor}, step
            )
            text += (
                f"; {len(distances)} clips sung, {distance:.3g} from their mels, {factor:.3g} "
                "times their length"
            )
        self.journal.note(text)
        self.journal.flush()

    def _sing(self, step: int) -> tuple[list[float], list[float]]:
        """Draw and record the clips that are sung; returns mel distances and real-time factors."""
        distances, factors = [], []
        rate = self.facts.config.data.sampling_rate
        for sung in self.validation.sing(self.learner.model, self.learner.device):
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
        self.journal.note(f"{path} is the best so far: loss {loss:.4g} on held-out clips")
