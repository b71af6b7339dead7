"""The plain path that encoders.py compares with: one clip at a time, float32, the whole clip in one
pass, attention written out with all its scores in memory, GroupNorm as a layer.

That is how so-vits-svc 4.1 runs its encoders (spec_encoders 2, 4, 7-10), on the same weights as
ours. Used by scripts/bench/encoders.py and tests/scripts/test_bench.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from svc.audio.frames import expand_units
from svc.audio.mel import whisper_mel
from svc.speech.frontend import CONV_STRIDES
from svc.speech.wav2vec2 import Wav2Vec2
from svc.speech.whisper import Whisper

State = Mapping[str, Tensor]


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """(heads, S, c) three times -> (heads, S, c), through the scores (heads, S, S)."""
    scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
    if bias is not None:
        scores = scores + bias
    return torch.softmax(scores, dim=-1) @ value


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def layer_norm(state: State, name: str, x: Tensor) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.layer_norm(x, weight.shape, weight, state[f"{name}.bias"])


def heads_of(x: Tensor, n_heads: int) -> Tensor:
    """(S, heads * c) -> (heads, S, c)."""
    return x.unflatten(1, (n_heads, -1)).transpose(0, 1)


def self_attention(
    state: State, name: str, x: Tensor, n_heads: int, bias: Tensor | None = None
) -> Tensor:
    query, key, value = (
        heads_of(linear(state, f"{name}.{part}", x), n_heads) for part in ("query", "key", "value")
    )
    mixed = attend(query, key, value, bias).transpose(0, 1).flatten(1)
    return linear(state, f"{name}.out", mixed)


class PlainWave:
    """A net of the wav2vec 2.0 family; arguments as of `Wav2Vec2Encoder`."""

    def __init__(
        self,
        net: Wav2Vec2,
        *,
        layer: int | None = None,
        project: bool = False,
        padding: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.device = net.config, torch.device(device)
        self.state = {k: v.detach().to(device).contiguous() for k, v in net.state_dict().items()}
        self.layer, self.project, self.padding = layer, project, padding
        self.buckets = net.relative_bias.buckets if net.relative_bias is not None else None

    @torch.no_grad()
    def encode(self, wav: Tensor) -> Tensor:
        """(T,) -> (1, C, S)."""
        state, config = self.state, self.config
        wav = F.pad(wav.to(self.device), (self.padding, self.padding))
        if config.normalize_wave:
            wav = F.layer_norm(wav, wav.shape)
        x = self._front(wav)
        if config.feature_scale:
            x = x * state["feature_scale"]
        x = linear(state, "input_projection", layer_norm(state, "input_norm", x))
        x = x + self._positions(x)
        if not config.pre_norm:
            x = layer_norm(state, "norm", x)
        bias = self._relative_bias(len(x))
        for index in range(self.layer or config.n_layers):
            x = self._block(index, x, bias)
        if config.pre_norm and self.layer is None:
            x = layer_norm(state, "norm", x)
        if self.project:
            x = linear(state, "final_projection", x)
        return x.T[None]

    def _front(self, wav: Tensor) -> Tensor:
        """(T,) -> (S, C)."""
        state, x = self.state, wav[None, None]
        for index, stride in enumerate(CONV_STRIDES):
            name = f"frontend.{index}"
            x = F.conv1d(x, state[f"{name}.conv.weight"], state.get(f"{name}.conv.bias"), stride)
            if self.config.conv_layer_norm:
                x = layer_norm(state, f"{name}.norm", x.transpose(1, 2)).transpose(1, 2)
            elif index == 0:
                weight = state[f"{name}.norm.weight"]
                x = F.group_norm(x, len(weight), weight, state[f"{name}.norm.bias"])
            x = F.gelu(x)
        return x[0].T

    def _positions(self, x: Tensor) -> Tensor:
        config = self.config
        y = F.conv1d(
            x.T[None],
            self.state["position.weight"],
            self.state["position.bias"],
            padding=config.position_kernel // 2,
            groups=config.position_groups,
        )
        return F.gelu(y[0, :, : len(x)].T)

    def _relative_bias(self, n_frames: int) -> Tensor | None:
        """(heads, S, S)."""
        if self.buckets is None:
            return None
        place = torch.arange(n_frames, device=self.device)
        table = self.state["relative_bias.table.weight"]
        return F.embedding(self.buckets(place[None] - place[:, None]), table).permute(2, 0, 1)

    def _block(self, index: int, x: Tensor, bias: Tensor | None) -> Tensor:
        state, name = self.state, f"layers.{index}"
        n_heads = self.config.n_heads[index]

        def attended(x: Tensor) -> Tensor | int:
            if not n_heads:
                return 0
            gated = None if bias is None else self._gate(f"{name}.attention", x, n_heads) * bias
            return self_attention(state, f"{name}.attention", x, n_heads, gated)

        def fed(x: Tensor) -> Tensor | int:
            if not self.config.ffn_dims[index]:
                return 0
            return linear(state, f"{name}.fc2", F.gelu(linear(state, f"{name}.fc1", x)))

        if self.config.pre_norm:
            x = x + attended(layer_norm(state, f"{name}.attention_norm", x))
            return x + fed(layer_norm(state, f"{name}.ffn_norm", x))
        x = layer_norm(state, f"{name}.attention_norm", x + attended(x))
        return layer_norm(state, f"{name}.ffn_norm", x + fed(x))

    def _gate(self, name: str, x: Tensor, n_heads: int) -> Tensor:
        """WavLM's factor on the position bias: (heads, S, 1)."""
        pairs = linear(self.state, f"{name}.gate", heads_of(x, n_heads)).unflatten(-1, (2, 4))
        a, b = pairs.sum(-1).sigmoid().split(1, dim=-1)
        return a * (b * self.state[f"{name}.gate_scale"][0] - 1) + 2


