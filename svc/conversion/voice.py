"""A loaded voice: the models that belong together, and what they make of one stretch of audio."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from svc.audio.frames import expand_units
from svc.audio.loudness import frame_volume, match_envelope
from svc.audio.pitch import F0Track, transpose
from svc.audio.resample import sinc_resample
from svc.config import check_encoder_width, encoder_paths, load_config
from svc.conversion.chunks import FloatArray
from svc.conversion.options import InferOptions
from svc.conversion.speakers import find_speaker
from svc.devices import precision_dtype, resolve_device
from svc.errors import ConfigError, SvcError
from svc.f0 import F0Predictor, build_f0_predictor
from svc.f0.range_files import find_ranges
from svc.f0.remember import RememberingPredictor
from svc.f0.voice_range import VoiceRange
from svc.speech import SpeechEncoder, build_speech_encoder
from svc.speech.locate import check_given
from svc.synthesizer import Synthesizer, load_synthesizer

if TYPE_CHECKING:
    from svc.retrieval.base import UnitRetriever

logger = logging.getLogger(__name__)

ENCODER_SR = 16000  # Hz, what every speech encoder hears
_OWN_ENCODER = "set model.speech_encoder to the one the voice was trained with"


@dataclass(frozen=True)
class Voice:
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

    def __post_init__(self) -> None:
        check_encoder_width(
            self.encoder.name,
            self.synthesizer.config.ssl_dim,
            where="this voice",
            advice=_OWN_ENCODER,
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

    def check_options(self, options: InferOptions) -> None:
        """Raise ConfigError when the voice lacks what the options ask for."""
        if options.auto_f0 and not self.synthesizer.has_auto_f0:
            raise ConfigError(
                "-a/--auto_predict_f0: this model was trained without an F0 decoder "
                "(use_automatic_f0_prediction is false); run without -a"
            )
        if options.cluster_ratio > 0 and self.retriever is None:
            raise ConfigError(
                f"-cr/--cluster_infer_ratio is {options.cluster_ratio:g} and no clusters or index "
                "are loaded: name the file with -cm"
            )

    def release(self) -> None:
        """Give the memory of an accelerator back once the nets are gone."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def render(
        self,
        window: FloatArray,
        speaker: int | FloatArray,
        options: InferOptions,
        track: F0Track | None = None,
    ) -> FloatArray:
        """Convert one stretch; see `Backend.render`."""
        device, sr = self.device, self.sampling_rate
        if track is None:
            if self.f0_predictor is None:
                raise ValueError("this voice has no F0 predictor: give a pitch curve")
            track = self.f0_predictor(window)
        f0 = torch.from_numpy(transpose(track.f0, options.transpose)).float().to(device)[None]
        uv = torch.from_numpy(track.uv).to(device)[None]
        source = torch.from_numpy(window).to(device)
        units = self._units(source, uv, speaker, options)
        volume: Tensor | None = None
        if self.synthesizer.has_volume:
            volume = frame_volume(source[None], self.hop_length)
        mixed = not isinstance(speaker, int)
        wav, _ = self.synthesizer.infer(
            units,
            f0,
            uv,
            None if mixed else torch.tensor([speaker], device=device),
            speaker_mix=torch.from_numpy(speaker).to(device) if mixed else None,
            noise_scale=options.noise_scale,
            seed=options.seed,
            predict_f0=options.auto_f0,
            volume=volume,
        )
        wav = wav[0, 0].float()
        if options.loudness_envelope != 1.0:
            wav = match_envelope(source, sr, wav, sr, options.loudness_envelope)
        if not bool(torch.isfinite(wav).all()):
            raise SvcError(
                "the model produced NaN: its checkpoint is damaged or its training diverged; "
                "try an earlier checkpoint with -m"
            )
        rendered: FloatArray = wav.cpu().numpy()
        return rendered

    def _units(
        self, source: Tensor, uv: Tensor, speaker: int | FloatArray, options: InferOptions
    ) -> Tensor:
        """Units of a stretch on the frames of `uv` (1, N), drawn towards the target's own: (1, U, N).

        Clusters and index are searched at the encoder's rate and the found units stretched like the
        heard ones: copying after the search equals searching the copies (spec_cluster_index C12).
        """
        heard = sinc_resample(source, self.sampling_rate, ENCODER_SR).to(self.encoder.device)
        units = self.encoder.encode(heard).to(self.device)

        def stretch(x: Tensor) -> Tensor:
            mode = self.unit_interpolate_mode
            return expand_units(x, uv.shape[-1], mode, compat=self.compat)

        ratio = options.cluster_ratio
        if self.retriever is None or ratio == 0 or not isinstance(speaker, int):
            return stretch(units)
        name = find_speaker(self.speakers, speaker)[0]
        rows = units[0].t().float().contiguous()
        found = self.retriever.match(rows, name, speaker).t()[None].to(units.dtype)
        share = ratio * (1 - options.protect * (1 - uv))[:, None].to(units.dtype)
        units = stretch(units)
        return units + share * (stretch(found) - units)


