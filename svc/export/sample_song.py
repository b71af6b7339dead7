"""A made-up song that two forms of a voice sing, to hear in figures what a change has cost.

    f0        ..--''        a glide over two octaves with a vibrato, then a breath without voice
    units     ~~~~~~~~~~    twelve new sounds a second, as large as those of a speech encoder
    volume    .-'''''-.     a swell

Always the same for the same config: no file and no speech encoder are needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from svc.config import SvcConfig
from svc.synthesizer import Synthesizer

SECONDS = 3.0
_SEED = 20
_LOW, _HIGH = 110.0, 440.0  # Hz
_VIBRATO_HZ, _VIBRATO_CENTS = 5.5, 40.0
_SOUNDS_PER_SECOND = 12.0
_UNIT_SCALE = 1.0  # standard deviation; that of the units of Whisper tiny is 1.2
_VOICED = 0.85  # share of the song; the rest is breath
_LOUDEST = 0.2  # linear RMS


@dataclass(frozen=True)
class SampleSong:
    """Inputs of `Synthesizer.infer` for one clip of N frames.

    Attributes:
        units: (1, D, N).
        f0: (1, N) Hz, 0 in the breath.
        uv: (1, N) 1 = voiced.
        volume: (1, N) linear RMS.
        speaker: (1,) int64 id.
    """

    units: Tensor
    f0: Tensor
    uv: Tensor
    volume: Tensor
    speaker: Tensor

    def sung_by(self, net: Synthesizer) -> Tensor:
        """Return the song as a voice sings it, (T,) float32 in [-1, 1]."""
        volume = self.volume if net.has_volume else None
        wav, _ = net.infer(self.units, self.f0, self.uv, self.speaker, volume=volume)
        return wav[0, 0].float()


def sample_song(config: SvcConfig, seconds: float = SECONDS) -> SampleSong:
    """Make the song for a voice.

    Args:
        config: of the voice: width of the units, frame rate, the first speaker's id.
        seconds: its length, above 0.
    """
    n_frames = max(4, round(seconds * config.data.sampling_rate / config.data.hop_length))
    share = torch.arange(n_frames, dtype=torch.float64) / n_frames
    time = share * seconds
    cents = _VIBRATO_CENTS * torch.sin(2 * math.pi * _VIBRATO_HZ * time)
    f0 = _LOW * (_HIGH / _LOW) ** (share / _VOICED) * 2 ** (cents / 1200)
    uv = (share < _VOICED).float()
    generator = torch.Generator().manual_seed(_SEED)
    n_sounds = max(2, round(seconds * _SOUNDS_PER_SECOND))
    sounds = torch.randn(1, config.model.ssl_dim, n_sounds, generator=generator) * _UNIT_SCALE
    return SampleSong(
        units=F.interpolate(sounds, size=n_frames, mode="linear", align_corners=True),
        f0=(f0.float() * uv)[None],
        uv=uv[None],
        volume=(_LOUDEST * torch.sin(math.pi * share)).float()[None],
        speaker=torch.tensor([min(config.spk.values())]),
    )
