"""JSON and YAML files: configs, manifests and side-cars."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svc.config import DiffusionConfig, SvcConfig, encoders_of_width
from svc.config.bundle import FORMAT as BUNDLE_FORMAT
from svc.errors import ConfigError, SvcError
from svc.f0.range_files import parse_ranges
from svc.inspection.graphs import manifest
from svc.inspection.report import UNKNOWN, Fact, Finding, Safety
from svc.inspection.settings import VocoderSettings, kind_of_config, parse_text, read_config
from svc.retrieval.index_files import SIDE_CAR_NAME, read_record
from svc.safe_pickle import printable

CONFIG = "config"
DIFFUSION_CONFIG = "diffusion config"
VOCODER_CONFIG = "vocoder config"
HUGGING_FACE_CONFIG = "Hugging Face config"
_SAFETY = Safety(True, "text: it was parsed as data")
_WORDS = {
    CONFIG: "config of a voice (config.json)",
    DIFFUSION_CONFIG: "config of a diffusion model (diffusion.yaml)",
    VOCODER_CONFIG: "config of a mel vocoder (the config.json beside it)",
}
_INDEX_FORMAT = "svc-feature-index"


def describe_text(path: Path) -> Finding:
    """Describe a text file by what it holds."""
    try:
        text = parse_text(path)
    except ConfigError as error:
        return Finding("JSON file", "JSON file", safety=_SAFETY, damage=str(error))
    if text is None:
        return Finding(UNKNOWN, "not a file svc knows: a text", safety=_SAFETY)
    kind = kind_of_config(text.value)
    if kind is not None:
        return _config(kind, path, text.value)
    if isinstance(text.value, Mapping):
        found = _side_car(path, text.value)
        if found is not None:
            return found
    return Finding(UNKNOWN, f"not a file svc knows: {text.syntax} of another kind", safety=_SAFETY)


def _config(kind: str, path: Path, value: Any) -> Finding:
    try:
        settings = read_config(path, value)
    except (SvcError, ArithmeticError) as error:  # the latter: numbers of hundreds of digits
        reason = str(error).removeprefix(f"{path}: ")
        return Finding(kind, _WORDS[kind], safety=_SAFETY, damage=printable(reason))
    if isinstance(settings, SvcConfig):
        facts, fits = _voice_facts(settings)
    elif isinstance(settings, DiffusionConfig):
        facts, fits = _diffusion_facts(settings)
    else:
        facts, fits = _vocoder_facts(settings)
    return Finding(kind, _WORDS[kind], facts, fits, safety=_SAFETY)


def _voice_facts(config: SvcConfig) -> tuple[dict[str, Fact], tuple[str, ...]]:
    model, data = config.model, config.data
    facts: dict[str, Fact] = {
        "speech_encoder": model.speech_encoder,
        "ssl_dim": model.ssl_dim,
        "gin_channels": model.gin_channels,
        "filter_channels": model.filter_channels,
        "n_speakers": model.n_speakers,
        "speakers": [printable(name) for name in config.spk],
        "sampling_rate": data.sampling_rate,
        "hop_length": data.hop_length,
        "unit_interpolate_mode": data.unit_interpolate_mode,
        "vocoder_name": model.vocoder_name,
        "use_transformer_flow": model.use_transformer_flow,
        "flow_share_parameter": model.flow_share_parameter,
        "use_depthwise_conv": model.use_depthwise_conv,
        "vol_embedding": model.vol_embedding,
        "use_automatic_f0_prediction": model.use_automatic_f0_prediction,
    }
    names = encoders_of_width(model.ssl_dim)
    fits = (
        f"a voice (G_*.pth) with ssl_dim {model.ssl_dim}, gin_channels {model.gin_channels}, "
        f"n_speakers {model.n_speakers}"
    )
    if model.speech_encoder not in names:
        return facts, (fits,)
    return facts, (fits, f"the speech encoder {model.speech_encoder}")


def _diffusion_facts(config: DiffusionConfig) -> tuple[dict[str, Fact], tuple[str, ...]]:
    model, data = config.model, config.data
    facts: dict[str, Fact] = {
        "encoder": data.encoder,
        "encoder_out_channels": data.encoder_out_channels,
        "sampling_rate": data.sampling_rate,
        "block_size": data.block_size,
        "unit_interpolate_mode": data.unit_interpolate_mode,
        "n_layers": model.n_layers,
        "n_chans": model.n_chans,
        "n_hidden": model.n_hidden,
        "timesteps": model.timesteps,
        "k_step_max": model.k_step_max,
        "use_pitch_aug": model.use_pitch_aug,
        "n_spk": model.n_spk,
        "speakers": [printable(name) for name in config.spk],
        "vocoder": printable(str(config.vocoder.ckpt)),
        "method": printable(str(config.infer.method)),
        "speedup": config.infer.speedup,
    }
    return facts, (f"a diffusion model with encoder_out_channels {data.encoder_out_channels}",)


def _vocoder_facts(settings: VocoderSettings) -> tuple[dict[str, Fact], tuple[str, ...]]:
    keys = (
        "sampling_rate", "hop_size", "n_fft", "win_size", "num_mels", "fmin", "fmax", "resblock",
        "upsample_rates", "upsample_kernel_sizes", "upsample_initial_channel", "mini_nsf",
        "snake",
    )  # fmt: skip
    facts = {key: _plain(settings.raw[key]) for key in keys if key in settings.raw}
    bands = facts["num_mels"]
    return facts, (f"a vocoder, and a diffusion model, of {bands} mel bands",)


def _plain(value: Any) -> Fact:
    """Return a value of a foreign file as it may be shown."""
    if isinstance(value, bool | int | float) or value is None:
        return value
    return printable(str(value))


def _side_car(path: Path, value: Mapping[str, Any]) -> Finding | None:
    """Return what a JSON file is that svc or a related program has written."""
    if value.get("format") == BUNDLE_FORMAT:
        return manifest(value, path)
    if value.get("format") == _INDEX_FORMAT:
        return _index_side_car(path)
    if isinstance(value.get("speakers"), Mapping) and set(value) == {"format", "speakers"}:
        return _ranges(value)
    if {"version", "wav"} <= set(value) and isinstance(value["wav"], Mapping):
        parts = [key for key in ("units", "f0", "volume", "spec") if key in value]
        what = "side-car of a clip's features (.meta.json)"
        return Finding("feature side-car", what, {"parts": list(parts)}, safety=_SAFETY)
    if value.get("Type") in ("SoVits", "DiffSvc"):
        keys = ("Type", "Name", "Rate", "Hop", "Hubert", "Characters", "Cluster")
        facts = {key: _plain(value[key]) for key in keys if key in value}
        what = "config of a voice for MoeVoiceStudio"
        return Finding("MoeVoiceStudio config", what, facts, safety=_SAFETY)
    if "model_type" in value:
        facts = {"model_type": _plain(value["model_type"])}
        what = "config of a model of Hugging Face's transformers"
        return Finding(HUGGING_FACE_CONFIG, what, facts, safety=_SAFETY)
    return None


def _index_side_car(path: Path) -> Finding:
    what = f"side-car of a retrieval index ({SIDE_CAR_NAME})"
    if path.name != SIDE_CAR_NAME:
        return Finding("index side-car", what, safety=_SAFETY)
    try:
        record = read_record(path.parent)
    except SvcError as error:
        reason = str(error).removeprefix(f"{path}: ")
        return Finding("index side-car", what, safety=_SAFETY, damage=reason)
    facts: dict[str, Fact] = {
        "speech_encoder": printable(record.encoder),
        "units": record.dim,
        "speakers": [printable(name) for name in record.speakers],
        "svc_version": printable(record.svc_version),
    }
    return Finding("index side-car", what, facts, safety=_SAFETY)


def _ranges(value: Mapping[str, Any]) -> Finding:
    what = "ranges of voices (voice_range.json)"
    try:
        ranges = parse_ranges(value["speakers"])
    except ValueError as error:
        return Finding("voice ranges", what, safety=_SAFETY, damage=printable(str(error)))
    facts: dict[str, Fact] = {printable(name): voice.summary() for name, voice in ranges.items()}
    return Finding("voice ranges", what, facts, safety=_SAFETY)
