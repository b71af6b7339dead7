"""One training step: two nets, two optimisers, five losses (spec_core 7.2)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from svc.audio.frames import slice_segments
from svc.audio.mel import synthesizer_mel
from svc.config import SvcConfig
from svc.synthesizer.losses import discriminator_loss, generator_losses
from svc.synthesizer.model import Synthesizer, SynthesizerOutput
from svc.training.batches import Batch
from svc.training.numerics import (
    FiniteGuard,
    autocast_dtype,
    gradient_norm,
    make_adamw,
    make_scaler,
)
from svc.vocoder.discriminator import Discriminator


@dataclass(frozen=True)
class StepDetail:
    """What a logged step shows; tensors on the device."""

    losses: dict[str, Tensor]
    """Weighted losses of the generator step, and "total" and "disc"; 0-dimensional."""
    gradient_norms: dict[str, Tensor]
    """"g" and "d"."""
    mels: dict[str, Tensor] = field(default_factory=dict)
    """Log-mels (M, N) of the first clip: "slice/mel_org", "slice/mel_gen", "all/mel"."""
    curves: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """Pitch curves (N,) of the first clip by picture and label."""


class Adversaries:
    """Generator and discriminator with everything that makes them learn.

    Args:
        config: the whole config.
        device: where to train.
        generator: the net of the voice; None builds one from the global generator of random
            numbers.
        discriminator: likewise.
    """

    def __init__(
        self,
        config: SvcConfig,
        device: torch.device,
        *,
        generator: Synthesizer | None = None,
        discriminator: Discriminator | None = None,
    ) -> None:
        self.config, self.device = config, device
        model, data = config.model, config.data
        self.dtype = autocast_dtype(config.train, device)
        self.generator = (generator or Synthesizer.from_config(config)).to(device).train()
        self.discriminator = (
            (discriminator or Discriminator(model.use_spectral_norm, model.discriminator_width))
            .to(device)
            .train()
        )
        self.optim_g = make_adamw(self.generator, config.train)
        self.optim_d = make_adamw(self.discriminator, config.train)
        self.scaler = make_scaler(self.dtype, device)
        self.guard = FiniteGuard(device)
        self.mel = synthesizer_mel(
            data.sampling_rate,
            data.filter_length,
            data.hop_length,
            data.win_length,
            data.n_mel_channels,
            data.mel_fmin,
            data.mel_fmax,
        )

    @property
    def learning_rate(self) -> float:
        """Learning rate of the generator now."""
        return float(self.optim_g.param_groups[0]["lr"])

    def set_learning_rate(self, value: float) -> None:
        """Set the learning rate of both nets."""
        for optimizer in (self.optim_g, self.optim_d):
            optimizer.param_groups[0]["lr"] = value

    def decay_learning_rate(self, gamma: float) -> None:
        """Multiply both learning rates."""
        for optimizer in (self.optim_g, self.optim_d):
            optimizer.param_groups[0]["lr"] *= gamma

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def step(self, batch: Batch, step: int, *, detailed: bool) -> StepDetail | None:
        """Train on one batch.

        Before `train.gan_start_step` the discriminator rests and the generator learns from mel, KL
        and pitch only.

        Args:
            batch: on any device.
            step: number of the step, from 1.
            detailed: measure gradient norms and keep what is drawn.

        Returns:
            What is logged, for a detailed step.

        Raises:
            SvcError: a loss is not finite; names the clips.
        """
        batch = batch.to(self.device)
        hop, frames = self.config.data.hop_length, self.config.segment_frames
        norms: dict[str, Tensor] = {}

        # ---- generator forward -------------------------------------------------------------------
        with self._autocast():
            output = self.generator(
                batch.units, batch.f0, batch.uv, batch.spec, batch.speaker, batch.lengths,
                batch.volume,
            )  # fmt: skip
        starts = output.starts.to(self.device)
        # A mel is taken frame by frame, so the mel of the windows is the windows of the clip's mel.
        real_mel = self.mel.from_spec(slice_segments(batch.spec, starts, frames))
        real = slice_segments(batch.wav, starts * hop, frames * hop)
        fake = output.wav.float()
        fake_mel = self.mel(fake[:, 0])

        # ---- discriminator step ------------------------------------------------------------------
        adversarial = step >= self.config.train.gan_start_step
        losses: dict[str, Tensor] = {}
        if adversarial:
            with self._autocast():
                real_scores, fake_scores, _, _ = self.discriminator(real, fake.detach())
            loss_d, _ = discriminator_loss(real_scores, fake_scores)
            losses["disc"] = loss_d.detach()
            self.guard.watch(losses, step, batch.names)
            norms |= self._descend(self.optim_d, loss_d, "d", measure=detailed)

        # ---- generator step, judged by the updated discriminator, which itself stays as it is ----
        self.discriminator.requires_grad_(False)
        judgement = None
        if adversarial:
            with self._autocast():
                judgement = self.discriminator(real, fake)
        loss_g = generator_losses(
            output,
            real_mel,
            fake_mel,
            c_mel=self.config.train.c_mel,
            c_kl=self.config.train.c_kl,
            fake_scores=judgement[1] if judgement else None,
            real_maps=judgement[2] if judgement else (),
            fake_maps=judgement[3] if judgement else (),
        )
        losses |= {**loss_g.parts, "total": loss_g.total.detach()}
        self.guard.watch(loss_g.parts, step, batch.names)
        norms |= self._descend(self.optim_g, loss_g.total, "g", measure=detailed)
        self.discriminator.requires_grad_(True)
        self.scaler.update()

        if not detailed:
            return None
        mels = {
            "slice/mel_org": real_mel[0],
            "slice/mel_gen": fake_mel[0].detach(),
            "all/mel": self.mel.from_spec(batch.spec[:1])[0],
        }
        return StepDetail(losses, norms, mels, _pitch_curves(output))

    def _descend(
        self, optimizer: torch.optim.Optimizer, loss: Tensor, name: str, *, measure: bool
    ) -> dict[str, Tensor]:
        optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        norms = {}
        if measure:
            self.scaler.unscale_(optimizer)
            norms[name] = gradient_norm(optimizer.param_groups[0]["params"])
        self.scaler.step(optimizer)
        return norms


def _pitch_curves(output: SynthesizerOutput) -> dict[str, dict[str, Tensor]]:
    if output.lf0 is None or output.pred_lf0 is None or output.norm_lf0 is None:
        return {}
    lf0 = output.lf0[0, 0]
    return {
        "all/lf0": {"lf0": lf0, "predicted": output.pred_lf0[0, 0].detach()},
        "all/norm_lf0": {"lf0": lf0, "normalised": output.norm_lf0[0, 0].detach()},
    }