def load_voice(
    model_path: str | Path,
    config_path: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    f0_predictor: str | None = "pm",
    f0_min: float = 50.0,
    f0_max: float = 1100.0,
    f0_threshold: float | None = None,
    encoder_path: str | Path | None = None,
    encoder_precision: str = "fp32",
    pretrain_dir: str | Path = "pretrain",
    compat: bool = False,
    cluster_path: str | Path | None = None,
    index_k: int = 8,
    index_nprobe: int | None = None,
) -> Voice:
    """Load a voice; see `Converter.from_files`, which passes everything on."""
    precision_dtype(encoder_precision)  # an unknown one is refused before anything is read
    beside = Path(model_path).parent / "config.json"
    config = load_config(beside if config_path is None else config_path)
    data, model = config.data, config.model
    check_encoder_width(
        model.speech_encoder, model.ssl_dim, where=str(config.path), advice=_OWN_ENCODER
    )
    given = None if encoder_path is None else str(encoder_path)
    own = {
        **encoder_paths(model.speech_encoder, model.encoder_path, what='"model.encoder_path"'),
        **encoder_paths(model.speech_encoder, given),
    }
    # Before any net is loaded. Default files are looked for later: where the config is not the
    # checkpoint's, it is no use to ask for the encoder that the config names.
    check_given(model.speech_encoder, own)
    where = device if isinstance(device, torch.device) else resolve_device(device)
    predictor: F0Predictor | None = None
    if f0_predictor is not None:
        predictor = build_f0_predictor(
            f0_predictor,
            sampling_rate=data.sampling_rate,
            hop_length=data.hop_length,
            f0_min=f0_min,
            f0_max=f0_max,
            threshold=f0_threshold,
            device=where,
            pretrain_dir=Path(pretrain_dir),
            compat=compat,
        )
    retriever = None
    if cluster_path is not None:
        from svc.retrieval.base import load_retriever

        retriever = load_retriever(
            Path(cluster_path),
            dim=model.ssl_dim,
            device=where,
            encoder=model.speech_encoder,
            k=index_k,
            nprobe=index_nprobe,
        )
    synthesizer = load_synthesizer(Path(model_path), config, device=where, compat=compat)
    encoder = build_speech_encoder(
        model.speech_encoder,
        device=where,
        path=own,
        pretrain_dir=Path(pretrain_dir),
        precision=encoder_precision,
    )
    return Voice(
        synthesizer,
        encoder,
        None if predictor is None else RememberingPredictor(predictor),
        speakers=config.spk,
        sampling_rate=data.sampling_rate,
        hop_length=data.hop_length,
        unit_interpolate_mode=data.unit_interpolate_mode,
        compat=compat,
        ranges=_ranges(Path(model_path)),
        retriever=retriever,
    )


def _ranges(model_path: Path) -> dict[str, VoiceRange]:
    """What is known of the voices' ranges; damage is told, for songs can be sung without."""
    try:
        return find_ranges(model_path)
    except SvcError as error:
        logger.warning("%s", error)
        return {}
