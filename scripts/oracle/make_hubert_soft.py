"""hubert-soft: torchaudio's HuBERT base with an output layer, saved under the names of its authors
(spec_encoders 7); and plain HuBERT under torchaudio's own names.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
import torchaudio.models
from nets import Net, perturb, tensors
from torch import Tensor
from torchaudio_nets import LAYER, classic_state, position, rename, runner

_RULES = (
    (r"^feature_extractor\.conv_layers\.(\d)\.conv\.", r"feature_extractor.conv\1."),
    (r"^feature_extractor\.conv_layers\.0\.layer_norm\.", "feature_extractor.norm0."),
    (r"^encoder\.feature_projection\.layer_norm\.", "feature_projection.norm."),
    (r"^encoder\.feature_projection\.projection\.", "feature_projection.projection."),
    (r"^encoder\.transformer\.layer_norm\.", "norm."),
    (LAYER + r"attention\.out_proj\.", r"encoder.layers.\1.self_attn.out_proj."),
    (LAYER + r"feed_forward\.intermediate_dense\.", r"encoder.layers.\1.linear1."),
    (LAYER + r"feed_forward\.output_dense\.", r"encoder.layers.\1.linear2."),
    (LAYER + r"layer_norm\.", r"encoder.layers.\1.norm1."),
    (LAYER + r"final_layer_norm\.", r"encoder.layers.\1.norm2."),
    (r"^aux\.", "proj."),
)


def _published(module: torch.nn.Module) -> dict[str, Tensor]:
    state = classic_state(module, "positional_embedding.conv.")
    for index in range(len(module.encoder.transformer.layers)):
        for kind in ("weight", "bias"):
            parts = [
                state.pop(f"encoder.transformer.layers.{index}.attention.{part}_proj.{kind}")
                for part in "qkv"
            ]
            state[f"encoder.layers.{index}.self_attn.in_proj_{kind}"] = torch.cat(parts)
    training = {
        "masked_spec_embed": torch.rand(768),
        "label_embedding.weight": torch.randn(100, 256),
    }
    return OrderedDict({**training, **rename(state, _RULES)})


def build(name: str) -> Net:
    soft = name == "hubert-soft"
    module = torchaudio.models.hubert_base(aux_num_out=256 if soft else None).eval()
    perturb(module)

    def save(folder: Path) -> list[Path]:
        contents: dict[str, Any] = {"hubert_base.pt": tensors(module)}
        if soft:
            state = _published(module)
            parallel = {f"module.{key}": value for key, value in state.items()}
            contents = {
                "hubert-soft-parallel.pt": parallel,
                "hubert-soft-plain.pt": state,
                "hubert-soft-wrapped.pt": {"hubert": parallel},
            }
        for file, content in contents.items():
            torch.save(content, folder / file)
        return [folder / file for file in contents]

    return Net(module, runner(module), save, position=lambda: position(module))
