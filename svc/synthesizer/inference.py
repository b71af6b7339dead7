"""Singing with a trained synthesizer: one clip, or many of different lengths at once.

    units, f0 -----> enc_p -> z_p -> flow.inverse -> z -> dec -> wav

A clip is what it is alone, whoever goes with it. Its random numbers come from a generator of its own; a
mask tells every net where it ends, and padded frames are zero wherever a convolution could see them;
what the generator makes of its end is made again without padding (`svc.synthesizer.ends`). What is left is
the rounding of sums, which is why the voice's own pitch is predicted clip by clip: an error of a
millionth in it would grow to an audible one in the phase, second by second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svc.audio.frames import sequence_mask
from svc.audio.pitch import f0_to_coarse, f0_to_lf0, lf0_to_f0, normalize_lf0
from svc.config import ModelConfig
from svc.errors import ConfigError
from svc.synthesizer.encoders import F0Decoder, PriorEncoder
from svc.synthesizer.ends import generator_reach, mend_ends
from svc.synthesizer.flow import Flow
from svc.synthesizer.output import InferenceNoise
from svc.vocoder.convolution import Conv1d
from svc.vocoder.generator import Generator
from svc.vocoder.source import SourceNoise, draw_normal

DEFAULT_SEED = 52468
"""Seed of inference in so-vits-svc 4.1 (spec_core 2.9)."""


@dataclass(frozen=True)
class Clip:
    """What is sung of one clip of T frames.

    Attributes:
        units: (1, D, T) content.
        f0: (1, T) Hz, float32; <= 0 = unvoiced.
        uv: (1, T) 1 = voiced.
        speaker: id, or (T, S) weights of the first S speakers per frame.
        volume: (1, T) linear RMS, for nets with a volume embedding.
    """

    units: Tensor
    f0: Tensor
    uv: Tensor
    speaker: int | Tensor
    volume: Tensor | None = None

    def __len__(self) -> int:
        """Frames."""
        return self.f0.shape[1]


class Inference(nn.Module):
    """What a synthesizer needs to sing; the members are those of `Synthesizer`."""

    config: ModelConfig
    compat: bool
    emb_g: nn.Embedding
    emb_vol: nn.Linear | None
    emb_uv: nn.Embedding
    pre: Conv1d
    enc_p: PriorEncoder
    dec: Generator
    flow: Flow
    f0_decoder: F0Decoder | None

    def _content(self, units: Tensor, uv: Tensor, volume: Tensor | None, mask: Tensor) -> Tensor:
        """Content, voicing and loudness as one (B, H, T); the last two are not masked (spec_core
        2.8).
        """
        x: Tensor = self.pre(units.to(self.pre.weight.dtype)) * mask
        x = x + self.emb_uv(uv.long()).transpose(1, 2)
        if self.emb_vol is None:
            return x
        if volume is None:
            raise ValueError("this net has a volume embedding: pass volume (B, T)")
        loudness: Tensor = self.emb_vol(volume[..., None].to(self.emb_vol.weight.dtype))
        return x + loudness.transpose(1, 2)

    def speaker_condition(
        self, speaker: Tensor | None, speaker_mix: Tensor | None = None
    ) -> Tensor:
        """Return the speaker's conditioning.

        Args:
            speaker: (B,) or (B, 1) int64 ids.
            speaker_mix: (T, S) weights over the first S speakers, used instead; (1, S) is one mix
                for all frames.

        Returns:
            (B, G, 1), or (1, G, T) for a mix.
        """
        if speaker_mix is not None:
            table = self.emb_g.weight
            if not 1 <= speaker_mix.shape[-1] <= table.shape[0]:
                raise ValueError(
                    f"speaker_mix has {speaker_mix.shape[-1]} columns, "
                    f"the net {table.shape[0]} speakers"
                )
            weights = speaker_mix.to(table.device, table.dtype)
            return (weights @ table[: weights.shape[1]]).t()[None]
        if speaker is None:
            raise ValueError("pass speaker ids or a speaker mix")
        embedded: Tensor = self.emb_g(speaker.reshape(-1))
        return embedded[:, :, None]

    def draw_noise(
        self, batch: int, n_frames: int, *, seed: int, device: torch.device
    ) -> InferenceNoise:
        """Draw the random numbers of an inference from a private CPU generator: the same on every
        device.

        Args:
            batch: B.
            n_frames: T.
            seed: of the generator.
            device: where the numbers are needed.
        """
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, self.config.inter_channels, n_frames)
        prior = draw_normal(shape, generator=generator, device=device)
        source = self.dec.m_source.draw(batch, n_frames, generator=generator, device=device)
        return InferenceNoise(prior, source)

    def _draw_alike(
        self, lengths: Sequence[int], n_frames: int, *, seed: int, device: torch.device
    ) -> InferenceNoise:
        """Draw for every clip what it would be drawn alone, zeros after its end."""
        alone = {  # the same seed: clips of one length share their numbers
            length: self.draw_noise(1, length, seed=seed, device=device) for length in set(lengths)
        }
        hop = self.dec.hop_length
        drawn = [alone[length] for length in lengths]
        return InferenceNoise(
            _rows([one.prior for one in drawn], n_frames),
            SourceNoise(
                torch.cat([one.source.phase for one in drawn]),
                _rows([one.source.noise.mT for one in drawn], n_frames * hop).mT,
            ),
        )

    def synthesize(
        self,
        units: Tensor,
        f0: Tensor,
        uv: Tensor,
        g: Tensor,
        noise: InferenceNoise,
        *,
        noise_scale: float | Tensor,
        predict_f0: bool,
        volume: Tensor | None,
        lengths: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the inference net on given random numbers: the deterministic part of `infer`, and
        what is exported.

        Args:
            units: (B, D, T).
            f0: (B, T) Hz.
            uv: (B, T) 1 = voiced.
            g: (B, G, 1) or (B, G, T) from `speaker_condition`.
            noise: from `draw_noise`.
            noise_scale: of the prior's noise.
            predict_f0: replace f0 by the voice's own contour.
            volume: (B, T) or None.
            lengths: frames of each clip, of inputs that are zero after them and a g of B rows: what is
                made of a clip is then what is made of it alone, and has no meaning after its end. Not
                with `predict_f0`. None = all T.

        Returns:
            As `infer`.
        """
        dtype = self.pre.weight.dtype
        mask = torch.ones_like(f0, dtype=dtype)[:, None]
        if lengths is not None:
            inside = sequence_mask(torch.tensor(lengths, device=f0.device), f0.shape[1])
            mask = inside[:, None].to(dtype)
        x = self._content(units, uv, volume, mask)
        if predict_f0:
            if lengths is not None:
                raise ValueError("predict the pitch of clips one by one, as infer_many does")
            f0 = self._own_pitch(x, f0, uv, mask, g)
        m_p, logs_p = self.enc_p(x, mask, f0_to_coarse(f0, compat=self.compat))
        z_p = (m_p + noise.prior * torch.exp(logs_p) * noise_scale).to(dtype)
        z = self.flow.inverse(z_p, mask, g)
        wav: Tensor = self.dec(z, f0, g, random=noise.source)
        if lengths is not None:
            mend_ends(
                self.dec, wav, z, f0, g, noise.source, source=self.dec.m_source,
                lengths=lengths, reach=generator_reach(self.config),
            )  # fmt: skip
        return wav, f0

    def _own_pitch(self, x: Tensor, f0: Tensor, uv: Tensor, mask: Tensor, g: Tensor) -> Tensor:
        """Predict the voice's own contour (B, T) Hz from its content x (B, H, T)."""
        if self.f0_decoder is None:
            raise ConfigError(
                "this voice cannot predict F0: its model.use_automatic_f0_prediction is false; "
                "leave out --auto_predict_f0"
            )
        norm_lf0 = normalize_lf0(f0_to_lf0(f0)[:, None], uv, mask, None)
        return lf0_to_f0(self.f0_decoder(x, norm_lf0, mask, g))[:, 0]

    def _own_pitch_of(self, clip: Clip, g: Tensor) -> Tensor:
        """Predict the voice's own contour (1, T) Hz of a clip, g being who sings it."""
        mask = torch.ones_like(clip.f0, dtype=self.pre.weight.dtype)[:, None]
        x = self._content(clip.units, clip.uv, clip.volume, mask)
        return self._own_pitch(x, clip.f0, clip.uv, mask, g)

    @torch.no_grad()
    def infer(
        self,
        units: Tensor,
        f0: Tensor,
        uv: Tensor,
        speaker: Tensor | None,
        *,
        speaker_mix: Tensor | None = None,
        noise_scale: float = 0.35,
        seed: int = DEFAULT_SEED,
        predict_f0: bool = False,
        volume: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Convert: units and pitch to the waveform of a speaker. Global random state is neither
        used nor changed.

        Args:
            units: (B, D, T) content at frame rate.
            f0: (B, T) Hz, float32; <= 0 = unvoiced.
            uv: (B, T) 1 = voiced.
            speaker: (B,) int64 ids, or None with a mix.
            speaker_mix: (T, S) weights of the first S speakers per frame, or (1, S).
            noise_scale: of the prior's noise, 0 ... 1.
            seed: of the private generator; the default is the original's.
            predict_f0: let the voice choose its own contour (speech, not songs).
            volume: (B, T) linear RMS, for nets with a volume embedding.

        Returns:
            wav (B, 1, T · hop_length) in (-1, 1), and the f0 (B, T) that was used.

        Raises:
            ConfigError: `predict_f0` on a voice without it.
        """
        n_frames = f0.shape[1]
        if speaker_mix is not None and speaker_mix.shape[0] not in (1, n_frames):
            raise ValueError(f"speaker_mix has {speaker_mix.shape[0]} rows for {n_frames} frames")
        noise = self.draw_noise(f0.shape[0], n_frames, seed=seed, device=f0.device)
        return self.synthesize(
            units,
            f0,
            uv,
            self.speaker_condition(speaker, speaker_mix),
            noise,
            noise_scale=noise_scale,
            predict_f0=predict_f0,
            volume=volume,
        )

    @torch.no_grad()
    def infer_many(
        self,
        clips: Sequence[Clip],
        *,
        noise_scale: float = 0.35,
        seed: int = DEFAULT_SEED,
        predict_f0: bool = False,
    ) -> list[tuple[Tensor, Tensor]]:
        """Convert several clips in one batch; arguments as of `infer`.

        Returns:
            Of each clip, wav (T · hop_length,) and the f0 (1, T) that was used: what `infer` gives for
            it alone, the rounding of sums apart. With `compat` one by one.

        Raises:
            ConfigError: `predict_f0` on a voice without it.
        """
        if len(clips) == 1 or self.compat:  # the original's phase can only be summed from the start
            return [self._infer_one(clip, noise_scale, seed, predict_f0) for clip in clips]
        lengths = [len(clip) for clip in clips]
        if not lengths:
            return []
        longest, device = max(lengths), clips[0].f0.device
        conditions = [self._condition(clip) for clip in clips]
        pitches = [clip.f0 for clip in clips]
        if predict_f0:
            pitches = [self._own_pitch_of(clip, g) for clip, g in zip(clips, conditions)]
        if max(g.shape[2] for g in conditions) > 1:
            conditions = [g.expand(-1, -1, n) for g, n in zip(conditions, lengths)]
        volumes = [clip.volume for clip in clips if clip.volume is not None]
        wav, _ = self.synthesize(
            _rows([clip.units for clip in clips], longest),
            _rows(pitches, longest),
            _rows([clip.uv for clip in clips], longest),
            _rows(conditions, max(g.shape[2] for g in conditions)),
            self._draw_alike(lengths, longest, seed=seed, device=device),
            noise_scale=noise_scale,
            predict_f0=False,
            volume=_rows(volumes, longest) if volumes else None,
            lengths=lengths,
        )
        hop = self.dec.hop_length
        return [
            (one[0, : length * hop], pitch) for one, pitch, length in zip(wav, pitches, lengths)
        ]

    def _infer_one(
        self, clip: Clip, noise_scale: float, seed: int, predict_f0: bool
    ) -> tuple[Tensor, Tensor]:
        """Convert a lone clip: wav (T · hop_length,) and f0 (1, T)."""
        mixed = isinstance(clip.speaker, Tensor)
        wav, f0 = self.infer(
            clip.units,
            clip.f0,
            clip.uv,
            None if mixed else torch.tensor([clip.speaker], device=clip.f0.device),
            speaker_mix=clip.speaker if isinstance(clip.speaker, Tensor) else None,
            noise_scale=noise_scale,
            seed=seed,
            predict_f0=predict_f0,
            volume=clip.volume,
        )
        return wav[0, 0], f0

    def _condition(self, clip: Clip) -> Tensor:
        """Conditioning of who sings a clip: (1, G, 1), or (1, G, T) for a mix."""
        if isinstance(clip.speaker, Tensor):
            return self.speaker_condition(None, clip.speaker)
        return self.speaker_condition(torch.tensor([clip.speaker], device=clip.f0.device))


def _rows(parts: Sequence[Tensor], length: int) -> Tensor:
    """Pad clips (1, ..., T_i) with zeros to a batch (B, ..., length)."""
    return torch.cat([F.pad(part, (0, length - part.shape[-1])) for part in parts])
