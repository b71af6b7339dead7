"""One training step of a mel vocoder: as a voice's, with three losses instead of five
(spec_vocoder 3; spec_core 7.2; HiFi-GAN, arXiv:2010.05646).
"""

from __future__ import annotations

import torch
from torch import Tensor

from svc.audio.mel import vocoder_mel
from svc.config.vocoder_training import VocoderRunConfig
from svc.synthesizer.blocks import at_least_float32
from svc.synthesizer.losses import (
    GeneratorLosses,
    adversarial_loss,
    feature_loss,
    mel_loss,
    offset_loss,
)
from svc.training.draws import ClipDraws, source_noise
from svc.training.microbatch import cut
from svc.training.pair import Made, NetPair, Pictures
from svc.training.ranks import Shares
from svc.training.task import StepDetail
from svc.training.vocoder_clips import VocoderBatch
from svc.vocoder.discriminator import Discriminator, Judgement
from svc.vocoder.generator import Generator
from svc.vocoder.mini_nsf import MiniNsfGenerator
from svc.vocoder.nsf_hifigan import NsfHifigan
from svc.vocoder.source import SourceNoise


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
        # From 0 Hz to half the rate: what lies beside the bands that the generator is given is learnt too.
        self.mel = vocoder_mel(
            vocoder.sampling_rate, vocoder.n_fft, vocoder.hop_size, vocoder.win_size,
            vocoder.num_mels, 0.0, None,
        )  # fmt: skip

    def step(self, batch: VocoderBatch, step: int, *, detailed: bool) -> StepDetail | None:
        """Train on one batch.

        Args:
            batch: on any device.
            step: number of the step, from 1.
            detailed: return what is logged.

        Returns:
            What is logged, for a detailed step.

        Raises:
            DeviceError: not even one crop fits into memory.
        """
        count, n_frames = batch.f0.shape
        noise: SourceNoise | None = None
        if not isinstance(self.generator, MiniNsfGenerator):  # in which nothing is random
            draws = ClipDraws(self.config.train.seed, step, batch.numbers, self.device)
            noise = source_noise(draws, n_frames, self.generator.m_source)
        batch = batch.to(self.device)

        def make(where: slice, shares: Shares) -> Made:
            part = cut(batch, where)
            with self.autocast():
                random = None if noise is None else cut(noise, where)
                fake = self.generator(part.mel, part.f0, random=random)
            return self._compare(part, at_least_float32(fake), shares)

        lengths = [n_frames] * count
        losses, norms, draw = self.learn(make, lengths, batch.shares, step, batch.names)
        return StepDetail(losses, norms, *draw()) if detailed else None

    def _compare(self, batch: VocoderBatch, fake: Tensor, shares: Shares) -> Made:
        """Put what was made beside what was recorded."""
        # Both from the crop alone, with the same edges: the same error on both sides.
        real_mel, fake_mel = self.mel(batch.wav[:, 0]), self.mel(fake[:, 0])

        def losses(judgement: Judgement | None) -> GeneratorLosses:
            weight, window = self.config.train.c_mel, self.config.vocoder.n_fft
            parts = {
                "mel": weight * mel_loss(real_mel, fake_mel),
                "offset": weight * offset_loss(batch.wav, fake, window),
            }
            if judgement is not None:
                _, fake_scores, real_maps, fake_maps = judgement
                parts["fm"] = feature_loss(real_maps, fake_maps)
                parts["gen"] = adversarial_loss(fake_scores)
            return GeneratorLosses.of({name: part * shares.clips for name, part in parts.items()})

        def draw() -> Pictures:
            return {"slice/mel_org": real_mel[0], "slice/mel_gen": fake_mel[0].detach()}, {}

        return Made(batch.wav, fake, losses, draw)