class PlainWhisper:
    """Whisper's encoder, up to 30 s; the original cuts what is longer."""

    def __init__(self, net: Whisper, *, device: torch.device | str = "cpu") -> None:
        self.config, self.device = net.config, torch.device(device)
        self.state = {k: v.detach().to(device).contiguous() for k, v in net.state_dict().items()}
        self.mel = whisper_mel(net.config.n_mels)

    @torch.no_grad()
    def encode(self, wav: Tensor) -> Tensor:
        """(T,) -> (1, C, S)."""
        state, length = self.state, 320 * self.config.n_positions
        n_frames = len(wav) // 320
        x = self.mel(F.pad(wav.to(self.device), (0, length - len(wav)))[None])
        x = F.gelu(F.conv1d(x, state["conv1.weight"], state["conv1.bias"], padding=1))
        x = F.gelu(F.conv1d(x, state["conv2.weight"], state["conv2.bias"], stride=2, padding=1))
        x = x[0].T + state["positional_embedding"]
        for index in range(self.config.n_layers):
            name = f"blocks.{index}"
            normed = layer_norm(state, f"{name}.attn_ln", x)
            x = x + self_attention(state, f"{name}.attn", normed, self.config.n_heads)
            normed = layer_norm(state, f"{name}.mlp_ln", x)
            x = x + linear(state, f"{name}.mlp.2", F.gelu(linear(state, f"{name}.mlp.0", normed)))
        return layer_norm(state, "ln_post", x)[:n_frames].T[None]


class PlainFusion:
    """Both encoders one after the other, the shorter units stretched, concatenated."""

    def __init__(self, *parts: PlainWave | PlainWhisper) -> None:
        self.parts = parts

    @torch.no_grad()
    def encode(self, wav: Tensor) -> Tensor:
        """(T,) -> (1, C, S)."""
        units = [part.encode(wav) for part in self.parts]
        longest = max(part.shape[-1] for part in units)
        return torch.cat([expand_units(part, longest, "left") for part in units], dim=1)


Plain = PlainWave | PlainWhisper | PlainFusion
