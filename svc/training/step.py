"""One training step: two nets, two optimisers, five losses (spec_core 7.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from svc.audio.frames import slice_segments
from svc.audio.mel import synthesizer_mel
from svc.config import SvcConfig
from svc.synthesizer.losses import GeneratorLosses, generator_losses
from svc.synthesizer.model import Synthesizer, SynthesizerOutput
from svc.training.batches import Batch
from svc.training.pair import NetPair
from svc.training.task import StepDetail
from svc.vocoder.discriminator import Discriminator, Judgement


class Adversaries(NetPair[Synthesizer]):
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
        self.config = config
        model, data = config.model, config.data
        super().__init__(
            generator or Synthesizer.from_config(config),
            discriminator or Discriminator(model.use_spectral_norm, model.discriminator_width),
            config.train,
            device,
        )
        self.mel = synthesizer_mel(
            data.sampling_rate,
            data.filter_length,
            data.hop_length,
            data.win_length,
            data.n_mel_channels,
            data.mel_fmin,
            data.mel_fmax,
        )

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
        with self.autocast():
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

        def loss_of(judgement: Judgement | None) -> GeneratorLosses:
            return generator_losses(
                output,
                real_mel,
                fake_mel,
                c_mel=self.config.train.c_mel,
                c_kl=self.config.train.c_kl,
                fake_scores=judgement[1] if judgement else None,
                real_maps=judgement[2] if judgement else (),
                fake_maps=judgement[3] if judgement else (),
            )

        losses, norms = self.learn(real, fake, loss_of, step, batch.names, measure=detailed)
        if not detailed:
            return None
        mels = {
            "slice/mel_org": real_mel[0],
            "slice/mel_gen": fake_mel[0].detach(),
            "all/mel": self.mel.from_spec(batch.spec[:1])[0],
        }
        return StepDetail(losses, norms, mels, _pitch_curves(output))


def _pitch_curves(output: SynthesizerOutput) -> dict[str, dict[str, Tensor]]:
    if output.lf0 is None or output.pred_lf0 is None or output.norm_lf0 is None:
        return {}
    lf0 = output.lf0[0, 0]
    return {
        "all/lf0": {"lf0": lf0, "predicted": output.pred_lf0[0, 0].detach()},
        "all/norm_lf0": {"lf0": lf0, "normalised": output.norm_lf0[0, 0].detach()},
    }
