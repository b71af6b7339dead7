"""Nets under torchaudio's names, and DPHuBERT, which is saved under them: a HuBERT of which
channels, heads and whole parts of layers were pruned away ("DPHuBERT: Joint Distillation and
Pruning of Self-Supervised Speech Models", arXiv 2305.17651; spec_encoders 6 and 9).

so-vits-svc 4.1 never switches DPHuBERT to eval mode, so its dropout and layer drop stay active and
two runs over one clip differ by 0.3-0.6 on average. Here every net is in eval mode: units are what
those random ones scatter about, and the same each time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from svc.safe_pickle import printable
from svc.speech.convolutions import check_convolutions
from svc.speech.hubert_soft import split_attention_inputs
from svc.speech.wave_state import HEAD_DIM, WaveSettings, WaveState, rename_rules

SIGNATURE = "encoder.transformer.layer_norm.weight"
"""A tensor that every file of this format has, and no other format."""

HINT = (
    "It must be DPHuBERT as its authors publish it (DPHuBERT-sp0.75.pth), or a HuBERT, WavLM or"
    " wav2vec 2.0 of torchaudio"
)
_LISTS = (
    "encoder_num_heads",
    "encoder_use_attention",
    "encoder_ff_interm_features",
    "encoder_use_feed_forward",
)
"""Settings with an entry for each layer."""
_LAYER = r"^encoder\.transformer\.layers\.(\d+)\."
_ATTENTION = _LAYER + r"attention\.(?:attention\.)?"  # WavLM wraps torch's own attention
_RULES = rename_rules(
    (
        (r"^feature_extractor\.conv_layers\.(\d+)\.conv\.", r"frontend.\1.conv."),
        (r"^feature_extractor\.conv_layers\.(\d+)\.layer_norm\.", r"frontend.\1.norm."),
        (r"^feature_extractor\.dummy_weight$", "feature_scale"),
        (r"^encoder\.feature_projection\.layer_norm\.", "input_norm."),
        (r"^encoder\.feature_projection\.projection\.", "input_projection."),
        (r"^encoder\.transformer\.pos_conv_embed\.conv\.", "position."),
        (r"^encoder\.transformer\.layer_norm\.", "norm."),
        (r"^aux\.", "final_projection."),
        (_ATTENTION + r"(?:q_proj\.|query_)", r"layers.\1.attention.query."),
        (_ATTENTION + r"(?:k_proj\.|key_)", r"layers.\1.attention.key."),
        (_ATTENTION + r"(?:v_proj\.|value_)", r"layers.\1.attention.value."),
        (_ATTENTION + r"out_proj\.", r"layers.\1.attention.out."),
        (_LAYER + r"attention\.gru_rel_pos_linear\.", r"layers.\1.attention.gate."),
        (_LAYER + r"attention\.gru_rel_pos_const$", r"layers.\1.attention.gate_scale"),
        (
            r"^encoder\.transformer\.layers\.0\.attention\.rel_attn_embed\.",
            "relative_bias.table.",
        ),
        (_LAYER + r"layer_norm\.", r"layers.\1.attention_norm."),
        (_LAYER + r"feed_forward\.intermediate_dense\.", r"layers.\1.fc1."),
        (_LAYER + r"feed_forward\.output_dense\.", r"layers.\1.fc2."),
        (_LAYER + r"final_layer_norm\.", r"layers.\1.ffn_norm."),
    )
)


def convert(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> WaveState:
    """Translate a file under torchaudio's names.

    Args:
        tensors: by torchaudio's names, any precision.
        config: DPHuBERT's own settings; empty for a net of torchaudio, whose sizes shapes tell
            (heads are 64 channels wide; pre-norm where the front end has LayerNorms).

    Returns:
        Tensors by the net's own names.

    Raises:
        ValueError: a pruned WavLM, a net still being pruned, or a config that is incomplete or
            contradicts the tensors.
    """
    if "encoder_remaining_heads" in config:
        raise ValueError("it is a pruned WavLM (encoder_remaining_heads), not a pruned HuBERT")
    settings = WaveSettings()
    if "encoder_num_heads" in config:
        settings = _pruned_settings(config)
        _check_widths(tensors, settings)
    return WaveState.renamed(split_attention_inputs(tensors), _RULES, settings, hint=HINT)


def _pruned_settings(config: Mapping[str, Any]) -> WaveSettings:
    unfinished = [key for key, value in config.items() if "_prune_" in str(key) and value]
    if unfinished:
        keys = printable(", ".join(map(str, unfinished)))
        raise ValueError(f"it is still being pruned ({keys}): not a final model")
    check_convolutions(config, "extractor_conv_layer_config")
    lists = [_numbers(config, key) for key in _LISTS]
    if len(set(map(len, lists))) > 1:
        raise ValueError("the lists of its config describe different numbers of layers")
    heads, heads_used, widths, widths_used = lists
    head_dim = config.get("encoder_head_dim")
    pre_norm, normalize = config.get("encoder_layer_norm_first"), config.get("normalize_waveform")
    return WaveSettings(
        n_heads=tuple(n if used else 0 for n, used in zip(heads, heads_used)),
        ffn_dims=tuple(n if used else 0 for n, used in zip(widths, widths_used)),
        head_dim=head_dim if isinstance(head_dim, int) else None,
        pre_norm=pre_norm if isinstance(pre_norm, bool) else None,
        normalize_wave=normalize if isinstance(normalize, bool) else None,
    )


def _numbers(config: Mapping[str, Any], key: str) -> list[int]:
    """A list of whole numbers >= 0 (or of truth values) in the config."""
    values = config.get(key)
    if not isinstance(values, list | tuple) or not all(
        isinstance(value, int) and value >= 0 for value in values
    ):
        raise ValueError(f'its config has no list of numbers "{key}"')
    return list(values)


def _check_widths(tensors: Mapping[str, Tensor], settings: WaveSettings) -> None:
    """Every layer is as wide as the settings say: a part is pruned because they call it pruned, not
    because it is missing.
    """
    heads = settings.n_heads if isinstance(settings.n_heads, tuple) else ()
    head_dim = settings.head_dim or HEAD_DIM
    for index, (n_heads, width) in enumerate(zip(heads, settings.ffn_dims or ())):
        layer = f"encoder.transformer.layers.{index}"
        for part, tensor, stated in (
            ("attention", "attention.q_proj.weight", n_heads * head_dim),
            ("feed-forward part", "feed_forward.intermediate_dense.weight", width),
        ):
            found = len(tensors.get(f"{layer}.{tensor}", ()))
            if found != stated:
                raise ValueError(
                    f"the {part} of layer {index + 1} is {stated} wide in the config and {found} in"
                    " the tensors"
                )
