"""HuBERT, ContentVec, WavLM and wav2vec 2.0 as Hugging Face's transformers saves them: a folder of
``config.json`` and weights, or the weights alone.

Checked against HubertModel, Wav2Vec2Model and WavLMModel of transformers 5.23, base and large with
random weights: hidden states of up to 11 differ by 1.2e-6 in double precision, 1.3e-5 in single.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from svc.errors import CheckpointError, MissingFileError
from svc.safe_pickle import printable
from svc.speech.convolutions import check_kernels
from svc.speech.wave_state import WaveSettings, WaveState, rename_rules

SIGNATURE = "encoder.pos_conv_embed.conv.bias"
"""A tensor that every file of this format has, and no other format."""

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Names that transformers gives the weights, the preferred one first."""

HINT = (
    "It must be a HuBERT, ContentVec, WavLM or wav2vec 2.0 model as Hugging Face's transformers"
    " saves it"
)
_MODEL_TYPES = ("hubert", "wavlm", "wav2vec2")
# Settings that must have this value where they are stated.
_FIXED = {
    "feat_extract_activation": "gelu",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "feat_proj_layer_norm": True,  # DistilHuBERT has none
    "conv_pos_batch_norm": False,  # mHuBERT has one
    "add_adapter": False,
    "adapter_attn_dim": None,
}
_UNUSED = ("masked_spec_embed",)
_LAYER = r"^encoder\.layers\.(\d+)\."
_RULES = rename_rules(
    (
        (r"^feature_extractor\.conv_layers\.(\d+)\.conv\.", r"frontend.\1.conv."),
        (r"^feature_extractor\.conv_layers\.(\d+)\.layer_norm\.", r"frontend.\1.norm."),
        (r"^feature_projection\.layer_norm\.", "input_norm."),
        (r"^feature_projection\.projection\.", "input_projection."),
        (r"^encoder\.pos_conv_embed\.conv\.", "position."),
        (r"^encoder\.layer_norm\.", "norm."),
        (r"^final_proj\.", "final_projection."),
        (_LAYER + r"attention\.q_proj\.", r"layers.\1.attention.query."),
        (_LAYER + r"attention\.k_proj\.", r"layers.\1.attention.key."),
        (_LAYER + r"attention\.v_proj\.", r"layers.\1.attention.value."),
        (_LAYER + r"attention\.out_proj\.", r"layers.\1.attention.out."),
        (_LAYER + r"attention\.gru_rel_pos_linear\.", r"layers.\1.attention.gate."),
        (_LAYER + r"attention\.gru_rel_pos_const$", r"layers.\1.attention.gate_scale"),
        (r"^encoder\.layers\.0\.attention\.rel_attn_embed\.", "relative_bias.table."),
        (_LAYER + r"layer_norm\.", r"layers.\1.attention_norm."),
        (_LAYER + r"feed_forward\.intermediate_dense\.", r"layers.\1.fc1."),
        (_LAYER + r"feed_forward\.output_dense\.", r"layers.\1.fc2."),
        (_LAYER + r"final_layer_norm\.", r"layers.\1.ffn_norm."),
    )
)


def find_weights(folder: Path) -> Path:
    """Return the weight file of a model's folder.

    Raises:
        MissingFileError: there is none; says what is there.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    split = [name for name in WEIGHTS if (folder / f"{name}.index.json").is_file()]
    others = sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix in (".pt", ".pth", ".bin", ".safetensors", ".h5", ".msgpack")
    )
    advice = "download them too"
    if split:
        advice = f"its weights are split over several files: save them as one {split[0]}"
    elif others:
        advice = f"it has {', '.join(others[:3])}: if that is the model, give the path of that file"
    raise MissingFileError(f"the folder {folder} has no weights ({' or '.join(WEIGHTS)}); {advice}")


def read_settings(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` beside the weights, and from ``preprocessor_config.json`` the key
    "do_normalize"; an absent file adds nothing.

    Raises:
        CheckpointError: a file is not a JSON dictionary.
    """
    settings = _read_json(folder / CONFIG)
    processor = _read_json(folder / "preprocessor_config.json")
    return settings | {key: processor[key] for key in ("do_normalize",) if key in processor}


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not readable as JSON ({error}); download it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dictionary")
    return content


def convert(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> WaveState:
    """Translate a model of transformers.

    Args:
        tensors: by the names of HubertModel, Wav2Vec2Model or WavLMModel (without a prefix such as
            "hubert."), and ContentVec's ``final_proj``; any precision.
        config: see `read_settings`; may be empty.

    Returns:
        Tensors by the net's own names. "do_normalize" is followed for WavLM only, as in the
        original formats: HuBERT hears the wave as it is (spec_encoders 2).

    Raises:
        ValueError: the config describes a net of another kind; says what differs.
    """
    kind = config.get("model_type")
    if kind is not None and kind not in _MODEL_TYPES:
        other = "; choose a whisper-ppg encoder for it" if kind == "whisper" else ""
        raise ValueError(
            f'its config says "model_type": "{printable(str(kind))}",'
            f" known are {', '.join(_MODEL_TYPES)}{other}"
        )
    for key, wanted in _FIXED.items():
        if config.get(key, wanted) != wanted:
            shown = printable(repr(config[key]))
            raise ValueError(f'its config says "{key}": {shown}, only {wanted!r} is known')
    if "conv_kernel" in config or "conv_stride" in config:
        check_kernels(config.get("conv_kernel"), config.get("conv_stride"))
    heads, stable = config.get("num_attention_heads"), config.get("do_stable_layer_norm")
    distance, normalize = config.get("max_bucket_distance"), config.get("do_normalize")
    is_wavlm = "encoder.layers.0.attention.rel_attn_embed.weight" in tensors
    settings = WaveSettings(
        n_heads=heads if isinstance(heads, int) else None,
        pre_norm=stable if isinstance(stable, bool) else None,
        relative_distance=distance if isinstance(distance, int) else None,
        normalize_wave=normalize if is_wavlm and isinstance(normalize, bool) else None,
    )
    return WaveState.renamed(tensors, _RULES, settings, hint=HINT, unused=_UNUSED)
