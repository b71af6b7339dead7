"""ContentVec and HuBERT: from fairseq-format files to units (spec_encoders 5 and 6). Nothing of
fairseq is imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svc.checkpoint import (
    classic_weight_norm_keys,
    fold_weight_norm,
    load_restricted,
    load_safetensors,
    load_state,
    rename,
)
from svc.errors import CheckpointError
from svc.speech.chunks import HOP_LENGTH, encode_in_windows, prepare_wave
from svc.speech.wav2vec2 import CONV_KERNELS, Wav2Vec2, Wav2Vec2Config

FIELD = 400  # samples that one frame hears
WINDOW_FRAMES = 1499  # 30 s; up to here a wave is encoded in one piece, as the original does

_UNUSED = ("mask_emb", "label_embs_concat", "target_glu.")  # parts that only training needs
_LAYER = r"^encoder\.layers\.(\d+)\."
_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
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
    )
)
_HINT = (
    "It must be a HuBERT or ContentVec file as fairseq saves it; of ContentVec the legacy form"
    " (checkpoint_best_legacy_500.pt)"
)


def _rename(name: str) -> str:
    return rename(name, _RENAMES)


def _read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Return the tensors by fairseq's names, and the model section of its config where it is a
    plain dict.
    """
    if path.suffix == ".safetensors":
        return load_safetensors(path)[0], {}
    file = load_restricted(path)
    state = file.get("model", file)
    if not isinstance(state, Mapping):
        raise CheckpointError(f'{path}: "model" is not a dictionary of tensors. {_HINT}')
    cfg = file.get("cfg")
    settings = cfg.get("model") if isinstance(cfg, Mapping) else None
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return tensors, settings if isinstance(settings, Mapping) else {}


def infer_config(state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Wav2Vec2Config:
    """Read the sizes from the tensors (spec_encoders 5.3).

    Args:
        state: tensors by fairseq's names, weight norm in the classic form.
        settings: fairseq's model config, consulted for what shapes cannot tell; may be empty.

    Returns:
        The sizes.

    Raises:
        KeyError, ValueError, ...: these are not the tensors of such a net.
    """
    convs = [state[f"feature_extractor.conv_layers.{i}.0.weight"] for i in range(len(CONV_KERNELS))]
    if tuple(weight.shape[2] for weight in convs) != CONV_KERNELS:
        raise ValueError(f"kernels {[weight.shape[2] for weight in convs]} in the front end")
    layer_norm = "feature_extractor.conv_layers.0.2.1.weight" in state
    dim = len(state["encoder.layer_norm.weight"])
    heads = settings.get("encoder_attention_heads")
    n_heads = heads if isinstance(heads, int) and heads > 0 else dim // 64
    if n_heads < 1 or dim % n_heads:
        raise ValueError(f"{n_heads} attention heads do not divide {dim} channels")
    pre_norm = settings.get("layer_norm_first")
    position = state["encoder.pos_conv.0.weight_v"]
    layers = {int(m[1]) for name in state if (m := re.match(r"encoder\.layers\.(\d+)\.", name))}
    if layers != set(range(len(layers))):
        raise ValueError(f"layers {sorted(layers)} are not numbered without gaps")
    projection = state.get("final_proj.weight")
    return Wav2Vec2Config(
        conv_channels=tuple(weight.shape[0] for weight in convs),
        conv_bias="feature_extractor.conv_layers.0.0.bias" in state,
        conv_layer_norm=layer_norm,
        dim=dim,
        n_heads=n_heads,
        ffn_dim=len(state["encoder.layers.0.fc1.weight"]),
        n_layers=len(layers),
        pre_norm=pre_norm if isinstance(pre_norm, bool) else layer_norm,
        position_kernel=position.shape[2],
        position_groups=dim // position.shape[1],
        projection_dim=None if projection is None else len(projection),
    )


def load_hubert(path: Path) -> Wav2Vec2:
    """Load a HuBERT-type net from a file in fairseq's format.

    Args:
        path: the file; zip or legacy container, any kind of config inside, half or single
            precision; or `.safetensors` with fairseq's names.

    Returns:
        The net in float32 on the CPU, in eval mode.

    Raises:
        MissingFileError: no such file.
        CheckpointError: truncated, hostile, or another kind of net.
    """
    state, settings = _read(path)
    state = {
        name: tensor.float()
        for name, tensor in classic_weight_norm_keys(state).items()
        if not name.startswith(_UNUSED)
    }
    try:
        net = Wav2Vec2(infer_config(state, settings))
    except (KeyError, ValueError, IndexError, TypeError, ZeroDivisionError) as error:
        reason = f"no tensor {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{path} does not hold a HuBERT net: {reason}. {_HINT}") from error
    plain = fold_weight_norm(state, dim=2)  # the norm runs along the kernel axis
    renamed = {_rename(name): tensor for name, tensor in plain.items()}
    load_state(net, renamed, what=str(path), hint=_HINT)
    return net.eval().requires_grad_(False)


USUAL_SECONDS = 30.0
"""Longest input that is encoded in one pass, as the original does."""


class HubertEncoder:
    """Units of one layer of a HuBERT-type net, optionally through its final projection.

    Args:
        net: the loaded net.
        name: id of the encoder.
        layer: which layer is tapped, counted from 1; None: the end of the net.
        project: apply the final projection.
        device: where to compute.
    """

    def __init__(
        self,
        net: Wav2Vec2,
        *,
        name: str,
        layer: int | None = None,
        project: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        if project and net.final_projection is None:
            raise ValueError("the net has no final projection")
        self.name = name
        self.device = torch.device(device)
        self.dim = (net.config.projection_dim or 0) if project else net.config.dim
        self.usual_seconds = USUAL_SECONDS
        self._net = net.to(self.device)
        self._layer = layer
        self._projection = net.final_projection if project else None

    @torch.no_grad()
    def encode(self, wav16k: Tensor) -> Tensor:
        """Encode a wave of any length.

        Args:
            wav16k: (T,) samples at 16 kHz in [-1, 1]; below 400 samples it is zero-padded.

        Returns:
            (1, C, S) float32 on the encoder's device, S = floor((T - 400) / 320) + 1, at least 1.
            Up to 30 s one pass over the whole wave as in so-vits-svc 4.1; longer in overlapping
            windows (svc.speech.chunks).

        Raises:
            AudioError: NaN or infinite samples.
        """
        wav = prepare_wave(wav16k, FIELD)
        n_frames = (len(wav) - FIELD) // HOP_LENGTH + 1
        return encode_in_windows(
            wav,
            n_frames,
            self._encode_piece,
            whole=WINDOW_FRAMES,
            window=WINDOW_FRAMES,
            field=FIELD,
        )

    def _encode_piece(self, wav: Tensor) -> Tensor:
        """(T,) -> (1, C, S)."""
        hidden: Tensor = self._net(wav.to(self.device)[None], self._layer)
        if self._projection is not None:
            hidden = self._projection(hidden)
        return hidden.transpose(1, 2)
