"""Content encoders: what one is, and how to get one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from svc.devices import precision_dtype
from svc.errors import CheckpointError
from svc.pretrained import PRETRAIN_DIR
from svc.speech.fusion import FusedEncoder
from svc.speech.hugging_face import find_weights
from svc.speech.locate import locate_encoder
from svc.speech.onnx import OnnxEncoder
from svc.speech.registry import ENCODER_NAMES, ENCODERS, Entry, Kind
from svc.speech.wav2vec2 import Wav2Vec2Config
from svc.speech.wave_encoder import Wav2Vec2Encoder
from svc.speech.wave_files import load_wave_net
from svc.speech.whisper import SIZES, WhisperEncoder, load_whisper

logger = logging.getLogger(__name__)

__all__ = ["ENCODER_NAMES", "SpeechEncoder", "build_speech_encoder"]

_MEL_BANDS = 80  # of every Whisper up to large-v2


class SpeechEncoder(Protocol):
    """Turns a voice into units that say what is sung, with little of who sings it."""

    name: str  # id, e.g. "vec768l12"; of a fusion "vec768l12+whisper-ppg-tiny"
    dim: int  # C, width of the units
    device: torch.device
    usual_seconds: float  # length of input up to which units are like those of training clips

    def encode(self, wav16k: Tensor) -> Tensor:
        """Encode (T,) samples at 16 kHz, any T, into (1, C, S) float32 units at 50 frames per
        second, S >= 1.

        Raises AudioError for NaN or infinite samples.
        """
        ...

    def encode_batch(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        """Encode several waves, (T_i,) each, into (1, C, S_i): what `encode` gives for each,
        float32 rounding apart.
        """
        ...


def build_speech_encoder(
    name: str,
    *,
    device: torch.device | str = "cpu",
    path: Path | Mapping[str, Path] | None = None,
    pretrain_dir: Path = PRETRAIN_DIR,
    precision: str = "fp32",
) -> SpeechEncoder:
    """Load a content encoder.

    Args:
        name: an id of `ENCODER_NAMES`, or two joined by "+".
        device: where to compute.
        path: weights other than the default ones under `pretrain_dir`: a file or a Hugging Face
            folder; of a fusion, or where several are known, by id as `svc.config.encoder_paths`
            returns them.
        pretrain_dir: folder of the default files. whisper-ppg-tiny needs none: where tiny.pt is
            absent the bundled encoder is used.
        precision: of the matrix products, see `svc.devices.PRECISIONS`; units are float32 always.

    Returns:
        The encoder, ready to use.

    Raises:
        ConfigError: unknown id or precision, a precision that a graph cannot take, or a path that
            is for no part of `name`.
        MissingFileError: a file is not there; says which, where it goes and what works without it.
            Every part's file is looked for before the first is read.
        CheckpointError: a file is damaged, hostile, another kind of net, or does not have what the
            id needs; says which id it fits.
        DeviceError, MissingDependencyError: of the ids that end in -onnx: what onnxruntime lacks.
    """
    precision_dtype(precision)
    files = locate_encoder(name, path, pretrain_dir)
    parts = []
    for part, file in files.items():
        logger.info("speech encoder %s: weights from %s", part, file)
        parts.append(_build(ENCODERS[part], file, device, precision))
    return parts[0] if len(parts) == 1 else FusedEncoder(parts)


def _build(entry: Entry, file: Path, device: torch.device | str, precision: str) -> SpeechEncoder:
    if entry.family == "onnx":
        return OnnxEncoder(file, name=entry.name, dim=entry.dim, device=device, precision=precision)
    if entry.family == "whisper":
        return _build_whisper(entry, file, device, precision)
    net = load_wave_net(file)
    reason = misfit_of(entry, net.config)
    if reason:
        fitting = [
            other.name for other in ENCODERS.values() if misfit_of(other, net.config) is None
        ]
        tap = f"layer {entry.layer}" if entry.layer else "the end"
        wanted = f"{entry.name} is {tap} of a {entry.kind} net, {entry.dim} wide"
        raise _unfit(entry, file, f"{reason}, but {wanted}", fitting)
    return Wav2Vec2Encoder(
        net,
        name=entry.name,
        layer=entry.layer,
        project=entry.project,
        padding=entry.padding,
        device=device,
        precision=precision,
    )


def _unfit(entry: Entry, file: Path, reason: str, fitting: Sequence[str]) -> CheckpointError:
    fits = " or ".join(f'"{name}"' for name in fitting)
    advice = f", or choose the speech encoder {fits}" if fits else ""
    return CheckpointError(
        f"{file} does not fit {entry.name}: {reason}: give it {entry.file.what}"
        f" ({entry.file.name}){advice}"
    )


def kind_of(config: Wav2Vec2Config) -> Kind:
    """Return which family of encoders a net belongs to."""
    if config.relative_buckets:
        return "WavLM"
    if config.feature_scale:
        return "DPHuBERT"
    return "hubert-soft" if config.soft else "HuBERT"


def misfit_of(entry: Entry, config: Wav2Vec2Config) -> str | None:
    """Say why a net of the wav2vec 2.0 family cannot be this encoder; None where it can."""
    kind = kind_of(config)
    if kind != entry.kind:
        return f"it is a {kind} net"
    width = config.projection_dim if entry.project else config.dim
    part = "its final projection" if entry.project else "it"
    if width is None:
        return f"{part} is absent"
    if width != entry.dim:
        return f"{part} is {width} wide"
    if config.n_layers < (entry.layer or 0):
        return f"it has {config.n_layers} layers"
    return None


def _build_whisper(
    entry: Entry, file: Path, device: torch.device | str, precision: str
) -> WhisperEncoder:
    net = load_whisper(find_weights(file) if file.is_dir() else file)
    found = net.config.dim
    if found != entry.dim:
        whispers = [other for other in ENCODERS.values() if other.family == "whisper"]
        size = SIZES.get(found, "no published size")
        reason = (
            f"it is a Whisper encoder {found} wide ({size}), but {entry.name} is {SIZES[entry.dim]}"
        )
        raise _unfit(entry, file, reason, [other.name for other in whispers if other.dim == found])
    if net.config.n_mels != _MEL_BANDS:
        logger.warning(
            "%s hears %d mel bands, as Whisper large-v3 does: its units are not those of %s;"
            " use it only for voices that are trained with this file",
            file,
            net.config.n_mels,
            entry.file.name,
        )
    return WhisperEncoder(net, name=entry.name, device=device, precision=precision)
