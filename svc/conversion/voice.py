"""A loaded voice: the models that belong together, and what they make of one stretch of audio."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from svc.audio.loudness import match_envelope
from svc.config import check_encoder_width, load_config
from svc.conversion.backend import OneWindow
from svc.conversion.batches import BatchSize, bytes_of_frame
from svc.conversion.chunks import FloatArray
from svc.conversion.compute import ComputeChoice, Computing
from svc.conversion.listening import (
    OWN_ENCODER,
    Heard,
    HearingFacts,
    Listener,
    load_encoder,
    load_predictor,
    load_timbre,
)
from svc.conversion.options import DiffusionChoice, HearingChoice, InferOptions
from svc.conversion.precision import exact_predictor, settle_choice, settle_voice, with_precision
from svc.conversion.protection import protect
from svc.conversion.windows import Window
from svc.devices import exact_arithmetic, precision_dtype, resolve_device
from svc.errors import ConfigError, SvcError
from svc.f0 import F0Predictor
from svc.f0.range_files import find_ranges
from svc.f0.voice_range import VoiceRange
from svc.speech import SpeechEncoder
from svc.synthesizer import Synthesizer, load_synthesizer
from svc.synthesizer.inference import Clip

if TYPE_CHECKING:
    from svc.conversion.refine import Refiner
    from svc.retrieval.base import UnitRetriever
    from svc.vocoder.enhancer import Enhancer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Voice(OneWindow):
    """The models of one voice and the facts of its config that conversion needs.

    Attributes:
        synthesizer: in evaluation mode, on its device.
        encoder: the speech encoder it was trained with.
        f0_predictor: melody detector at the voice's rate and hop; None where every song comes with
            a pitch curve.
        speakers: name -> id.
        sampling_rate: Hz.
        hop_length: samples per frame.
        unit_interpolate_mode: how units are stretched to frames (spec_core 5.4).
        compat: reproduce the roundings and slips of so-vits-svc 4.1.
        ranges: which notes each speaker sings, of those for whom that is known.
        retriever: clusters or index of the voice's own units; None = there is none.
        refiner: diffusion model and vocoder that go over the result; None = there are none.
        enhancer: vocoder that sings the result again; None = there is none.
        computing: how its nets are computed.
        batch: how many frames it renders at a time.

    Raises:
        ConfigError: the encoder's units do not have the width the voice was trained on.
    """

    synthesizer: Synthesizer
    encoder: SpeechEncoder
    f0_predictor: F0Predictor | None
    speakers: Mapping[str, int]
    sampling_rate: int = 44100
    hop_length: int = 512
    unit_interpolate_mode: str = "left"
    compat: bool = False
    ranges: Mapping[str, VoiceRange] = field(default_factory=dict)
    retriever: UnitRetriever | None = None
    refiner: Refiner | None = None
    enhancer: Enhancer | None = None
    computing: Computing = field(default_factory=Computing)
    batch: BatchSize = field(default_factory=BatchSize)

    def __post_init__(self) -> None:
        check_encoder_width(
            self.encoder.name,
            self.synthesizer.config.ssl_dim,
            where="this voice",
            advice=OWN_ENCODER,
            width=self.encoder.dim,
        )

    @property
    def device(self) -> torch.device:
        """Where the synthesizer's weights are."""
        return next(self.synthesizer.parameters()).device

    @property
    def where(self) -> str:
        """Where it computes, for messages."""
        return str(self.device)

    @property
    def usual_seconds(self) -> float:
        """Longest stretch whose units are like those of training clips."""
        return self.encoder.usual_seconds

    @property
    def listener(self) -> Listener:
        """What it hears with."""
        return Listener(
            self.encoder,
            self.f0_predictor,
            self.device,
            self.speakers,
            self.sampling_rate,
            self.hop_length,
            self.unit_interpolate_mode,
            self.compat,
            self.retriever,
        )

    def check_options(self, options: InferOptions, singers: Mapping[str, int]) -> None:
        """Raise ConfigError when the voice lacks what the options ask for."""
        if options.auto_f0 and not self.synthesizer.has_auto_f0:
            raise ConfigError(
                "-a/--auto_predict_f0: this model was trained without an F0 decoder "
                "(use_automatic_f0_prediction is false); run without -a"
            )
        self.listener.check_options(options, singers)
        if self.refiner is not None:
            self.refiner.check_options(options, singers)

    @property
    def give_back(self) -> Callable[[], None]:
        """See `Backend.give_back`."""
        return memory_of(self.device)

    @property
    def batch_frames(self) -> int:
        """See `Backend.batch_frames`."""
        return 0 if self.compat else self.batch.frames

    def render_many(
        self, windows: Sequence[Window], speaker: int, options: InferOptions
    ) -> list[FloatArray]:
        """Convert several stretches; see `Backend.render_many`.

        With `compat` one by one: the original's arithmetic is that of lone stretches.
        """
        batch = BatchSize() if self.compat else self.batch
        with exact_arithmetic(self.device):
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
        singers = [speaker if window.weights is None else window.weights for window in windows]
        volumes: list[Tensor | None] = [
            listener.volume(one.source) if self.synthesizer.has_volume else None for one in heard
        ]
        sung = self.synthesizer.infer_many(
            [
                Clip(one.units, one.f0, one.uv, self._singer(singer), volume)
                for one, singer, volume in zip(heard, singers, volumes)
            ],
            noise_scale=options.noise_scale,
            seed=options.seed,
            predict_f0=options.auto_f0,
        )
        wavs = [wav.float() for wav, _ in sung]
        melodies = [f0 for _, f0 in sung]
        if self.refiner is not None:
            from svc.conversion.refine import Stretch  # where there is a refiner, it is loaded

            units = [one.units for one in heard]
            if options.second_encoding:
                units = listener.encode_again(wavs, [one.uv for one in heard])
            loud = [
                listener.volume(wav) if volume is None else volume
                for wav, volume in zip(wavs, volumes)
            ]
            wavs = self.refiner.sing_many(
                [
                    Stretch(content, f0.float(), volume, singer, wav)
                    for content, f0, volume, singer, wav in zip(
                        units, melodies, loud, singers, wavs
                    )
                ],
                options,
            )
        if self.enhancer is not None:
            wavs = [self._enhanced(wav, f0[0], options) for wav, f0 in zip(wavs, melodies)]
        return [
            finished(
                wav,
                one,
                self.sampling_rate,
                self.hop_length,
                options,
                precision=self.computing.precision,
            )
            for wav, one in zip(wavs, heard)
        ]

    def _singer(self, speaker: int | FloatArray) -> int | Tensor:
        """Who sings a window, as the net takes it."""
        return speaker if isinstance(speaker, int) else torch.from_numpy(speaker).to(self.device)

    def _enhanced(self, wav: Tensor, f0: Tensor, options: InferOptions) -> Tensor:
        """Let the enhancer sing (n,) samples again, if there is one; f0 (N,) Hz is their melody."""
        if self.enhancer is None:
            return wav
        return self.enhancer(
            wav,
            self.sampling_rate,
            f0,
            self.hop_length,
            adaptive_key=options.enhancer_key,
            generator=torch.Generator().manual_seed(options.seed),
        )


