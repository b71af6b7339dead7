"""A loaded voice: the models that belong together, and what they make of one stretch of audio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from svc.audio.frames import expand_units
from svc.audio.loudness import frame_volume, match_envelope
from svc.audio.pitch import transpose
from svc.audio.resample import sinc_resample
from svc.config import SPEECH_ENCODER_DIMS, load_config
from svc.conversion.chunks import FloatArray
from svc.conversion.options import InferOptions
from svc.devices import resolve_device
from svc.errors import ConfigError, SvcError
from svc.f0 import F0Predictor, build_f0_predictor
from svc.speech import SpeechEncoder, build_speech_encoder
from svc.synthesizer import Synthesizer, load_synthesizer

ENCODER_SR = 16000  # Hz, what every speech encoder hears


@dataclass(frozen=True)
class Voice:
    """The models of one voice and the facts of its config that conversion needs.

    Attributes:
        synthesizer: in evaluation mode, on its device.
        encoder: the speech encoder it was trained with.
        f0_predictor: melody detector at the voice's rate and hop.
        speakers: name -> id.
        sampling_rate: Hz.
        hop_length: samples per frame.
        unit_interpolate_mode: how units are stretched to frames (spec_core 5.4).
        compat: reproduce the roundings and slips of so-vits-svc 4.1.

    Raises:
        ConfigError: the encoder's units do not have the width the voice was trained on.
    """

    synthesizer: Synthesizer
    encoder: SpeechEncoder
    f0_predictor: F0Predictor
    speakers: Mapping[str, int]
    sampling_rate: int = 44100
    hop_length: int = 512
    unit_interpolate_mode: str = "left"
    compat: bool = False

    def __post_init__(self) -> None:
        check_width(self.encoder.name, self.encoder.dim, self.synthesizer.config.ssl_dim)

    @property
    def device(self) -> torch.device:
        """Where the synthesizer's weights are."""
        return next(self.synthesizer.parameters()).device

    @property
    def usual_seconds(self) -> float:
        """Longest stretch whose units are like those of training clips."""
        return self.encoder.usual_seconds

    @torch.inference_mode()
    def render(self, window: FloatArray, speaker_id: int, options: InferOptions) -> FloatArray:
        """Convert one stretch.

        Args:
            window: float32 (n,) at the voice's rate, n >= hop_length.
            speaker_id: row of the speaker embedding.
            options: transpose, auto_f0, noise_scale, loudness_envelope and seed are used.

        Returns:
            float32 (n // hop_length * hop_length,) at the voice's rate.

        Raises:
            SvcError: the model produced NaN.
        """
        device, sr = self.device, self.sampling_rate
        track = self.f0_predictor(window)
        f0 = torch.from_numpy(transpose(track.f0, options.transpose)).float().to(device)[None]
        uv = torch.from_numpy(track.uv).to(device)[None]
        source = torch.from_numpy(window).to(device)
        heard = sinc_resample(source, sr, ENCODER_SR).to(self.encoder.device)
        units = expand_units(
            self.encoder.encode(heard),
            window.size // self.hop_length,
            self.unit_interpolate_mode,
            compat=self.compat,
        ).to(device)
        volume: Tensor | None = None
        if self.synthesizer.has_volume:
            volume = frame_volume(source[None], self.hop_length)
        wav, _ = self.synthesizer.infer(
            units,
            f0,
            uv,
            torch.tensor([speaker_id], device=device),
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


def load_voice(
    model_path: str | Path,
    config_path: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    f0_predictor: str = "pm",
    f0_min: float = 50.0,
    f0_max: float = 1100.0,
    f0_threshold: float = 0.05,
    encoder_path: str | Path | None = None,
    pretrain_dir: str | Path = "pretrain",
    compat: bool = False,
) -> Voice:
    """Load a voice; see `Converter.from_files`, which passes everything on."""
    beside = Path(model_path).parent / "config.json"
    config = load_config(beside if config_path is None else config_path)
    data, model = config.data, config.model
    dim = SPEECH_ENCODER_DIMS.get(model.speech_encoder)
    if dim is not None:
        check_width(model.speech_encoder, dim, model.ssl_dim)
    where = device if isinstance(device, torch.device) else resolve_device(device)
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
    synthesizer = load_synthesizer(Path(model_path), config, device=where, compat=compat)
    weights = encoder_path if encoder_path is not None else model.encoder_path
    encoder = build_speech_encoder(
        model.speech_encoder,
        device=where,
        path=None if weights is None else Path(weights),
        pretrain_dir=Path(pretrain_dir),
    )
    return Voice(
        synthesizer,
        encoder,
        predictor,
        speakers=config.spk,
        sampling_rate=data.sampling_rate,
        hop_length=data.hop_length,
        unit_interpolate_mode=data.unit_interpolate_mode,
        compat=compat,
    )


def check_width(encoder: str, dim: int, ssl_dim: int) -> None:
    """Raise ConfigError when the encoder's units are not as wide as the voice was trained on."""
    if dim == ssl_dim:
        return
    fitting = [name for name, width in SPEECH_ENCODER_DIMS.items() if width == ssl_dim]
    raise ConfigError(
        f'the speech encoder "{encoder}" gives units {dim} wide, the model takes {ssl_dim} '
        "(model.ssl_dim): set model.speech_encoder to the one it was trained with "
        f"({', '.join(fitting) or 'none known'})"
    )
