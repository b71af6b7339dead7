"""Encoders of their real sizes with random weights: speed and memory do not depend on the values.

Used by scripts/bench/encoders.py.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from plain import Plain, PlainFusion, PlainWave, PlainWhisper
from torch import nn

from svc.config import split_encoders
from svc.pretrained import whisper_tiny_asset
from svc.speech import SpeechEncoder
from svc.speech.fusion import FusedEncoder
from svc.speech.registry import ENCODERS, Entry
from svc.speech.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from svc.speech.wave_encoder import Wav2Vec2Encoder
from svc.speech.whisper import Whisper, WhisperConfig, WhisperEncoder, load_whisper

NAMES = (
    "vec768l12",
    "vec256l9",
    "hubertsoft",
    "cnhubertlarge",
    "wavlmbase+",
    "dphubert",
    "whisper-ppg-tiny",
    "whisper-ppg-base",
    "whisper-ppg-small",
    "whisper-ppg",
    "whisper-ppg-large",
    "vec768l12+whisper-ppg-tiny",
)

_BASE = Wav2Vec2Config(
    conv_channels=(512,) * 7,
    conv_bias=False,
    conv_layer_norm=False,
    dim=768,
    n_heads=(12,) * 12,
    ffn_dims=(3072,) * 12,
    head_dim=64,
    pre_norm=False,
    position_kernel=128,
    position_groups=16,
    projection_dim=256,
)
_LARGE = replace(
    _BASE,
    conv_layer_norm=True,
    dim=1024,
    n_heads=(16,) * 24,
    ffn_dims=(4096,) * 24,
    pre_norm=True,
    projection_dim=768,
)
_WAVLM = replace(_BASE, projection_dim=None, relative_buckets=320)
# The example of spec_encoders 9 (statedict_enc_dphubert_example); real files differ a little.
_PRUNED = replace(
    _BASE,
    conv_channels=(40, 200, 210, 220, 230, 256, 300),
    n_heads=(7, 7, 0, 5, 8, 7, 5, 8, 6, 4, 3, 5),
    ffn_dims=(336, 244, 563, 0, 350, 685, 252, 201, 726, 1016, 1196, 256),
    projection_dim=None,
    feature_scale=True,
)
_WAVES = {
    "vec768l12": _BASE,
    "vec256l9": _BASE,
    "hubertsoft": _BASE,
    "cnhubertlarge": _LARGE,
    "wavlmbase+": _WAVLM,
    "dphubert": _PRUNED,
}
_WHISPERS = {
    "whisper-ppg-base": WhisperConfig(80, 1500, 512, 8, 6),
    "whisper-ppg-small": WhisperConfig(80, 1500, 768, 12, 12),
    "whisper-ppg": WhisperConfig(80, 1500, 1024, 16, 24),
    "whisper-ppg-large": WhisperConfig(80, 1500, 1280, 20, 32),
}


def fill(net: nn.Module, seed: int = 0) -> None:
    """Random weights of the usual scale: matrices keep the size of what passes through them."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        if value.dim() < 2 or name.endswith("gate_scale"):
            shift = 0.0 if name.endswith("bias") else 1.0
            value.normal_(shift, 0.05, generator=generator)
        else:
            value.normal_(0.0, 1 / math.sqrt(value[0].numel()), generator=generator)


def wave_net(config: Wav2Vec2Config) -> Wav2Vec2:
    with torch.device("meta"):
        net = Wav2Vec2(config)
    net = net.to_empty(device="cpu").eval().requires_grad_(False)
    fill(net)
    return net


def whisper_net(name: str) -> Whisper:
    if name == "whisper-ppg-tiny":
        return load_whisper(whisper_tiny_asset())  # the one that is real
    with torch.device("meta"):
        net = Whisper(_WHISPERS[name])
    net = net.to_empty(device="cpu").eval().requires_grad_(False)
    fill(net)
    return net


def _taps(entry: Entry) -> dict[str, int | bool | None]:
    return {"layer": entry.layer, "project": entry.project, "padding": entry.padding}


def _net(name: str) -> Wav2Vec2 | Whisper:
    return wave_net(_WAVES[name]) if name in _WAVES else whisper_net(name)


def build_ours(name: str, *, device: str, precision: str = "fp32") -> SpeechEncoder:
    """An encoder or a fusion as users get it."""
    parts: list[SpeechEncoder] = []
    for part in split_encoders(name):
        net = _net(part)
        if isinstance(net, Whisper):
            parts.append(WhisperEncoder(net, name=part, device=device, precision=precision))
        else:
            taps = _taps(ENCODERS[part])
            parts.append(
                Wav2Vec2Encoder(net, name=part, device=device, precision=precision, **taps)
            )
    return parts[0] if len(parts) == 1 else FusedEncoder(parts)


def build_plain(name: str, *, device: str) -> Plain:
    """The plain path with the same weights."""
    parts: list[PlainWave | PlainWhisper] = []
    for part in split_encoders(name):
        net = _net(part)
        if isinstance(net, Whisper):
            parts.append(PlainWhisper(net, device=device))
        else:
            parts.append(PlainWave(net, device=device, **_taps(ENCODERS[part])))
    return parts[0] if len(parts) == 1 else PlainFusion(*parts)


def plain_bytes(name: str, seconds: float) -> float:
    """About how much memory the plain path needs beyond the model for one clip; infinite where it
    cannot take it, as Whisper beyond 30 s.
    """
    need = 0.0
    for part in split_encoders(name):
        if part in _WAVES:
            config, frames = _WAVES[part], 50 * seconds
            # Input and output of the second operation: the largest layer is the first.
            front = 3 * 4 * 3200 * seconds * config.conv_channels[0]
            # Scores and their softmax; WavLM's table, its gated copy and the sum besides.
            scores = (5 if config.relative_buckets else 2) * 4 * max(config.n_heads) * frames**2
            need = max(need, front, scores)
        elif seconds > 30:
            return math.inf
        else:
            need = max(need, 1e9)
    return need
