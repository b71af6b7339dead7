"""WavLM: torchaudio's nets, saved as the unilm project does (spec_encoders 10.1)."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
import torchaudio.models
from nets import Net, perturb
from torch import Tensor
from torchaudio_nets import LAYER, classic_state, position, rename, runner

_ATTENTION = LAYER + r"attention\."
_RULES = (
    (r"^feature_extractor\.conv_layers\.(\d)\.conv\.", r"feature_extractor.conv_layers.\1.0."),
    (r"^encoder\.feature_projection\.layer_norm\.", "layer_norm."),
    (r"^encoder\.feature_projection\.projection\.", "post_extract_proj."),
    (r"^encoder\.transformer\.layer_norm\.", "encoder.layer_norm."),
    (_ATTENTION + r"attention\.out_proj\.", r"encoder.layers.\1.self_attn.out_proj."),
    (_ATTENTION + r"gru_rel_pos_linear\.", r"encoder.layers.\1.self_attn.grep_linear."),
    (_ATTENTION + r"gru_rel_pos_const$", r"encoder.layers.\1.self_attn.grep_a"),
    (_ATTENTION + r"rel_attn_embed\.", r"encoder.layers.\1.self_attn.relative_attention_bias."),
    (LAYER + r"feed_forward\.intermediate_dense\.", r"encoder.layers.\1.fc1."),
    (LAYER + r"feed_forward\.output_dense\.", r"encoder.layers.\1.fc2."),
    (LAYER + r"layer_norm\.", r"encoder.layers.\1.self_attn_layer_norm."),
    (LAYER + r"final_layer_norm\.", r"encoder.layers.\1.final_layer_norm."),
)


def _config(large: bool) -> dict[str, Any]:
    return {
        "extractor_mode": "layer_norm" if large else "default",
        "encoder_layers": 24 if large else 12,
        "encoder_embed_dim": 1024 if large else 768,
        "encoder_ffn_embed_dim": 4096 if large else 3072,
        "encoder_attention_heads": 16 if large else 12,
        "activation_fn": "gelu",
        "layer_norm_first": large,
        "conv_feature_layers": "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
        "conv_bias": False,
        "feature_grad_mult": 1.0 if large else 0.1,
        "normalize": large,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "activation_dropout": 0.0,
        "encoder_layerdrop": 0.05,
        "dropout_input": 0.1,
        "dropout_features": 0.1,
        "conv_pos": 128,
        "conv_pos_groups": 16,
        "relative_position_embedding": True,
        "num_buckets": 320,
        "max_distance": 800,
        "gru_rel_pos": True,
    }


def _published(module: torch.nn.Module, large: bool) -> dict[str, Tensor]:
    state = classic_state(module, "encoder.pos_conv.0.")
    for index in range(len(module.encoder.transformer.layers)):
        for kind in ("weight", "bias"):
            whole = state.pop(
                f"encoder.transformer.layers.{index}.attention.attention.in_proj_{kind}"
            )
            for part, rows in zip("qkv", whole.chunk(3)):
                state[f"encoder.layers.{index}.self_attn.{part}_proj.{kind}"] = rows.clone()
    norm = (
        r"^feature_extractor\.conv_layers\.(\d)\.layer_norm\.",
        r"feature_extractor.conv_layers.\1.2." + ("1." if large else ""),
    )
    mask = {"mask_emb": torch.rand(1024 if large else 768)}
    return OrderedDict({**mask, **rename(state, (norm, *_RULES))})


def build(name: str) -> Net:
    large = name == "wavlm-large"
    make = torchaudio.models.wavlm_large if large else torchaudio.models.wavlm_base
    module = make().eval()
    perturb(module)

    def save(folder: Path) -> list[Path]:
        path = folder / "WavLM.pt"
        torch.save({"cfg": _config(large), "model": _published(module, large)}, path)
        return [path]

    return Net(module, runner(module), save, position=lambda: position(module))
