"""A voice that is a diffusion model alone: units, melody and loudness straight to a mel
(``svc infer -od``, spec_diffusion 9).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from svc.audio.pitch import F0Track
from svc.config import load_diffusion_config
from svc.conversion.chunks import FloatArray
from svc.conversion.companions import diffusion_ranges
from svc.conversion.listening import (
    HearingFacts,
    Listener,
    load_encoder,
    load_predictor,
    load_timbre,
)
from svc.conversion.options import DiffusionChoice, HearingChoice, InferOptions
from svc.conversion.refine import Refiner, load_refiner
from svc.conversion.voice import finished, known_ranges, memory_of
from svc.devices import precision_dtype, resolve_device
from svc.errors import ConfigError
from svc.f0 import F0Predictor
from svc.f0.voice_range import VoiceRange


@dataclass(frozen=True)
class DiffusionVoice:
    """Diffusion model, vocoder and what they hear with; a `Backend`.

    Attributes:
        listener: encoder and melody detector.
        refiner: the diffusion model with its vocoder.
        ranges: which notes each speaker sings, of those for whom that is known.
    """

    listener: Listener
    refiner: Refiner
    ranges: Mapping[str, VoiceRange] = field(default_factory=dict)

    @property
    def speakers(self) -> Mapping[str, int]:
        """Name -> id."""
        return self.listener.speakers

    @property
    def sampling_rate(self) -> int:
        """Rate of what is rendered, Hz."""
        return self.listener.sampling_rate

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.listener.hop_length

    @property
    def compat(self) -> bool:
        """Cut, join and round as so-vits-svc 4.1 does."""
        return self.listener.compat

    @property
    def f0_predictor(self) -> F0Predictor | None:
        """Melody detector; None where every song comes with a pitch curve."""
        return self.listener.f0_predictor

    @property
    def usual_seconds(self) -> float:
        """Longest stretch whose units are like those of training clips."""
        return self.listener.encoder.usual_seconds

    @property
    def where(self) -> str:
        """Where it computes, for messages."""
        return str(self.listener.device)

    def check_options(self, options: InferOptions, singers: Mapping[str, int]) -> None:
        """Raise ConfigError when the model lacks what the options ask for."""
        if options.auto_f0:
            raise ConfigError(
                "-a/--auto_predict_f0 and -od/--only_diffusion: a diffusion model sings the melody it "
                "is given and predicts none; run without -a"
            )
        if options.second_encoding:
            raise ConfigError(
                "-se/--second_encoding and -od/--only_diffusion: there is no first result to encode; "
                "run without -se"
            )
        self.listener.check_options(options, singers)
        self.refiner.check_options(options, singers, alone=True)

    @torch.inference_mode()
    def render(
        self,
        window: FloatArray,
        speaker: int | FloatArray,
        options: InferOptions,
        track: F0Track | None = None,
    ) -> FloatArray:
        """Convert one stretch; see `Backend.render`."""
        heard = self.listener.hear(window, speaker, options, track)
        volume = self.listener.volume(heard.source)
        wav = self.refiner.sing(heard.units, heard.f0, volume, speaker, options)
        return finished(wav, heard.source, self.sampling_rate, options)

    @property
    def give_back(self) -> Callable[[], None]:
        """See `Backend.give_back`."""
        return memory_of(self.listener.device)


def load_diffusion_voice(diffusion: DiffusionChoice, choice: HearingChoice) -> DiffusionVoice:
    """Load a diffusion model to sing alone.

    Args:
        diffusion: its files.
        choice: how it listens, and where it computes.

    Raises:
        SvcError: a file is missing or damaged, or they do not fit each other.
    """
    precision_dtype(choice.encoder_precision)  # an unknown one is refused before anything is read
    settings = load_diffusion_config(diffusion.config_path)
    data = settings.data
    facts = HearingFacts(
        data.encoder,
        data.encoder_out_channels,
        None,
        str(diffusion.config_path),
        settings.spk,
        data.sampling_rate,
        data.block_size,
        data.unit_interpolate_mode,
    )
    own = facts.check(choice)
    device = (
        choice.device if isinstance(choice.device, torch.device) else resolve_device(choice.device)
    )
    refiner = load_refiner(diffusion, None, device=device, compat=choice.compat)
    listener = Listener(
        load_encoder(facts, choice, device, own),
        load_predictor(facts, choice, device),
        device,
        facts.speakers,
        facts.sampling_rate,
        facts.hop_length,
        facts.unit_interpolate_mode,
        choice.compat,
        load_timbre(facts, choice, device),
    )
    return DiffusionVoice(listener, refiner, known_ranges(diffusion.model, diffusion_ranges))
