"""Waveform generation: harmonic source, NSF-HiFiGAN generator and the discriminators that train
it.
"""

from __future__ import annotations

from svc.vocoder.discriminator import Discriminator
from svc.vocoder.generator import Generator
from svc.vocoder.source import HarmonicSource, SourceNoise
from svc.vocoder.weight_norm import fold_weight_norm

__all__ = ["Discriminator", "Generator", "HarmonicSource", "SourceNoise", "fold_weight_norm"]
