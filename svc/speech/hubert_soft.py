"""hubert-soft, bshall's HuBERT that gives soft units ("A Comparison of Discrete and Soft Speech
Units for Improved Voice Conversion", arXiv 2111.02392; spec_encoders 7).

Its 40 zeros before and after the wave belong to the encoder, not to the net: see
`svc.speech.wave_encoder`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from svc.safe_pickle import printable
from svc.speech.wave_state import WaveSettings, WaveState, rename_rules

SIGNATURE = "feature_extractor.conv0.weight"
"""A tensor that every file of this format has, and no other format."""

HINT = "It must be hubert-soft as bshall publishes it (hubert-soft-0d54a1f4.pt)"
_UNUSED = ("masked_spec_embed", "label_embedding.")  # parts that only training needs
_LAYER = r"^encoder\.layers\.(\d+)\."
_RULES = rename_rules(
    (
        (r"^feature_extractor\.conv(\d+)\.", r"frontend.\1.conv."),
        (r"^feature_extractor\.norm(\d+)\.", r"frontend.\1.norm."),
        (r"^feature_projection\.norm\.", "input_norm."),
        (r"^feature_projection\.projection\.", "input_projection."),
        (r"^positional_embedding\.conv\.", "position."),
        (r"^proj\.", "final_projection."),
        (_LAYER + r"self_attn\.(query|key|value)_", r"layers.\1.attention.\2."),
        (_LAYER + r"self_attn\.out_proj\.", r"layers.\1.attention.out."),
        (_LAYER + r"linear([12])\.", r"layers.\1.fc\2."),
        (_LAYER + r"norm1\.", r"layers.\1.attention_norm."),
        (_LAYER + r"norm2\.", r"layers.\1.ffn_norm."),
    )
)


def convert(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> WaveState:
    """Translate a file of hubert-soft.

    Args:
        tensors: by its names, any precision.
        settings: unused; the file holds tensors only.

    Returns:
        Tensors by the net's own names; heads are 64 channels wide.
    """
    split = split_attention_inputs(tensors)
    is_soft = WaveSettings(soft=True)
    return WaveState.renamed(split, _RULES, is_soft, hint=HINT, unused=_UNUSED)


def split_attention_inputs(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cut each ``in_proj_weight`` and ``in_proj_bias`` of torch's own attention into
    ``query_...``, ``key_...`` and ``value_...``, its three blocks of rows; views, nothing is copied.

    Raises ValueError where the rows cannot be divided by three.
    """
    split: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        start, found, part = name.rpartition(".in_proj_")
        if not found:
            split[name] = tensor
            continue
        if len(tensor) % 3:
            raise ValueError(f"{printable(name)} has {len(tensor)} rows, not three equal blocks")
        for role, block in zip(("query", "key", "value"), tensor.chunk(3)):
            split[f"{start}.{role}_{part}"] = block
    return split