def memory_of(device: torch.device) -> Callable[[], None]:
    """Return what gives memory that torch no longer uses back to a device."""
    return torch.cuda.empty_cache if device.type == "cuda" else lambda: None


def finished(
    wav: Tensor,
    heard: Heard,
    sr: int,
    hop_length: int,
    options: InferOptions,
    *,
    precision: str = "fp32",
) -> FloatArray:
    """Check a rendered stretch (n,), and give it the source's envelope, breaths and consonants where that
    is asked for.

    Args:
        wav: what was rendered.
        heard: the stretch it was made of.
        sr: rate of both, Hz.
        hop_length: samples per frame.
        options: loudness_envelope, keep_breath and keep_unvoiced are used.
        precision: what it was computed in, for the message.

    Raises:
        SvcError: it holds NaN or infinity.
    """
    if options.loudness_envelope != 1.0:
        wav = match_envelope(heard.source, sr, wav, sr, options.loudness_envelope)
    if not bool(torch.isfinite(wav).all()):
        if precision != "fp32":
            raise SvcError(
                f"the model produced NaN in {precision}: try --precision fp32 first; if that does not "
                "help, its checkpoint is damaged or its training diverged: try an earlier one with -m"
            )
        raise SvcError(
            "the model produced NaN: its checkpoint is damaged or its training diverged; "
            "try an earlier checkpoint with -m"
        )
    rendered: FloatArray = wav.cpu().numpy()
    if options.keep_breath == 0 and options.keep_unvoiced == 0:
        return rendered  # without a copy of the source from the device
    source, uv = heard.source.cpu().numpy(), heard.uv[0].cpu().numpy()
    return protect(rendered, source, uv, hop_length, sr, options)


