"""The FCPE net: log-mel -> how likely each of 360 pitches is, in two forms (spec_f0 8).

Conformer layers over time; the net of so-vits-svc 4.1 has Performer attention in each (arXiv
2009.14794), the one whose weights come with the torchfcpe package has convolutions only. Which of
them a file holds is read from its tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svc.audio.mel import LogMel, fcpe_mel
from svc.checkpoint import fold_weight_norm, load_checkpoint, load_state, rename
from svc.errors import CheckpointError

_KERNEL = 31  # frames of the depthwise convolutions
_GROUPS = 4  # of the input stack's GroupNorm

_LAYER = r"^(?:decoder\._layers|net\.encoder_layers)\.(\d+)\."
_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^(?:input_)?stack\.", "stack."),
        (_LAYER + r"norm\.", r"layers.\1.attention_norm."),
        (_LAYER + r"conformer\.net\.0\.", r"layers.\1.conv.norm."),
        (_LAYER + r"conformer\.net\.2\.", r"layers.\1.conv.expand."),
        (_LAYER + r"conformer\.net\.4\.conv\.", r"layers.\1.conv.depth."),
        (_LAYER + r"conformer\.net\.6\.", r"layers.\1.conv.reduce."),
        (_LAYER + r"attn\.fast_attention\.projection_matrix$", r"layers.\1.attention.projection"),
        (_LAYER + r"attn\.", r"layers.\1.attention."),
        (r"^(?:dense_out|output_proj)\.", "output."),
    )
)
_HINT = "It must be the fcpe.pt of so-vits-svc 4.1 or the model inside the torchfcpe package"


@dataclass(frozen=True)
class FcpeConfig:
    """Sizes of one net."""

    n_mels: int
    dim: int  # channels of the Conformer layers
    n_layers: int
    n_bins: int  # pitches told apart
    attention_dim: int  # inner width of the attention, all heads together; 0 = convolutions only
    head_dim: int  # channels per head
    n_features: int  # random features of the attention


class ConvModule(nn.Module):
    """Conformer convolution module without BatchNorm (arXiv 2005.08100, figure 2)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Conv1d(dim, 4 * dim, 1)
        self.depth = nn.Conv1d(2 * dim, 2 * dim, _KERNEL, padding=_KERNEL // 2, groups=2 * dim)
        self.reduce = nn.Conv1d(2 * dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        y = F.glu(self.expand(self.norm(x).transpose(1, 2)), dim=1)
        z: Tensor = self.reduce(F.silu(self.depth(y)))
        return z.transpose(1, 2)


class PerformerAttention(nn.Module):
    """Linear attention by positive random features, with the original's two epsilons (spec_f0
    8.1).
    """

    projection: Tensor

    def __init__(self, config: FcpeConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.to_q = nn.Linear(config.dim, config.attention_dim)
        self.to_k = nn.Linear(config.dim, config.attention_dim)
        self.to_v = nn.Linear(config.dim, config.attention_dim)
        self.to_out = nn.Linear(config.attention_dim, config.dim)
        self.register_buffer("projection", torch.zeros(config.n_features, config.head_dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        query, key, value = (
            linear(x).view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)  # (B, H, N, head_dim)
            for linear in (self.to_q, self.to_k, self.to_v)
        )
        scale = self.head_dim**-0.25
        gain = len(self.projection) ** -0.5
        query_dash, key_dash = ((scale * part) @ self.projection.T for part in (query, key))
        query_norm, key_norm = (
            (scale * part).square().sum(dim=-1, keepdim=True) / 2 for part in (query, key)
        )
        peak = query_dash.amax(dim=-1, keepdim=True)
        phi_query = gain * (torch.exp(query_dash - query_norm - peak) + 1e-4)
        # The saved weights expect the epsilon inside this exponent.
        phi_key = gain * torch.exp(key_dash - key_norm + 1e-4)
        total = phi_query @ phi_key.sum(dim=2).unsqueeze(-1)  # (B, H, N, 1)
        mixed = (phi_query @ (phi_key.transpose(2, 3) @ value)) / (total + 1e-8)
        y: Tensor = self.to_out(mixed.transpose(1, 2).flatten(2))
        return y


class FcpeLayer(nn.Module):
    """Attention (where the net has it) and convolution module, each with a residual."""

    def __init__(self, config: FcpeConfig) -> None:
        super().__init__()
        self.attention = PerformerAttention(config) if config.attention_dim else None
        self.attention_norm = nn.LayerNorm(config.dim) if config.attention_dim else None
        self.conv = ConvModule(config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        if self.attention is not None and self.attention_norm is not None:
            x = x + self.attention(self.attention_norm(x))
        y: Tensor = x + self.conv(x)
        return y


class FcpeNet(nn.Module):
    """Log-mel -> salience of each pitch bin."""

    cent_table: Tensor  # (n_bins,) cents above 10 Hz

    def __init__(self, config: FcpeConfig) -> None:
        super().__init__()
        self.config = config
        self.stack = nn.Sequential(
            nn.Conv1d(config.n_mels, config.dim, 3, padding=1),
            nn.GroupNorm(_GROUPS, config.dim),
            nn.LeakyReLU(),
            nn.Conv1d(config.dim, config.dim, 3, padding=1),
        )
        self.layers = nn.ModuleList(FcpeLayer(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.dim)
        self.output = nn.Linear(config.dim, config.n_bins)
        self.register_buffer("cent_table", torch.zeros(config.n_bins))

    def forward(self, mel: Tensor) -> Tensor:
        """(B, n_mels, N) natural-log mel -> (B, N, n_bins) in [0, 1]."""
        x = self.stack(mel).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        return torch.sigmoid(self.output(self.norm(x)))


def own_name(name: str) -> str:
    """Return a tensor's name in this module's net for its name in a file."""
    return rename(name, _RENAMES)


def infer_config(state: Mapping[str, Tensor]) -> FcpeConfig:
    """Read the sizes from the tensors, by this module's names. Raises KeyError, ValueError."""
    dim, n_mels, _ = state["stack.0.weight"].shape
    layers = {int(m[1]) for name in state if (m := re.match(r"layers\.(\d+)\.", name))}
    if not layers or layers != set(range(len(layers))):
        raise ValueError(f"layers {sorted(layers)} are not numbered without gaps")
    attention = "layers.0.attention.to_q.weight" in state
    projection = state["layers.0.attention.projection"] if attention else torch.zeros(0, 1)
    return FcpeConfig(
        n_mels=n_mels,
        dim=dim,
        n_layers=len(layers),
        n_bins=len(state["output.weight"]),
        attention_dim=len(state["layers.0.attention.to_q.weight"]) if attention else 0,
        head_dim=projection.shape[1],
        n_features=projection.shape[0],
    )


def front_end(path: Path, config: Any) -> LogMel:
    """Make the mel that a file's config asks for; its keys differ between the two forms."""
    mel = config.get("mel") if isinstance(config, Mapping) else None
    model = config.get("model") if isinstance(config, Mapping) else None
    if not isinstance(mel, Mapping) or not isinstance(model, Mapping):
        raise CheckpointError(f"{path} has no config of its net. {_HINT}")
    for option in ("confidence", "use_full", "use_siren", "use_harmonic_emb"):
        if model.get(option):
            raise CheckpointError(
                f'{path} sets "{option}", which no published FCPE model does. {_HINT}'
            )
    try:
        return fcpe_mel(
            sampling_rate=int(mel["sampling_rate"] if "sampling_rate" in mel else mel["sr"]),
            n_fft=int(mel["n_fft"]),
            win_length=int(mel["win_size"]),
            hop_length=int(mel["hop_size"]),
            n_mels=int(mel["num_mels"]),
            fmin=float(mel["fmin"]),
            fmax=float(mel["fmax"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: unusable mel settings ({error}). {_HINT}") from error


def load_fcpe(path: Path) -> tuple[FcpeNet, LogMel]:
    """Load an FCPE net of either form.

    Args:
        path: ``{config, model}`` of so-vits-svc 4.1, or ``{config_dict, model}`` of torchfcpe.

    Returns:
        The net in float32 on the CPU, in eval mode, and the mel it expects.

    Raises:
        MissingFileError: no such file.
        CheckpointError: truncated, hostile, or another kind of net.
    """
    file = load_checkpoint(path)
    mel = front_end(path, file.get("config", file.get("config_dict")))
    tensors = file.get("model")
    if not isinstance(tensors, Mapping):
        raise CheckpointError(f"{path} holds no weights. {_HINT}")
    state = fold_weight_norm(
        {
            own_name(name): tensor.float()
            for name, tensor in tensors.items()
            if isinstance(tensor, Tensor) and name != "gaussian_blurred_cent_mask"
        }
    )
    try:
        config = infer_config(state)
        net = FcpeNet(config)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        reason = f"no tensor {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{path} holds no FCPE net: {reason}. {_HINT}") from error
    if not config.attention_dim:  # the file keeps the norms of the attention it does not have
        state = {name: tensor for name, tensor in state.items() if ".attention_norm." not in name}
    if config.n_mels != mel.config.n_mels:
        raise CheckpointError(
            f"{path}: the config says {mel.config.n_mels} mel bands, the net has {config.n_mels}."
            f" {_HINT}"
        )
    load_state(net, state, what=str(path), hint=_HINT)
    return net.eval().requires_grad_(False), mel
