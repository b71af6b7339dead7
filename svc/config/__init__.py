"""Typed config files: `config.json` (synthesizer; vocoder) and `diffusion.yaml`. No torch."""

from __future__ import annotations

from svc.config.diffusion import (
    DiffusionConfig,
    load_diffusion_config,
    new_diffusion_config,
    save_diffusion_config,
)
from svc.config.encoders import (
    SPEECH_ENCODER_DIMS,
    WIDE_FILTER_ENCODERS,
    check_encoder_width,
    encoder_dim,
    encoder_paths,
    encoders_of_width,
    split_encoders,
)
from svc.config.predictors import (
    ENSEMBLE_MEMBERS,
    F0_PREDICTORS,
    SINGLE_PREDICTORS,
    check_f0_predictor,
    ensemble_members,
)
from svc.config.synthesizer import (
    VOCODER_NAMES,
    DataConfig,
    ModelConfig,
    SvcConfig,
    TrainConfig,
    load_config,
    new_config,
    parse_config,
    save_config,
)
from svc.config.templates import find_template
from svc.config.vocoder import VOCODER_TYPES, VocoderConfig, check_vocoder, load_vocoder_config

__all__ = [
    "ENSEMBLE_MEMBERS",
    "F0_PREDICTORS",
    "SINGLE_PREDICTORS",
    "SPEECH_ENCODER_DIMS",
    "VOCODER_NAMES",
    "VOCODER_TYPES",
    "WIDE_FILTER_ENCODERS",
    "DataConfig",
    "DiffusionConfig",
    "ModelConfig",
    "SvcConfig",
    "TrainConfig",
    "VocoderConfig",
    "check_encoder_width",
    "check_f0_predictor",
    "check_vocoder",
    "encoder_dim",
    "encoder_paths",
    "encoders_of_width",
    "ensemble_members",
    "find_template",
    "load_config",
    "load_diffusion_config",
    "load_vocoder_config",
    "new_config",
    "new_diffusion_config",
    "parse_config",
    "save_config",
    "save_diffusion_config",
    "split_encoders",
]