def load_voice(
    model_path: str | Path,
    config_path: str | Path | None = None,
    choice: HearingChoice | None = None,
    *,
    diffusion: DiffusionChoice | None = None,
    enhancer: Path | None = None,
    compute: ComputeChoice | None = None,
) -> Voice:
    """Load a voice; see `Converter.from_files`."""
    choice = choice or HearingChoice()
    precision_dtype(choice.encoder_precision)  # an unknown one is refused before anything is read
    beside = Path(model_path).parent / "config.json"
    config = load_config(beside if config_path is None else config_path)
    model = config.model
    facts = HearingFacts(
        model.speech_encoder,
        model.ssl_dim,
        model.encoder_path,
        str(config.path),
        config.spk,
        config.data.sampling_rate,
        config.data.hop_length,
        config.data.unit_interpolate_mode,
    )
    own = facts.check(choice)
    device = (
        choice.device if isinstance(choice.device, torch.device) else resolve_device(choice.device)
    )
    computing = settle_choice(compute or ComputeChoice(), device, compat=choice.compat)
    predictor = exact_predictor(load_predictor(facts, choice, device), device)
    retriever = load_timbre(facts, choice, device)
    refiner = None
    if diffusion is not None:
        diffusion = with_precision(diffusion, computing)
        from svc.conversion.refine import load_refiner

        refiner = load_refiner(diffusion, config, device=device, compat=choice.compat)
    again = None
    if enhancer is not None:
        from svc.vocoder.enhancer import load_enhancer

        again = load_enhancer(enhancer, device=device, compat=choice.compat)
    synthesizer = load_synthesizer(Path(model_path), config, device=device, compat=choice.compat)
    if not choice.compat:
        settle_voice(synthesizer, computing)
    return Voice(
        synthesizer,
        load_encoder(facts, choice, device, own),
        predictor,
        speakers=config.spk,
        sampling_rate=facts.sampling_rate,
        hop_length=facts.hop_length,
        unit_interpolate_mode=facts.unit_interpolate_mode,
        compat=choice.compat,
        ranges=known_ranges(Path(model_path)),
        retriever=retriever,
        refiner=refiner,
        enhancer=again,
        computing=computing,
        batch=BatchSize.usual(
            device, bytes_of_frame(config.model)
        ),  # last: what is free once all is loaded
    )


def known_ranges(
    model_path: Path, find: Callable[[Path], dict[str, VoiceRange]] = find_ranges
) -> dict[str, VoiceRange]:
    """What is known of the voices' ranges; damage is told, for songs can be sung without."""
    try:
        return find(model_path)
    except SvcError as error:
        logger.warning("%s", error)
        return {}
