"""The JSON files that tell MoeVoiceStudio what lies in a model folder (spec_onnx 1, 3)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from svc.config import DiffusionConfig, SvcConfig

_HUBERTS = {
    "vec768l12": "vec-768-layer-12",
    "vec768l12-onnx": "vec-768-layer-12",
    "vec768l9-onnx": "vec-768-layer-9",
    "vec256l9": "vec-256-layer-9",
    "vec256l9-onnx": "vec-256-layer-9",
    "vec256l12-onnx": "vec-256-layer-12",
    "hubertsoft": "hubert-soft",
    "hubertsoft-onnx": "hubert-soft",
}


def hubert_name(encoder: str) -> str:
    """Return what clients call a speech encoder: its graph's name, our id where there is none."""
    return _HUBERTS.get(encoder, encoder)


def voice_config(
    config: SvcConfig, name: str, *, index: bool = False, shallow: str | None = None
) -> dict[str, Any]:
    """Describe a voice.

    Args:
        config: of the voice.
        name: of its folder.
        index: index files lie in the folder.
        shallow: name of the diffusion voice that refines it.

    Returns:
        The keys of the original in their order, and those of spec_onnx 3 that are needed.
    """
    described = {
        "Folder": name,
        "Name": name,
        "Type": "SoVits",
        "Rate": config.data.sampling_rate,
        "Hop": config.data.hop_length,
        "Hubert": hubert_name(config.model.speech_encoder),
        "SoVits4": True,
        "SoVits3": False,
        "CharaMix": len(config.spk) > 1,
        "Volume": config.model.vol_embedding,
        "HiddenSize": config.model.ssl_dim,  # the original writes gin_channels, usually the same
        "Characters": list(config.spk),
        "Cluster": "Index" if index else "",
    }
    return {**described, "ShallowDiffusion": shallow} if shallow else described


def diffusion_config(
    config: DiffusionConfig, name: str, *, n_mels: int, vocoder: Path | None = None
) -> dict[str, Any]:
    """Describe a diffusion voice.

    Args:
        config: of the voice.
        name: of its folder, which the names of its graphs begin with.
        n_mels: bands of its mel.
        vocoder: weights of its vocoder; None = as its config says.

    Returns:
        The keys of spec_onnx 3.
    """
    return {
        "Folder": name,
        "Name": name,
        "Type": "DiffSvc",
        "Rate": config.data.sampling_rate,
        "Hop": config.data.block_size,
        "MelBins": n_mels,
        "Hubert": hubert_name(config.data.encoder),
        "Hifigan": vocoder_name(Path(config.vocoder.ckpt) if vocoder is None else vocoder),
        "HiddenSize": config.data.encoder_out_channels,
        "Characters": _characters(config),
        "CharaMix": config.model.n_speakers > 1,
        "Volume": True,
        "V2": True,
        "Diffusion": True,
        "MaxStep": config.model.trained_steps,
    }


def vocoder_name(path: Path) -> str:
    """Name a vocoder after its folder: its weights are called ``model``."""
    return path.name if path.is_dir() else path.parent.name or path.stem


def _characters(config: DiffusionConfig) -> list[str]:
    """Names by id: clients give `spk_mix` a column for each."""
    if config.model.n_speakers == 1:
        return list(config.spk)
    names = {number: name for name, number in config.spk.items()}
    return [names.get(number, f"speaker {number}") for number in range(config.model.n_speakers)]


def as_json(described: dict[str, Any]) -> str:
    """Write it in ASCII, which every reader of JSON takes for the same text."""
    return json.dumps(described, indent=4) + "\n"
