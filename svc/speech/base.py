"""Content encoders: what one is, which there are, how to get one."""

from __future__ import annotations

import difflib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from svc.config import SPEECH_ENCODER_DIMS
from svc.errors import CheckpointError, ConfigError, MissingFileError
from svc.pretrained import PRETRAIN_DIR, find_pretrained, whisper_tiny_asset
from svc.speech.hubert import HubertEncoder, load_hubert
from svc.speech.whisper import SIZES, WhisperEncoder, load_whisper

logger = logging.getLogger(__name__)


class SpeechEncoder(Protocol):
    """Turns a voice into units that say what is sung, with little of who sings it."""

    name: str  # id, e.g. "vec768l12"
    dim: int  # C, width of the units
    device: torch.device
    usual_seconds: float  # length of input up to which units are like those of training clips

    def encode(self, wav16k: Tensor) -> Tensor:
        """Encode (T,) samples at 16 kHz, any T, into (1, C, S) float32 units at 50 frames per
        second, S >= 1.

        Raises AudioError for NaN or infinite samples.
        """
        ...


@dataclass(frozen=True)
class _Entry:
    """How one id is made (spec_encoders 1)."""

    file: str  # default name under pretrain/
    layer: int | None = None  # HuBERT: which layer is tapped
    project: bool = False  # HuBERT: apply the final projection

    @property
    def is_whisper(self) -> bool:
        return self.layer is None


_ENTRIES = {
    "vec768l12": _Entry("checkpoint_best_legacy_500.pt", layer=12),
    "vec256l9": _Entry("checkpoint_best_legacy_500.pt", layer=9, project=True),
    "whisper-ppg": _Entry("medium.pt"),
    "whisper-ppg-large": _Entry("large-v2.pt"),
    "whisper-ppg-tiny": _Entry("tiny.pt"),
    "whisper-ppg-base": _Entry("base.pt"),
    "whisper-ppg-small": _Entry("small.pt"),
}

ENCODER_NAMES: tuple[str, ...] = tuple(_ENTRIES)
"""Ids that `build_speech_encoder` makes."""


def _find_file(name: str, path: Path | None, pretrain_dir: Path) -> Path:
    if path is not None:
        if not path.is_file():
            raise MissingFileError(
                f"{path} is not a file: --encoder_path must name a weight file for {name}"
            )
        return path
    if name == "whisper-ppg-tiny" and not (pretrain_dir / _ENTRIES[name].file).is_file():
        return whisper_tiny_asset()
    return find_pretrained(_ENTRIES[name].file, pretrain_dir)


def build_speech_encoder(
    name: str,
    *,
    device: torch.device | str = "cpu",
    path: Path | None = None,
    pretrain_dir: Path = PRETRAIN_DIR,
) -> SpeechEncoder:
    """Load a content encoder.

    Args:
        name: an id of `ENCODER_NAMES`.
        device: where to compute.
        path: weight file to use instead of the default one under `pretrain_dir`.
        pretrain_dir: folder of the default files. whisper-ppg-tiny needs none: where tiny.pt is
            absent the bundled encoder is used.

    Returns:
        The encoder, ready to use.

    Raises:
        ConfigError: unknown id, or one that a later release brings.
        MissingFileError: the file is not there; says which, where it goes and what works without
            it.
        CheckpointError: the file is damaged, hostile, another kind of net, or of another width than
            the id says.
    """
    entry = _ENTRIES.get(name)
    if entry is None:
        available = ", ".join(ENCODER_NAMES)
        if name in SPEECH_ENCODER_DIMS:
            raise ConfigError(
                f'the speech encoder "{name}" comes in a later release; available now: {available}'
            )
        near = difflib.get_close_matches(name, ENCODER_NAMES, n=1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        raise ConfigError(f'unknown speech encoder "{name}"{hint}; available: {available}')
    file = _find_file(name, path, pretrain_dir)
    logger.info("speech encoder %s: weights from %s", name, file)
    if entry.is_whisper:
        return _build_whisper(name, file, device)
    return _build_hubert(name, entry, file, device)


def _build_whisper(name: str, file: Path, device: torch.device | str) -> WhisperEncoder:
    net = load_whisper(file)
    wanted, found = SPEECH_ENCODER_DIMS[name], net.config.dim
    if found != wanted:
        fitting = next(
            (n for n in _ENTRIES if "whisper" in n and SPEECH_ENCODER_DIMS[n] == found), ""
        )
        size = SIZES.get(found, "no published size")
        advice = f', or choose the speech encoder "{fitting}"' if fitting else ""
        raise CheckpointError(
            f"{file} holds a Whisper encoder {found} wide ({size}), but {name} is {wanted} wide"
            f" ({SIZES[wanted]}): give it {_ENTRIES[name].file}{advice}"
        )
    return WhisperEncoder(net, name=name, device=device)


def _build_hubert(
    name: str, entry: _Entry, file: Path, device: torch.device | str
) -> HubertEncoder:
    net = load_hubert(file)
    wanted = SPEECH_ENCODER_DIMS[name]
    found = net.config.projection_dim if entry.project else net.config.dim
    layers = net.config.n_layers
    if found != wanted or layers < (entry.layer or 0):
        part = "its final projection" if entry.project else "it"
        size = f"is {found} wide" if found else "is absent"
        raise CheckpointError(
            f"{file} does not fit {name}: {part} {size} and it has {layers} layers, but {name} is"
            f" layer {entry.layer} and {wanted} wide: give it {entry.file}"
        )
    return HubertEncoder(net, name=name, layer=entry.layer, project=entry.project, device=device)
