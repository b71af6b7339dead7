"""The synthesizer net of a voice: units and pitch in, waveform out; its losses and its loading."""

from __future__ import annotations

from svc.synthesizer.check import check_state, describe_mismatch
from svc.synthesizer.loading import load_synthesizer
from svc.synthesizer.losses import GeneratorLosses, discriminator_loss, generator_losses
from svc.synthesizer.model import Synthesizer, SynthesizerOutput

__all__ = [
    "GeneratorLosses",
    "Synthesizer",
    "SynthesizerOutput",
    "check_state",
    "describe_mismatch",
    "discriminator_loss",
    "generator_losses",
    "load_synthesizer",
]
