"""Content encoders: which ids a weight file can serve (spec_encoders 5 to 10)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from svc.config import SvcConfig, split_encoders
from svc.empty_nets import shapes_only
from svc.errors import CheckpointError
from svc.inspection.report import Fact, Finding
from svc.inspection.settings import Settings
from svc.inspection.shapes import folded_shapes, misfit
from svc.inspection.weights import Weights, all_tensors, size_facts
from svc.safe_pickle import printable
from svc.speech import dphubert, fairseq, hubert_soft, hugging_face
from svc.speech.base import kind_of, misfit_of
from svc.speech.registry import ENCODERS
from svc.speech.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from svc.speech.wave_files import Content, translate
from svc.speech.wave_state import infer_config
from svc.speech.whisper import SIZES, Whisper, WhisperConfig
from svc.speech.whisper import infer_config as infer_whisper
from svc.speech.whisper import own_name as whisper_name

ENCODER = "encoder"
_USUAL_BANDS = 80
_WHISPER = r"(model\.)?encoder\."
_WRITERS = {
    fairseq.SIGNATURE: "fairseq or unilm",
    hubert_soft.SIGNATURE: "bshall's hubert-soft",
    dphubert.SIGNATURE: "torchaudio or DPHuBERT",
    hugging_face.SIGNATURE: "Hugging Face's transformers",
}


def recognise_whisper(weights: Weights) -> Finding | None:
    """Return what a Whisper model is; None for other weights."""
    state = weights.tensors
    if not weights.has(_WHISPER + r"(blocks\.\d|embed_positions|layers\.\d+\.self_attn\.k_proj)"):
        return None
    if not any(name.endswith("encoder.conv1.weight") for name in state):
        return None
    dims = weights.content.get("dims")
    part = {
        whisper_name(name): tensor for name, tensor in state.items() if re.match(_WHISPER, name)
    }
    try:
        config = infer_whisper(part, dims if isinstance(dims, Mapping) else {})
        damage = _check_whisper(config, part)
    except (KeyError, ValueError) as error:
        return Finding(ENCODER, "Whisper model", damage=f"it holds no whole encoder: {error}")
    ids = [
        entry.name
        for entry in ENCODERS.values()
        if entry.family == "whisper" and entry.dim == config.dim
    ]
    notes = []
    if config.n_mels != _USUAL_BANDS:
        notes.append(f"it hears {config.n_mels} mel bands, as Whisper large-v3 does")
    facts: dict[str, Fact] = {
        "encoder_ids": list(ids),
        "model": SIZES.get(config.dim, "none that was published"),
        "units": config.dim,
        "layers": config.n_layers,
        "heads": config.n_heads,
        "mel_bands": config.n_mels,
        "frames": config.n_positions,
        "decoder": weights.has(r"(model\.)?decoder\."),
    }
    return Finding(
        ENCODER,
        "content encoder: Whisper",
        facts | size_facts(state),
        fits=_ids_line(ids),
        notes=tuple(notes),
        damage=damage,
        compare=lambda settings: _compare(ids, config.dim, settings),
    )


def _check_whisper(config: WhisperConfig, state: Mapping[str, Tensor]) -> str | None:
    with shapes_only():
        net = Whisper(config)
    return misfit(net, state)


def recognise_wave_net(weights: Weights) -> Finding | None:
    """Return what a net of the wav2vec 2.0 family is; None for other weights."""
    signature = next(
        (s for s in _WRITERS if any(name.endswith(s) for name in weights.tensors)), None
    )
    if signature is None:
        return None
    settings = _settings(weights)
    content = Content(weights.tensors, settings, frozenset(weights.content))
    what = "content encoder of the HuBERT family"
    try:
        state = translate(content)
        config = infer_config(state.tensors, state.settings)
        with shapes_only():
            net = Wav2Vec2(config)
        damage = misfit(net, folded_shapes(state.tensors))
    except (
        KeyError, ValueError, IndexError, TypeError, ZeroDivisionError, RuntimeError, CheckpointError
    ) as error:  # fmt: skip
        reason = f"no tensor {error}" if isinstance(error, KeyError) else str(error)
        return Finding(ENCODER, what, size_facts(weights.tensors), damage=printable(reason))
    return _wave_finding(weights, signature, config, damage)


def _wave_finding(
    weights: Weights, signature: str, config: Wav2Vec2Config, damage: str | None
) -> Finding:
    kind = kind_of(config)
    ids = [
        entry.name
        for entry in ENCODERS.values()
        if entry.family == "wave" and misfit_of(entry, config) is None
    ]
    rest = sum(
        tensor.numel() * tensor.element_size()
        for place, tensor in all_tensors(weights.content.get("last_optimizer_state"))
    )
    facts: dict[str, Fact] = {
        "encoder_ids": list(ids),
        "net": kind,
        "written_by": _WRITERS[signature],
        "units": config.dim,
        "layers": config.n_layers,
        "projection": config.projection_dim or "none",
        "front_end": f"{config.conv_channels[-1]} channels, {'LayerNorm' if config.conv_layer_norm else 'GroupNorm'}",
        **size_facts(weights.tensors),
    }
    if rest:
        facts["optimizer_bytes"] = rest
    widths = {config.dim, *(ENCODERS[name].dim for name in ids)}
    return Finding(
        ENCODER,
        f"content encoder: {kind}",
        facts,
        fits=_ids_line(ids),
        damage=damage,
        compare=lambda given: _compare(ids, max(widths), given),
    )


def _settings(weights: Weights) -> Mapping[str, Any]:
    """Return what a file, or the JSON files beside Hugging Face's weights, say beyond tensors."""
    if weights.path.name in hugging_face.WEIGHTS:
        try:
            beside = hugging_face.read_settings(weights.path.parent)
        except CheckpointError:
            beside = {}
        if beside:
            return beside
    for key in ("cfg", "config"):
        if isinstance(weights.content.get(key), Mapping):
            found: Mapping[str, Any] = weights.content[key]
            return found
    return {}


def _ids_line(ids: list[str]) -> tuple[str, ...]:
    if not ids:
        return ("no encoder id of svc: its sizes are not those of a published net",)
    return (f"--speech_encoder {' or '.join(ids)}",)


def _compare(ids: list[str], width: int, settings: Settings) -> list[str] | None:
    if not isinstance(settings, SvcConfig):
        return None
    wanted = settings.model.speech_encoder
    if set(split_encoders(wanted)) & set(ids):
        return []
    mine = f"for {' or '.join(ids)}" if ids else f"{width} wide and for no encoder id"
    return [f"the config's speech encoder is {wanted}, this is {mine}"]
