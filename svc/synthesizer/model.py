"""The synthesizer: units and pitch of any singer in, the waveform of the chosen singer out.

A conditional VAE with a normalising flow (VITS, arXiv:2106.06103) whose text is content units and
whose decoder is NSF-HiFiGAN; so-vits-svc 4.1 behaviour, spec_core 2.

    training    spec -> enc_q -> z -> flow ---------> z_p  ~  N(m_p, logs_p)
                                 |                                ^
                                 +-- 20 frames -> dec -> wav      | enc_p
                                                                  |
    inference   units, f0 -----> enc_p -> z_p -> flow.inverse -> z -> dec -> wav

Member names are those of checkpoints. Singing is in `svc.synthesizer.inference`.
"""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor, nn

from svc.audio.frames import sequence_mask, slice_segments
from svc.audio.pitch import f0_to_coarse, f0_to_lf0, normalize_lf0
from svc.config import ModelConfig, SvcConfig
from svc.errors import ConfigError
from svc.synthesizer.encoders import F0Decoder, PosteriorEncoder, PriorEncoder, sample
from svc.synthesizer.flow import make_flow
from svc.synthesizer.inference import DEFAULT_SEED, Inference
from svc.synthesizer.output import SynthesizerOutput, TrainingNoise
from svc.vocoder.convolution import Conv1d
from svc.vocoder.generator import Generator
from svc.vocoder.weight_norm import fold_weight_norm

__all__ = ["DEFAULT_SEED", "ORIGINAL_SAMPLING_RATE", "Synthesizer", "SynthesizerOutput"]

logger = logging.getLogger(__name__)

ORIGINAL_SAMPLING_RATE = 44100
"""Hz: what the original's harmonic source always assumes (spec_core 1.1)."""


