"""A voice that is a diffusion model alone: units, melody and loudness straight to a mel
(``svc infer -od``, spec_diffusion 9).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from svc.config import load_diffusion_config
from svc.conversion.backend import OneWindow
from svc.conversion.batches import BatchSize
from svc.conversion.chunks import FloatArray
from svc.conversion.companions import diffusion_ranges
from svc.conversion.compute import ComputeChoice, Computing
from svc.conversion.listening import (
    HearingFacts,
    Listener,
    load_encoder,
    load_predictor,
    load_timbre,
)
from svc.conversion.options import DiffusionChoice, HearingChoice, InferOptions
from svc.conversion.precision import exact_predictor, settle_choice, with_precision
from svc.conversion.refine import Refiner, Stretch, load_refiner
from svc.conversion.voice import finished, known_ranges, memory_of
from svc.conversion.windows import Window
from svc.devices import exact_arithmetic, precision_dtype, resolve_device
from svc.errors import ConfigError
from svc.f0 import F0Predictor
from svc.f0.voice_range import VoiceRange

FRAME_BYTES = 160_000  # of the usual denoiser: half of them its constants (svc.conversion.refine)


@dataclass(frozen=True)
class DiffusionVoice(OneWindow):
    """Diffusion model, vocoder and what they hear with; a `Backend`.

    Attributes:
        listener: encoder and melody detector.
        refiner: the diffusion model with its vocoder.
        ranges: which notes each speaker sings, of those for whom that is known.
        batch: how many frames it renders at a time.
        computing: how its nets are computed.
    """

    listener: Listener
    refiner: Refiner
    ranges: Mapping[str, VoiceRange] = field(default_factory=dict)
    batch: BatchSize = field(default_factory=BatchSize)
    computing: Computing = field(default_factory=Computing)

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

    @property
    def batch_frames(self) -> int:
        """See `Backend.batch_frames`."""
        return 0 if self.compat else self.batch.frames

    def render_many(
        self, windows: Sequence[Window], speaker: int, options: InferOptions
    ) -> list[FloatArray]:
        """Convert several stretches; see `Backend.render_many`."""
        batch = BatchSize() if self.compat else self.batch
        with exact_arithmetic(self.listener.device):
            return batch.render(
                [window.wav.size // self.hop_length for window in windows],
                lambda group: self._render([windows[index] for index in group], speaker, options),
                self.give_back,
            )

    @torch.inference_mode()
    def _render(
        self, windows: Sequence[Window], speaker: int, options: InferOptions
    ) -> list[FloatArray]:
        """Convert stretches in one batch."""
        listener = self.listener
        heard = listener.hear_many(windows, speaker, options)
        stretches = [
            Stretch(
                one.units,
                one.f0,
                listener.volume(one.source),
                speaker if window.weights is None else window.weights,
            )
            for window, one in zip(windows, heard)
        ]
        return [
            finished(
                wav,
                one,
                self.sampling_rate,
                self.hop_length,
                options,
                precision=self.computing.precision,
            )
            for wav, one in zip(self.refiner.sing_many(stretches, options), heard)
        ]

    @property
    def give_back(self) -> Callable[[], None]:
        """See `Backend.give_back`."""
        return memory_of(self.listener.device)


def load_diffusion_voice(
    diffusion: DiffusionChoice, choice: HearingChoice, compute: ComputeChoice | None = None
) -> DiffusionVoice:
    """Load a diffusion model to sing alone.

    Args:
        diffusion: its files.
        choice: how it listens, and where it computes.
        compute: the precision of its nets, where `diffusion` does not say it.

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
    computing = settle_choice(compute or ComputeChoice(), device, compat=choice.compat)
    diffusion = with_precision(diffusion, computing)
    refiner = load_refiner(diffusion, None, device=device, compat=choice.compat)
    listener = Listener(
        load_encoder(facts, choice, device, own),
        exact_predictor(load_predictor(facts, choice, device), device),
        device,
        facts.speakers,
        facts.sampling_rate,
        facts.hop_length,
        facts.unit_interpolate_mode,
        choice.compat,
        load_timbre(facts, choice, device),
    )
    return DiffusionVoice(
        listener,
        refiner,
        known_ranges(diffusion.model, diffusion_ranges),
        BatchSize.usual(device, FRAME_BYTES),
        Computing(precision=diffusion.precision or "fp32"),
    )
