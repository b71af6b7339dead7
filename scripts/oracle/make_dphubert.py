"""DPHuBERT: torchaudio's HuBERT base with parts pruned away, the second way of spec_encoders 9."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torchaudio.models
from nets import Net, perturb
from torch import Tensor, nn
from torchaudio_nets import classic_state, position, runner

_TABLE = Path("spec", "tables", "statedict_enc_dphubert_example.json")  # of the shared folder


class _NoAttention(nn.Module):
    def forward(
        self, x: Tensor, position_bias: Tensor | None = None, **_: Any
    ) -> tuple[Tensor, Tensor | None]:
        return torch.zeros_like(x), position_bias


class _NoFeedForward(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class _Scaled(nn.Module):
    """Front end whose channels are multiplied by one factor each."""

    def __init__(self, extractor: nn.Module, width: int) -> None:
        super().__init__()
        self.conv_layers = extractor.conv_layers
        self.dummy_weight = nn.Parameter(torch.ones(width))
        self._extractor = [extractor]  # in a list: its tensors are listed once

    def forward(self, wave: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x, lengths = self._extractor[0](wave, lengths)
        return x * self.dummy_weight, lengths


def _prune(module: nn.Module, config: dict[str, Any]) -> None:
    dim, head_dim = config["encoder_embed_dim"], config["encoder_head_dim"]
    for index, layer in enumerate(module.encoder.transformer.layers):
        if config["encoder_use_attention"][index]:
            attention, heads = layer.attention, config["encoder_num_heads"][index]
            for part in ("q_proj", "k_proj", "v_proj"):
                setattr(attention, part, nn.Linear(dim, heads * head_dim))
            attention.out_proj = nn.Linear(heads * head_dim, dim)
            attention.num_heads, attention.head_dim = heads, head_dim
            attention.scaling = head_dim**-0.5
        else:
            layer.attention = _NoAttention()
        if config["encoder_use_feed_forward"][index]:
            width = config["encoder_ff_interm_features"][index]
            layer.feed_forward.intermediate_dense = nn.Linear(dim, width)
            layer.feed_forward.output_dense = nn.Linear(width, dim)
        else:
            layer.feed_forward = _NoFeedForward()
    width = config["extractor_conv_layer_config"][-1][0]
    module.feature_extractor = _Scaled(module.feature_extractor, width)


def build(name: str, shared: Path) -> Net:
    table = json.loads((shared / _TABLE).read_text(encoding="utf-8"))
    config = table["config"]
    module = torchaudio.models.wav2vec2_model(
        config["extractor_mode"],
        config["extractor_conv_layer_config"],
        config["extractor_conv_bias"],
        config["encoder_embed_dim"],
        config["encoder_projection_dropout"],
        config["encoder_pos_conv_kernel"],
        config["encoder_pos_conv_groups"],
        config["encoder_num_layers"],
        12,  # heads and inner width of the whole net; pruned below
        config["encoder_attention_dropout"],
        3072,
        config["encoder_ff_interm_dropout"],
        config["encoder_dropout"],
        config["encoder_layer_norm_first"],
        config["encoder_layer_drop"],
        None,
    )
    _prune(module, config)
    module.eval()
    perturb(module)

    def save(folder: Path) -> list[Path]:
        state = classic_state(module, "encoder.transformer.pos_conv_embed.conv.")
        found = {key: list(value.shape) for key, value in state.items()}
        if found != table["shapes"]:
            raise SystemExit(f"{name}: the pruned net does not have the tensors of {_TABLE}")
        path = folder / "DPHuBERT-sp0.75.pth"
        torch.save({"config": config, "state_dict": state}, path)
        return [path]

    return Net(module, runner(module), save, position=lambda: position(module))
