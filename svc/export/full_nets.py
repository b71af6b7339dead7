"""The nets that profile `full` exports, all loaded before the first graph is written: what is wrong with
any of them is told at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from svc.config import (
    SvcConfig,
    check_encoder_width,
    check_vocoder,
    encoder_paths,
    load_diffusion_config,
)
from svc.config.bundle import DiffusionFacts
from svc.config.pairs import check_pair
from svc.diffusion import Unit2Mel
from svc.diffusion.loading import CONFIG_NAME, load_diffusion
from svc.export.full_diffusion import diffusion_facts
from svc.export.full_encoder import check_exportable
from svc.export.full_f0 import Predictor, load_predictor
from svc.speech import SpeechEncoder, build_speech_encoder
from svc.speech.locate import locate_encoder
from svc.synthesizer import Synthesizer, load_synthesizer
from svc.vocoder.nsf_hifigan import NsfHifigan, load_vocoder


@dataclass(frozen=True)
class FullNets:
    """A voice and its companions, on the CPU in evaluation mode.

    Attributes:
        config: of the voice.
        voice: the synthesizer.
        encoder: its speech encoder.
        f0: pitch predictors by name.
        diffusion: a diffusion voice and what clients must know of it.
        vocoder: a mel vocoder.
    """

    config: SvcConfig
    voice: Synthesizer
    encoder: SpeechEncoder
    f0: dict[str, Predictor]
    diffusion: tuple[Unit2Mel, DiffusionFacts] | None
    vocoder: NsfHifigan | None


def load_nets(
    model: Path,
    config: SvcConfig,
    *,
    encoder_path: str | None,
    pretrain_dir: Path,
    f0: Sequence[str],
    diffusion: Path | None,
    diffusion_config: Path | None,
    vocoder: Path | None,
) -> FullNets:
    """Load everything; arguments and errors as `svc.export.full.export_full`."""
    wanted, where = config.model, str(config.path)
    check_encoder_width(
        wanted.speech_encoder,
        wanted.ssl_dim,
        where=where,
        advice="set model.speech_encoder to the one the voice was trained with",
    )
    check_exportable(wanted.speech_encoder)
    own = {
        **encoder_paths(wanted.speech_encoder, wanted.encoder_path, what='"model.encoder_path"'),
        **encoder_paths(wanted.speech_encoder, encoder_path),
    }
    locate_encoder(wanted.speech_encoder, own, pretrain_dir)  # missed before anything is read
    settings = None
    if diffusion is not None:
        where_settings = diffusion_config or diffusion.with_name(CONFIG_NAME)
        settings = load_diffusion_config(where_settings)
        check_pair(settings, config, where=str(where_settings))
    mel_vocoder = None
    if settings is not None and vocoder is None:
        vocoder = Path(settings.vocoder.ckpt)
    if vocoder is not None:
        kind = "nsf-hifigan" if settings is None else settings.vocoder.type
        mel_vocoder = load_vocoder(vocoder, kind=kind)
    predictors = {name: load_predictor(name, pretrain_dir) for name in f0}
    refined = None
    if diffusion is not None:
        net, settings = load_diffusion(diffusion, diffusion_config)
        if mel_vocoder is not None:
            check_vocoder(settings, mel_vocoder.config, n_mels=net.n_mels)
        refined = net, diffusion_facts(net, settings, what=str(diffusion))
    voice = load_synthesizer(model, config)
    encoder = build_speech_encoder(
        wanted.speech_encoder,
        path=own,
        pretrain_dir=pretrain_dir,
    )
    return FullNets(config, voice, encoder, predictors, refined, mel_vocoder)
