"""Small nets in the file formats of the big ones, made from random numbers: the tensors and the
names. `conftest.py` writes the files.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svc.checkpoint import save_safetensors


def fairseq_tensors(
    *,
    large: bool = False,
    dim: int = 64,
    ffn: int = 96,
    layers: int = 2,
    conv: int = 16,
    projection: int | None = 24,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Tensors of a HuBERT under fairseq's names, in fairseq's order."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, mean: float = 0.0) -> Tensor:
        scale = 0.3 if mean else 1.5 / max(1, torch.Size(shape[1:]).numel()) ** 0.5
        return mean + scale * torch.randn(*shape, generator=generator)

    state = {"mask_emb": draw(dim)}
    if projection:
        state["label_embs_concat"] = draw(50, projection)
    for i, kernel in enumerate((10, 3, 3, 3, 3, 2, 2)):
        name = f"feature_extractor.conv_layers.{i}"
        state[f"{name}.0.weight"] = draw(conv, 1 if i == 0 else conv, kernel)
        if large:
            state[f"{name}.0.bias"] = draw(conv)
            state[f"{name}.2.1.weight"], state[f"{name}.2.1.bias"] = draw(conv, mean=1), draw(conv)
        elif i == 0:
            state[f"{name}.2.weight"], state[f"{name}.2.bias"] = draw(conv, mean=1), draw(conv)
    state["post_extract_proj.weight"], state["post_extract_proj.bias"] = draw(dim, conv), draw(dim)
    state["encoder.pos_conv.0.bias"] = draw(dim)
    state["encoder.pos_conv.0.weight_g"] = draw(1, 1, 128, mean=1)
    state["encoder.pos_conv.0.weight_v"] = draw(dim, dim // 16, 128)
    for i in range(layers):
        name = f"encoder.layers.{i}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            state[f"{name}.self_attn.{part}.weight"] = draw(dim, dim)
            state[f"{name}.self_attn.{part}.bias"] = draw(dim)
        for part, rows, columns in (("fc1", ffn, dim), ("fc2", dim, ffn)):
            state[f"{name}.{part}.weight"] = draw(rows, columns)
            state[f"{name}.{part}.bias"] = draw(rows)
        for part in ("self_attn_layer_norm", "final_layer_norm"):
            state[f"{name}.{part}.weight"] = draw(dim, mean=1)
            state[f"{name}.{part}.bias"] = draw(dim)
    for part, width in (("encoder.layer_norm", dim), ("layer_norm", conv)):
        state[f"{part}.weight"], state[f"{part}.bias"] = draw(width, mean=1), draw(width)
    if projection:
        state["final_proj.weight"], state["final_proj.bias"] = (
            draw(projection, dim),
            draw(projection),
        )
    return state


_LAYER_PARTS = (
    ("self_attn.q_proj", "attention.q_proj"),
    ("self_attn.k_proj", "attention.k_proj"),
    ("self_attn.v_proj", "attention.v_proj"),
    ("self_attn.out_proj", "attention.out_proj"),
    ("self_attn.grep_linear", "attention.gru_rel_pos_linear"),
    ("self_attn.grep_a", "attention.gru_rel_pos_const"),
    ("self_attn.relative_attention_bias", "attention.rel_attn_embed"),
    ("self_attn_layer_norm", "layer_norm"),
    ("fc1", "feed_forward.intermediate_dense"),
    ("fc2", "feed_forward.output_dense"),
)


def wavlm_tensors(*, buckets: int = 320, **sizes: Any) -> dict[str, Tensor]:
    """Tensors of a WavLM under unilm's names; heads are 64 channels wide."""
    state = fairseq_tensors(**{"projection": None, **sizes})
    dim = len(state["encoder.layer_norm.weight"])
    heads = dim // 64
    generator = torch.Generator().manual_seed(sizes.get("seed", 0) + 1)
    for name in [name for name in state if name.endswith("self_attn.q_proj.weight")]:
        part = name.removesuffix("q_proj.weight")
        state[f"{part}grep_linear.weight"] = 0.3 * torch.randn(8, 64, generator=generator)
        state[f"{part}grep_linear.bias"] = torch.randn(8, generator=generator)
        state[f"{part}grep_a"] = 1 + 0.3 * torch.randn(1, heads, 1, 1, generator=generator)
    state["encoder.layers.0.self_attn.relative_attention_bias.weight"] = torch.randn(
        buckets, heads, generator=generator
    )
    return state


