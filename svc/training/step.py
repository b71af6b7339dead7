"""One training step: two nets, two optimisers, five losses (spec_core 7.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from svc.audio.frames import slice_segments
from svc.audio.mel import synthesizer_mel
from svc.config import SvcConfig
from svc.synthesizer.blocks import at_least_float32
from svc.synthesizer.losses import GeneratorLosses, generator_losses
from svc.synthesizer.model import Synthesizer, SynthesizerOutput
from svc.synthesizer.output import TrainingNoise
from svc.training.batches import Batch
from svc.training.draws import ClipDraws, training_noise
from svc.training.microbatch import cut
from svc.training.pair import Made, NetPair, Pictures
from svc.training.ranks import Shares
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
            detailed: return what is logged.

        Returns:
            What is logged, for a detailed step.

        Raises:
            DeviceError: not even one clip fits into memory.
        """
        # Before the batch is on its way: the host needs the lengths, and must not wait for them.
        lengths = batch.lengths.tolist()
        noise = self._draw(batch, step, lengths)
        batch = batch.to(self.device)

        def make(where: slice, shares: Shares) -> Made:
            part, draws = cut(batch, where), None if noise is None else cut(noise, where)
            with self.autocast():
                output = self.generator(
                    part.units, part.f0, part.uv, part.spec, part.speaker, part.lengths,
                    part.volume, draws=draws,
                )  # fmt: skip
            return self._compare(part, output, shares)

        losses, norms, draw = self.learn(make, lengths, batch.shares, step, batch.names)
        return StepDetail(losses, norms, *draw()) if detailed else None

    def _draw(self, batch: Batch, step: int, lengths: list[int]) -> TrainingNoise | None:
        """Draw a step's random numbers; a net for comparisons draws like the original, by itself."""
        if self.generator.compat:
            return None
        return training_noise(
            ClipDraws(self.config.train.seed, step, batch.numbers, self.device),
            lengths,
            batch.n_frames,
            channels=self.config.model.inter_channels,
            segment_frames=self.config.segment_frames,
            source=self.generator.dec.m_source,
        )

    def _compare(self, batch: Batch, output: SynthesizerOutput, shares: Shares) -> Made:
        """Put what was made beside what was recorded."""
        train, hop, frames = (
            self.config.train,
            self.config.data.hop_length,
            self.config.segment_frames,
        )
        # A mel is taken frame by frame, so the mel of the windows is the windows of the clip's mel.
        real_mel = self.mel.from_spec(slice_segments(batch.spec, output.starts, frames))
        fake = at_least_float32(output.wav)
        fake_mel = self.mel(fake[:, 0])

        def losses(judgement: Judgement | None) -> GeneratorLosses:
            by_clips = dict.fromkeys(("mel", "fm", "gen"), shares.clips)
            return generator_losses(
                output,
                real_mel,
                fake_mel,
                c_mel=train.c_mel,
                c_kl=train.c_kl,
                fake_scores=judgement[1] if judgement else None,
                real_maps=judgement[2] if judgement else (),
                fake_maps=judgement[3] if judgement else (),
                factors={**by_clips, "kl": shares.frames, "lf0": shares.cells},
            )

        def draw() -> Pictures:
            mels = {
                "slice/mel_org": real_mel[0],
                "slice/mel_gen": fake_mel[0].detach(),
                "all/mel": self.mel.from_spec(batch.spec[:1])[0],
            }
            return mels, _pitch_curves(output)

        real = slice_segments(batch.wav, output.starts * hop, frames * hop)
        return Made(real, fake, losses, draw)


def _pitch_curves(output: SynthesizerOutput) -> dict[str, dict[str, Tensor]]:
    if output.lf0 is None or output.pred_lf0 is None or output.norm_lf0 is None:
        return {}
    lf0 = output.lf0[0, 0]
    return {
        "all/lf0": {"lf0": lf0, "predicted": output.pred_lf0[0, 0].detach()},
        "all/norm_lf0": {"lf0": lf0, "normalised": output.norm_lf0[0, 0].detach()},
    }
