"""The nets that profile `moevs` exports, all loaded before the first graph is written: what is wrong
with any of them, or does not go together, is told at once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from svc.config import DiffusionConfig, SvcConfig, check_vocoder, load_config
from svc.config.pairs import check_pair
from svc.diffusion import Unit2Mel
from svc.diffusion.loading import load_diffusion
from svc.errors import ConfigError
from svc.retrieval.index_files import open_folder
from svc.retrieval.legacy_index import open_legacy
from svc.synthesizer import Synthesizer, load_synthesizer
from svc.vocoder.nsf_hifigan import NsfHifigan, load_vocoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MoevsNets:
    """What was asked for, on the CPU in evaluation mode."""

    voice: tuple[Synthesizer, SvcConfig] | None = None
    diffusion: tuple[Unit2Mel, DiffusionConfig] | None = None
    vocoder: NsfHifigan | None = None
    index: dict[int, memoryview] = field(default_factory=dict)  # native faiss by speaker id


def load_nets(
    *,
    model: Path | None,
    config: Path | None,
    diffusion: Path | None,
    diffusion_config: Path | None,
    vocoder: Path | None,
    index: Path | None,
) -> MoevsNets:
    """Load; arguments and errors as those of `svc.export.moevs.MoevsOptions` and `export_moevs`."""
    voice, refiner, mel_vocoder = None, None, None
    stored: dict[int, memoryview] = {}
    if model is not None:
        settings = load_config(model.with_name("config.json") if config is None else config)
        if index is not None:
            stored = _index(index, settings)
        voice = load_synthesizer(model, settings), settings
    if vocoder is not None:
        mel_vocoder = load_vocoder(vocoder)
        if mel_vocoder.config.mini_nsf:
            raise ConfigError(
                f"{vocoder} is a mini-NSF vocoder, of which no client of profile moevs is known; "
                "give an ordinary NSF-HiFiGAN"
            )
    if diffusion is not None:
        refiner = load_diffusion(diffusion, diffusion_config)
        if mel_vocoder is not None:
            check_vocoder(refiner[1], mel_vocoder.config, n_mels=refiner[0].n_mels)
        if voice is not None:
            _check_fit(refiner[1], voice[1])
    return MoevsNets(voice, refiner, mel_vocoder, stored)


def _index(path: Path, config: SvcConfig) -> dict[int, memoryview]:
    """Open the index of each speaker of a voice."""
    encoder, wanted = None, config.model
    if path.is_dir():
        record, stored = open_folder(path)
        encoder = record.encoder
    else:
        stored = open_legacy(path)
    if encoder not in (None, wanted.speech_encoder):
        raise ConfigError(
            f"{path} was made of units of {encoder}, the voice takes those of "
            f"{wanted.speech_encoder}; build it again with  svc train-index"
        )
    names = {number: name for name, number in config.spk.items()}
    for number, entry in stored.items():
        if entry.facts.dim != wanted.ssl_dim:
            raise ConfigError(
                f"{entry.where}: units {entry.facts.dim} wide, the voice takes {wanted.ssl_dim}; "
                "take the index that was built for this voice"
            )
        if number not in names:
            raise ConfigError(
                f"{path} has an index of speaker {number}, the voice has the ids "
                f"{', '.join(map(str, sorted(names)))}; take the index that was built for it"
            )
    missing = [name for number, name in names.items() if number not in stored]
    if missing:
        logger.warning("%s has no index of %s", path, ", ".join(missing))
    return {number: entry.data for number, entry in stored.items()}


def _check_fit(settings: DiffusionConfig, config: SvcConfig) -> None:
    """A client runs both on one set of frames, units and speakers. Raises ConfigError."""
    check_pair(settings, config, where=str(settings.path))
    if settings.model.n_speakers > 1 and settings.spk != config.spk:
        raise ConfigError(
            f'{settings.path}: "spk" is {settings.spk}, of the voice it is {config.spk}: export the pair '
            "that belongs together, or each alone"
        )