def hugging_face_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fairseq's or unilm's names -> those of transformers' models."""
    renamed = {}
    for full, tensor in state.items():
        name = "masked_spec_embed" if full == "mask_emb" else full
        name = re.sub(r"(conv_layers\.\d+)\.0\.", r"\1.conv.", name)
        name = re.sub(r"(conv_layers\.\d+)\.2\.(1\.)?", r"\1.layer_norm.", name)
        name = re.sub(r"^layer_norm\.", "feature_projection.layer_norm.", name)
        name = name.replace("post_extract_proj", "feature_projection.projection")
        name = name.replace("pos_conv.0", "pos_conv_embed.conv")
        if ".layers." in name:
            for theirs, other in _LAYER_PARTS:
                name = name.replace(f".{theirs}", f".{other}")
        if name != "label_embs_concat":
            renamed[name] = tensor
    return renamed


def torchaudio_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fairseq's or unilm's names -> those of torchaudio's models."""
    renamed = {}
    for full, tensor in hugging_face_names(state).items():
        name = re.sub(r"^encoder\.", "encoder.transformer.", full)
        name = re.sub(r"^feature_projection\.", "encoder.feature_projection.", name)
        name = name.replace("final_proj.", "aux.")
        if name != "masked_spec_embed":
            renamed[name] = tensor
    if any("gru_rel_pos" in name for name in renamed):
        for name in [name for name in renamed if ".attention.q_proj." in name]:
            parts = [renamed.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
            fused = name.replace(".q_proj.", ".attention.in_proj_")
            renamed[fused] = torch.cat(parts)
            out = name.replace("q_proj", "out_proj")
            renamed[out.replace(".out_proj", ".attention.out_proj")] = renamed.pop(out)
    return renamed


def hubert_soft_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fairseq's names -> those of hubert-soft."""
    renamed = {"masked_spec_embed": state["mask_emb"]}
    for full, tensor in state.items():
        name = re.sub(r"conv_layers\.(\d)\.0\.", r"conv\1.", full)
        name = name.replace("conv_layers.0.2.", "norm0.")
        name = re.sub(r"^layer_norm\.", "feature_projection.norm.", name)
        name = name.replace("post_extract_proj", "feature_projection.projection")
        name = name.replace("encoder.pos_conv.0", "positional_embedding.conv")
        name = name.replace("encoder.layer_norm", "norm").replace("final_proj", "proj")
        name = name.replace("self_attn_layer_norm", "norm1").replace("final_layer_norm", "norm2")
        name = name.replace("fc1", "linear1").replace("fc2", "linear2")
        if name.endswith(("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias")):
            continue
        if ".q_proj." in name:
            tensor = torch.cat([state[full.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            name = name.replace(".q_proj.", ".in_proj_")
        if name not in ("mask_emb", "label_embs_concat"):
            renamed[name] = tensor
    renamed["label_embedding.weight"] = torch.ones(100, len(state["final_proj.weight"]))
    return renamed


def dphubert_file(state: dict[str, Tensor], **settings: Any) -> dict[str, Any]:
    """{config, state_dict} of a pruned HuBERT: every third layer from the second on has no
    attention, from the third on no feed-forward part; one or two heads of 64 channels.
    """
    generator = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / torch.Size(shape[1:]).numel() ** 0.5

    layers = sum(name.endswith("fc1.weight") for name in state)
    dim, conv = len(state["encoder.layer_norm.weight"]), len(state["layer_norm.weight"])
    heads = [(2, 0, 1)[i % 3] for i in range(layers)]
    ffn = [(len(state["encoder.layers.0.fc1.bias"]) - i, 24, 0)[i % 3] for i in range(layers)]
    state = {name: t for name, t in state.items() if not name.startswith("final_proj.")}
    for i in range(layers):
        for name in [name for name in state if name.startswith(f"encoder.layers.{i}.")]:
            rows, columns = (dim, 64 * heads[i]) if "out_proj" in name else (64 * heads[i], dim)
            if ".fc" in name:
                rows, columns = (ffn[i], dim) if ".fc1." in name else (dim, ffn[i])
            elif "self_attn." not in name:
                continue
            del state[name]
            if rows and columns:
                state[name] = draw(rows, columns) if name.endswith("weight") else draw(rows)
    names = torchaudio_names(state)
    names["feature_extractor.dummy_weight"] = 1 + 0.3 * torch.randn(conv, generator=generator)
    config = {
        "extractor_mode": "group_norm",
        "extractor_conv_layer_config": [
            (conv, kernel, stride)
            for kernel, stride in zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))
        ],
        "extractor_conv_bias": False,
        "encoder_embed_dim": dim,
        "encoder_projection_dropout": 0.1,
        "encoder_pos_conv_kernel": 128,
        "encoder_pos_conv_groups": 16,
        "encoder_num_layers": layers,
        "encoder_use_attention": [n > 0 for n in heads],
        "encoder_use_feed_forward": [n > 0 for n in ffn],
        "encoder_num_heads": heads,
        "encoder_head_dim": 64,
        "encoder_ff_interm_features": ffn,
        "encoder_layer_norm_first": False,
        "aux_num_out": None,
        "normalize_waveform": False,
        "encoder_prune_attention_heads": False,
    }
    projections = {"0.weight": torch.ones(3, 3)}
    return {
        "config": {**config, **settings},
        "state_dict": names,
        "distill_linear_projs": projections,
    }


def unilm_cfg(state: dict[str, Tensor], large: bool) -> dict[str, Any]:
    conv = len(state["layer_norm.weight"])
    return {
        "extractor_mode": "layer_norm" if large else "default",
        "encoder_attention_heads": len(state["encoder.layer_norm.weight"]) // 64,
        "layer_norm_first": large,
        "conv_feature_layers": f"[({conv},10,5)] + [({conv},3,2)] * 4 + [({conv},2,2)] * 2",
        "conv_bias": large,
        "normalize": large,
        "relative_position_embedding": True,
        "num_buckets": 320,
        "max_distance": 800,
        "gru_rel_pos": True,
    }


def hugging_face_config(state: dict[str, Tensor], large: bool) -> dict[str, Any]:
    conv, dim = len(state["layer_norm.weight"]), len(state["encoder.layer_norm.weight"])
    table = state.get("encoder.layers.0.self_attn.relative_attention_bias.weight")
    extra = {} if table is None else {"num_buckets": len(table), "max_bucket_distance": 800}
    return {
        "model_type": "hubert" if table is None else "wavlm",
        "hidden_size": dim,
        "num_attention_heads": dim // 64,
        "do_stable_layer_norm": large,
        "feat_extract_norm": "layer" if large else "group",
        "feat_extract_activation": "gelu",
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "conv_bias": large,
        "conv_dim": [conv] * 7,
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "num_conv_pos_embeddings": 128,
        "num_conv_pos_embedding_groups": 16,
        **extra,
    }


WAVE_KINDS = (
    "fairseq",
    "wavlm",
    "dphubert",
    "hubert_soft",
    "hugging_face",
    "hugging_face_wavlm",
    "torchaudio",
    "torchaudio_wavlm",
)


def save_hugging_face(state: dict[str, Tensor], where: Path, config: dict[str, Any]) -> Path:
    """Write a folder, or one lone file of weights where the path has a suffix."""
    weights = where
    if not where.suffix:
        where.mkdir(parents=True)
        (where / "config.json").write_text(json.dumps(config), encoding="utf-8")
        weights = where / "model.safetensors"
    named = hugging_face_names(state)
    if weights.suffix == ".safetensors":
        save_safetensors(named, weights, metadata={"format": "pt"})
    else:
        torch.save(named, weights)
    return where
