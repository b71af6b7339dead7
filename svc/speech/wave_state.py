"""What a weight file says about its net, under the net's own names: where all formats of the
wav2vec 2.0 family meet.

Each format module renames (`svc.speech.fairseq`, `hugging_face`, `dphubert`, `hubert_soft`); sizes,
checks and loading are here, once.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from svc.checkpoint import classic_weight_norm_keys, fold_weight_norm, load_state, rename
from svc.empty_nets import shapes_only
from svc.errors import CheckpointError
from svc.safe_pickle import printable
from svc.speech.convolutions import check_kernels
from svc.speech.frontend import CONV_KERNELS, CONV_STRIDES
from svc.speech.wav2vec2 import Wav2Vec2, Wav2Vec2Config

logger = logging.getLogger(__name__)

HEAD_DIM = 64  # channels per attention head in every released net

Rules = tuple[tuple[re.Pattern[str], str], ...]


def rename_rules(rules: Iterable[tuple[str, str]]) -> Rules:
    """Compile (pattern, replacement) pairs; the first that matches a name applies."""
    return tuple((re.compile(pattern), replacement) for pattern, replacement in rules)


@dataclass(frozen=True)
class WaveSettings:
    """What shapes cannot tell; None where the file does not say. What is assumed then is true of
    all published models, and logged.
    """

    n_heads: int | tuple[int, ...] | None = None  # the same in all layers, or of each (0: none)
    ffn_dims: tuple[int, ...] | None = None  # of each layer (0: none); None: as layer 0
    head_dim: int | None = None  # None: channels divided by heads, or 64
    pre_norm: bool | None = None  # None: where every layer of the front end has a LayerNorm
    relative_distance: int | None = None  # frames; None: 800
    normalize_wave: bool | None = None  # None: in a WavLM with LayerNorms in the front end

    soft: bool = False  # the names are hubert-soft's

    def assumptions(self, config: Wav2Vec2Config) -> str:
        """What a net was built on without the file saying so, for the log; "" for nothing."""
        assumed = []
        if self.n_heads is None:
            assumed.append(f"{config.n_heads[0]} heads of {config.head_dim} channels")
        if self.pre_norm is None:
            assumed.append(f"LayerNorm {'before' if config.pre_norm else 'after'} each part")
        if config.relative_buckets and self.relative_distance is None:
            assumed.append(f"position bias up to {config.relative_distance} frames")
        if config.relative_buckets and self.normalize_wave is None:
            assumed.append(f"wave {'normalised' if config.normalize_wave else 'as it is'}")
        return ", ".join(assumed)


@dataclass(frozen=True)
class WaveState:
    """Tensors by the names of `Wav2Vec2`, the positional convolution still with weight norm."""

    tensors: dict[str, Tensor]
    settings: WaveSettings
    hint: str  # what the file should have been, for messages

    @classmethod
    def renamed(
        cls,
        tensors: Mapping[str, Tensor],
        rules: Rules,
        settings: WaveSettings,
        *,
        hint: str,
        unused: tuple[str, ...] = (),
    ) -> WaveState:
        """Rename tensors; names that start with one of `unused` are left out.

        Raises ValueError for tensors that are no weights, and for two that would be the same.
        """
        kept: dict[str, Tensor] = {}
        for name, tensor in classic_weight_norm_keys(tensors).items():
            if name.startswith(unused):
                continue
            if not tensor.is_floating_point():
                kind = str(tensor.dtype).removeprefix("torch.")
                raise ValueError(f"{printable(name)} holds {kind}")
            own = rename(name, rules)
            if own in kept:
                raise ValueError(f"it has {printable(own)} twice, once as {printable(name)}")
            kept[own] = tensor
        return cls(kept, settings, hint)

    def build(self, what: str) -> Wav2Vec2:
        """Make the net; each tensor is copied once, up-cast to float32.

        Args:
            what: the file, for messages.

        Returns:
            The net on the CPU, in eval mode, without gradients.

        Raises:
            CheckpointError: these are not the tensors of such a net, or hold values that are not
                numbers.
        """
        try:
            config = infer_config(self.tensors, self.settings)
            with shapes_only():
                net = Wav2Vec2(config)
        except (KeyError, ValueError, IndexError, TypeError, ZeroDivisionError) as error:
            reason = f"no tensor {error}" if isinstance(error, KeyError) else str(error)
            raise CheckpointError(
                f"{what} does not hold a HuBERT-type net: {reason}. {self.hint}"
            ) from error
        if assumed := self.settings.assumptions(config):
            logger.info("%s does not say, so assumed: %s", what, assumed)
        net.to_empty(device="cpu")
        # In half precision the folded weights would be rounded once more.
        position = {
            name: tensor.float()
            for name, tensor in self.tensors.items()
            if name.startswith("position.")
        }
        # The norm runs along the kernel axis.
        folded = fold_weight_norm({**self.tensors, **position}, dim=2)
        load_state(net, folded, what=what, hint=self.hint)
        _check_numbers(net, what)
        return net.eval().requires_grad_(False)


def _check_numbers(net: Wav2Vec2, what: str) -> None:
    for name, tensor in net.state_dict().items():
        # A sum is not finite if one of its terms is not, and needs no memory.
        if not torch.isfinite(tensor.sum()):
            bad = int((~torch.isfinite(tensor)).sum()) or "some"  # so large that the sum overflows
            raise CheckpointError(
                f"{what}: the tensor {name} holds {bad} values of {tensor.numel()} that are not "
                "numbers (NaN or infinite): the file is damaged; copy or download it again"
            )


def infer_config(tensors: Mapping[str, Tensor], settings: WaveSettings) -> Wav2Vec2Config:
    """Read the sizes from the tensors (spec_encoders 5.3).

    Args:
        tensors: by the net's own names; ``position.weight_g`` and ``position.weight_v`` in place
            of ``position.weight``. On any device, the values are not read.
        settings: what shapes cannot tell.

    Returns:
        The sizes.

    Raises:
        KeyError, ValueError, ...: these are not the tensors of such a net.
    """
    convs = [tensors[f"frontend.{i}.conv.weight"] for i in range(len(CONV_KERNELS))]
    check_kernels([weight.shape[2] for weight in convs], CONV_STRIDES)
    layer_norm = "frontend.1.norm.weight" in tensors
    dim = len(tensors["norm.weight"])
    n_layers = _count_layers(tensors)
    n_heads, head_dim = _heads(tensors, settings, dim, n_layers)
    ffn_dims = settings.ffn_dims
    if ffn_dims is None:
        ffn_dims = (len(tensors["layers.0.fc1.weight"]),) * n_layers
    position = tensors["position.weight_v"]
    projection = tensors.get("final_projection.weight")
    buckets = _relative_buckets(tensors)
    distance, normalize = settings.relative_distance, settings.normalize_wave
    return Wav2Vec2Config(
        conv_channels=tuple(weight.shape[0] for weight in convs),
        conv_bias="frontend.0.conv.bias" in tensors,
        conv_layer_norm=layer_norm,
        dim=dim,
        n_heads=n_heads,
        ffn_dims=ffn_dims,
        head_dim=head_dim,
        pre_norm=layer_norm if settings.pre_norm is None else settings.pre_norm,
        position_kernel=position.shape[2],
        position_groups=dim // position.shape[1],
        projection_dim=None if projection is None else len(projection),
        feature_scale="feature_scale" in tensors,
        relative_buckets=buckets,
        relative_distance=800 if distance is None else distance,
        soft=settings.soft,
        normalize_wave=(buckets > 0 and layer_norm) if normalize is None else normalize,
    )


def _count_layers(tensors: Mapping[str, Tensor]) -> int:
    layers = {int(m[1]) for name in tensors if (m := re.match(r"layers\.(\d+)\.", name))}
    if not layers or layers != set(range(len(layers))):
        raise ValueError(f"layers {printable(str(sorted(layers)))} are not numbered without gaps")
    return len(layers)


def _heads(
    tensors: Mapping[str, Tensor], settings: WaveSettings, dim: int, n_layers: int
) -> tuple[tuple[int, ...], int]:
    """Heads of each layer, and channels per head."""
    stated = settings.n_heads
    if isinstance(stated, tuple):
        if len(stated) != n_layers or len(settings.ffn_dims or stated) != n_layers:
            raise ValueError(f"its config describes {len(stated)} layers and it has {n_layers}")
        return stated, settings.head_dim or HEAD_DIM
    gate = tensors.get("layers.0.attention.gate.weight")
    if stated is None:
        stated = dim // (HEAD_DIM if gate is None else gate.shape[1])
    if stated < 1 or dim % stated:
        raise ValueError(f"{stated} attention heads do not divide {dim} channels")
    return (stated,) * n_layers, dim // stated


def _relative_buckets(tensors: Mapping[str, Tensor]) -> int:
    table = tensors.get("relative_bias.table.weight")
    gated = "layers.0.attention.gate.weight" in tensors
    if (table is not None) != gated:
        lacking = "the gates of its" if table is not None else "the table of"
        raise ValueError(f"{lacking} relative position bias is absent: not WavLM as published")
    return 0 if table is None else len(table)
