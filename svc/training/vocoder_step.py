"""One training step of a mel vocoder: as a voice's, with three losses instead of five
(spec_vocoder 3; spec_core 7.2; HiFi-GAN, arXiv:2010.05646).
"""

from __future__ import annotations

import torch

from svc.audio.mel import vocoder_mel
from svc.config.vocoder_training import VocoderRunConfig
from svc.synthesizer.losses import (
    GeneratorLosses,
    adversarial_loss,
    feature_loss,
    mel_loss,
)
from svc.training.pair import NetPair
from svc.training.task import StepDetail
from svc.training.vocoder_clips import VocoderBatch
from svc.vocoder.discriminator import Discriminator, Judgement
from svc.vocoder.generator import Generator
from svc.vocoder.nsf_hifigan import NsfHifigan


class VocoderPair(NetPair[Generator]):
    """Generator of a vocoder and discriminator with everything that makes them learn.

    Args:
        config: the vocoder and its training.
        device: where to train.
    """

    def __init__(self, config: VocoderRunConfig, device: torch.device) -> None:
        self.config = config
        vocoder, train = config.vocoder, config.train
        super().__init__(
            NsfHifigan(vocoder).generator,
            Discriminator(width=train.discriminator_width),
            train,
            device,
        )
        # Up to half the rate: what lies above the bands that the generator is given is learnt too.
        self.mel = vocoder_mel(
            vocoder.sampling_rate, vocoder.n_fft, vocoder.hop_size, vocoder.win_size,
            vocoder.num_mels, vocoder.fmin, None,
        )  # fmt: skip

    def step(self, batch: VocoderBatch, step: int, *, detailed: bool) -> StepDetail | None:
        """Train on one batch.

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
        with self.autocast():
            fake = self.generator(batch.mel, batch.f0)
        fake = fake.float()
        # Both from the crop alone, with the same edges: the same error on both sides.
        real_mel, fake_mel = self.mel(batch.wav[:, 0]), self.mel(fake[:, 0])

        def loss_of(judgement: Judgement | None) -> GeneratorLosses:
            parts = {"mel": self.config.train.c_mel * mel_loss(real_mel, fake_mel)}
            if judgement is not None:
                _, fake_scores, real_maps, fake_maps = judgement
                parts["fm"] = feature_loss(real_maps, fake_maps)
                parts["gen"] = adversarial_loss(fake_scores)
            return GeneratorLosses.of(parts)

        losses, norms = self.learn(batch.wav, fake, loss_of, step, batch.names, measure=detailed)
        if not detailed:
            return None
        mels = {"slice/mel_org": real_mel[0], "slice/mel_gen": fake_mel[0].detach()}
        return StepDetail(losses, norms, mels)
