"""HuBERT and ContentVec as fairseq saves them, and WavLM as unilm does: the same names
(spec_encoders 5, 6 and 10.1). Nothing of fairseq is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from svc.safe_pickle import printable
from svc.speech.convolutions import check_convolutions
from svc.speech.wave_state import WaveSettings, WaveState, rename_rules

SIGNATURE = "feature_extractor.conv_layers.0.0.weight"
"""A tensor that every file of this format has, and no other format."""

HINT = (
    "It must be a HuBERT or ContentVec file as fairseq saves it (of ContentVec the legacy form,"
    " checkpoint_best_legacy_500.pt), or WavLM as unilm publishes it"
)
# Parts that only training needs.
_UNUSED = ("mask_emb", "label_embs_concat", "target_glu.", "quantizer.", "project_q.")
_LAYER = r"^encoder\.layers\.(\d+)\."
_RULES = rename_rules(
    (
        (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", r"frontend.\1.conv."),
        (r"^feature_extractor\.conv_layers\.(\d+)\.2\.(?:1\.)?", r"frontend.\1.norm."),
        (r"^layer_norm\.", "input_norm."),
        (r"^post_extract_proj\.", "input_projection."),
        (r"^final_proj\.", "final_projection."),
        (r"^encoder\.pos_conv\.0\.", "position."),
        (r"^encoder\.layer_norm\.", "norm."),
        (_LAYER + r"self_attn_layer_norm\.", r"layers.\1.attention_norm."),
        (_LAYER + r"final_layer_norm\.", r"layers.\1.ffn_norm."),
        (_LAYER + r"(fc[12])\.", r"layers.\1.\2."),
        (_LAYER + r"self_attn\.q_proj\.", r"layers.\1.attention.query."),
        (_LAYER + r"self_attn\.k_proj\.", r"layers.\1.attention.key."),
        (_LAYER + r"self_attn\.v_proj\.", r"layers.\1.attention.value."),
        (_LAYER + r"self_attn\.out_proj\.", r"layers.\1.attention.out."),
        (_LAYER + r"self_attn\.grep_linear\.", r"layers.\1.attention.gate."),
        (_LAYER + r"self_attn\.grep_a$", r"layers.\1.attention.gate_scale"),
        # One table for all layers, which the first one owns.
        (r"^encoder\.layers\.0\.self_attn\.relative_attention_bias\.", "relative_bias.table."),
    )
)
# Settings that must have this value where they are stated.
_FIXED = {
    "activation_fn": "gelu",
    "layer_type": "transformer",
    "conv_pos_batch_norm": False,
    "pos_conv_depth": 1,
    "gru_rel_pos": True,
}


def convert(tensors: Mapping[str, Tensor], cfg: Mapping[str, Any]) -> WaveState:
    """Translate a file of fairseq or unilm.

    Args:
        tensors: by fairseq's names, any precision.
        cfg: the file's ``cfg`` where it is a plain dictionary, else empty: fairseq's has a section
            "model", unilm's is flat.

    Returns:
        Tensors by the net's own names. fairseq's ``task.normalize`` is not followed: so-vits-svc
        4.1 passes the wave as it is, whatever such a file says (spec_encoders 2); unilm's
        ``normalize`` is.

    Raises:
        ValueError: the config describes a net of another kind; says what differs.
    """
    nested = cfg.get("model")
    model = nested if isinstance(nested, Mapping) else cfg
    for key, wanted in _FIXED.items():
        if key == "gru_rel_pos" and not model.get("relative_position_embedding"):
            continue
        stated = model.get(key)
        # Objects of fairseq's own classes are not read.
        if isinstance(stated, str | int) and stated != wanted:
            shown = printable(repr(stated))
            raise ValueError(f'its config says "{key}": {shown}, only {wanted!r} is known')
    check_convolutions(model, "conv_feature_layers")
    heads, pre_norm = model.get("encoder_attention_heads"), model.get("layer_norm_first")
    distance, normalize = model.get("max_distance"), cfg.get("normalize")
    settings = WaveSettings(
        n_heads=heads if isinstance(heads, int) else None,
        pre_norm=pre_norm if isinstance(pre_norm, bool) else None,
        relative_distance=distance if isinstance(distance, int) else None,
        normalize_wave=normalize if isinstance(normalize, bool) else None,
    )
    return WaveState.renamed(tensors, _RULES, settings, hint=HINT, unused=_UNUSED)