class Synthesizer(Inference):
    """The net of a voice.

    Args:
        model: section `model` of the config.
        spec_channels: F, bins of the linear spectrogram.
        segment_frames: frames the decoder sees while training.
        sampling_rate: Hz, for the harmonic source.
        hop_length: samples per frame; the product of `model.upsample_rates`.
        compat: for comparison with so-vits-svc 4.1: its pitch bins (f0 above 1103 Hz falls into bin
            0), its harmonic source down to the last bit, and all of its random draws.

    Raises:
        ConfigError: the widths or lists of the config do not fit each other.
    """

    def __init__(
        self,
        model: ModelConfig,
        *,
        spec_channels: int,
        segment_frames: int,
        sampling_rate: int = ORIGINAL_SAMPLING_RATE,
        hop_length: int = 512,
        compat: bool = False,
    ) -> None:
        super().__init__()
        product = math.prod(model.upsample_rates)
        if product != hop_length:
            raise ConfigError(
                f'the product of "model.upsample_rates" ({product}) must equal '
                f'"data.hop_length" ({hop_length})'
            )
        self.config = model
        self.segment_frames = segment_frames
        self.sampling_rate = sampling_rate  # Hz
        self.hop_length = hop_length  # samples
        self.compat = compat
        hidden, gin = model.hidden_channels, model.gin_channels

        # The order of the members is the order of the state dict, hence of saved optimizers
        # (spec_core 2.1).
        self.emb_g = nn.Embedding(model.n_speakers, gin)
        self.emb_vol = nn.Linear(1, hidden) if model.vol_embedding else None
        self.pre = Conv1d(model.ssl_dim, hidden, 5, padding=2)
        self.enc_p = PriorEncoder(
            model.inter_channels,
            hidden,
            model.filter_channels,
            n_heads=model.n_heads,
            n_layers=model.n_layers,
            kernel_size=model.kernel_size,
            p_dropout=model.p_dropout,
        )
        self.dec = Generator(
            model.inter_channels,
            initial_channels=model.upsample_initial_channel,
            upsample_rates=model.upsample_rates,
            upsample_kernel_sizes=model.upsample_kernel_sizes,
            resblock=model.resblock,
            resblock_kernel_sizes=model.resblock_kernel_sizes,
            resblock_dilation_sizes=model.resblock_dilation_sizes,
            sampling_rate=sampling_rate,
            gin_channels=gin,
            snake=model.vocoder_name == "nsf-snake-hifigan",
            compat=compat,
        )
        self.enc_q: PosteriorEncoder | None = PosteriorEncoder(
            spec_channels,
            model.inter_channels,
            hidden,
            gin_channels=gin,
            depthwise=model.use_depthwise_conv,
        )
        self.flow = make_flow(model)
        self.f0_decoder = (
            F0Decoder(
                hidden,
                model.filter_channels,
                n_heads=model.n_heads,
                n_layers=model.n_layers,
                kernel_size=model.kernel_size,
                p_dropout=model.p_dropout,
                gin_channels=gin,
            )
            if model.use_automatic_f0_prediction
            else None
        )
        self.emb_uv = nn.Embedding(2, hidden)

    @classmethod
    def from_config(cls, config: SvcConfig, *, compat: bool = False) -> Synthesizer:
        """Build the net of a whole config.

        The harmonic source runs at `model.sampling_rate` where the config has it, else at
        `data.sampling_rate`; the original (and `compat`) ignores the latter and takes 44100
        (spec_core 10, M2).
        """
        rate = config.model.sampling_rate
        if rate is None:
            rate = ORIGINAL_SAMPLING_RATE if compat else config.data.sampling_rate
            if rate != ORIGINAL_SAMPLING_RATE:
                logger.warning(
                    "the harmonic source runs at data.sampling_rate = %d Hz; so-vits-svc 4.1 "
                    'always took %d: for a voice trained by it, add "sampling_rate": %d to "model"',
                    rate,
                    ORIGINAL_SAMPLING_RATE,
                    ORIGINAL_SAMPLING_RATE,
                )
        return cls(
            config.model,
            spec_channels=config.data.spec_channels,
            segment_frames=config.segment_frames,
            sampling_rate=rate,
            hop_length=config.data.hop_length,
            compat=compat,
        )

    @property
    def has_auto_f0(self) -> bool:
        """Whether the voice can predict its own pitch contour."""
        return self.f0_decoder is not None

    @property
    def has_volume(self) -> bool:
        """Whether the voice is conditioned on loudness."""
        return self.emb_vol is not None

    def fold_weight_norm(self) -> None:
        """Fold weight norm for inference; outputs do not change, the net no longer trains."""
        fold_weight_norm(self)

    def forward(
        self,
        units: Tensor,
        f0: Tensor,
        uv: Tensor,
        spec: Tensor,
        speaker: Tensor,
        lengths: Tensor,
        volume: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        draws: TrainingNoise | None = None,
    ) -> SynthesizerOutput:
        """Reconstruct random windows of the recordings.

        Random numbers that are not given are drawn in the original's order (spec_core 2.8), see
        `TrainingNoise.draw`.

        Args:
            units: (B, D, T) content.
            f0: (B, T) Hz, 0 = unvoiced.
            uv: (B, T) 1 = voiced.
            spec: (B, F, T) linear magnitudes.
            speaker: (B,) int64.
            lengths: (B,) frames of each clip, at least `segment_frames`.
            volume: (B, T) linear RMS, for nets with a volume embedding.
            generator: CPU generator of all draws but dropout; None = the global ones (scale,
                windows and phases from the CPU's, noise from the device's).
            draws: the numbers themselves, on the nets' device; nothing is drawn then but dropout.

        Returns:
            The windows and everything the losses need.
        """
        if self.enc_q is None:
            raise ValueError("this net was loaded for inference, without its posterior encoder")
        if draws is None:
            draws = TrainingNoise.draw(
                self.dec.m_source, lengths, units.shape[2], channels=self.config.inter_channels,
                segment_frames=self.segment_frames, pitch=self.has_auto_f0, compat=self.compat,
                generator=generator,
            )  # fmt: skip
        dtype = self.pre.weight.dtype
        mask = sequence_mask(lengths, units.shape[2])[:, None].to(dtype)
        g = self.speaker_condition(speaker)
        x = self._content(units, uv, volume, mask)

        lf0 = norm_lf0 = pred_lf0 = None
        if self.f0_decoder is not None:
            lf0 = f0_to_lf0(f0)[:, None]
            norm_lf0 = normalize_lf0(lf0, uv, mask, draws.pitch_scale)
            pred_lf0 = self.f0_decoder(x, norm_lf0, mask, g)

        m_p, logs_p = self.enc_p(x, mask, f0_to_coarse(f0, compat=self.compat))
        m_q, logs_q = self.enc_q(spec.to(dtype), mask, g)
        z = sample(m_q, logs_q, draws.posterior, mask)
        z_p = self.flow(z.to(dtype), mask, g)

        z_window = slice_segments(z, draws.starts, self.segment_frames)
        f0_window = slice_segments(f0, draws.starts, self.segment_frames)
        wav = self.dec(z_window.to(dtype), f0_window, g, random=draws.source)
        return SynthesizerOutput(
            wav, draws.starts, mask, z, z_p, m_p, logs_p, m_q, logs_q, pred_lf0, norm_lf0, lf0
        )
