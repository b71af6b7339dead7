"""The nets of a voice with nothing made faster: as so-vits-svc 4.1 computes them (spec_core 2-4).

Written from the description, as functions on the parameters of our nets, so that both sides start
from the same weights: 1-D convolutions in torch's own layout, attention with all its scores in
memory and the relative positions by shifting padded rows, the harmonic source summed sample by
sample, the prior sampled for nothing, the discriminators on one input at a time. Used by
scripts/bench/train_plain.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svc.config import ModelConfig
from svc.vocoder.convolution import convolve, convolve_columns, convolve_transposed
from svc.vocoder.discriminator import PERIODS

WINDOW = 4  # frames to each side that have a relative position
SLOPE = 0.1
N_HARMONICS, AMPLITUDE, NOISE_STD = 9, 0.1, 0.003


@dataclass(frozen=True)
class Weights:
    """Parameters by name."""

    tensors: Mapping[str, nn.Parameter]
    channels_last: bool = False
    """Convolve in the layout of our trainer."""

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def conv(self, name: str, x: Tensor, **options: int) -> Tensor:
        """A convolution, (B, in, T) -> (B, out, T') or (B, in, H, W) -> (B, out, H', W)."""
        weight, bias = self._weight(name), self.tensors.get(f"{name}.bias")
        if x.dim() == 4:
            if self.channels_last:
                return convolve_columns(x, weight, bias, **options)
            stride, padding = (options.get("stride", 1), 1), (options.get("padding", 0), 0)
            return F.conv2d(x, weight, bias, stride, padding)
        return (convolve if self.channels_last else F.conv1d)(x, weight, bias, **options)

    def conv_transposed(self, name: str, x: Tensor, **options: int) -> Tensor:
        """A transposed convolution, (B, in, T) -> (B, out, T')."""
        conv = convolve_transposed if self.channels_last else F.conv_transpose1d
        return conv(x, self._weight(name), self[f"{name}.bias"], **options)

    def _weight(self, name: str) -> Tensor:
        plain = self.tensors.get(f"{name}.weight")
        if plain is not None:
            return plain
        return torch._weight_norm(self[f"{name}.weight_v"], self[f"{name}.weight_g"], 0)


# ---- shared parts --------------------------------------------------------------------------------


def layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    gamma, beta = w[f"{name}.gamma"], w[f"{name}.beta"]
    x = F.layer_norm(x.transpose(1, -1), gamma.shape, gamma, beta, 1e-5)
    return x.transpose(1, -1)


def gate(a: Tensor) -> Tensor:
    half = a.shape[1] // 2
    return torch.tanh(a[:, :half]) * torch.sigmoid(a[:, half:])


def wavenet(w: Weights, name: str, x: Tensor, mask: Tensor, g: Tensor, n_layers: int) -> Tensor:
    """The gated stack, (B, H, T) -> (B, H, T)."""
    hidden = x.shape[1]
    conditions = w.conv(f"{name}.cond_layer", g)
    output = torch.zeros_like(x)
    for i in range(n_layers):
        layer = f"{name}.in_layers.{i}"
        if f"{layer}.point_conv.weight_v" in w.tensors:
            a = w.conv(f"{layer}.depth_conv", x, padding=2, groups=hidden)
            a = w.conv(f"{layer}.point_conv", a)
        else:
            a = w.conv(layer, x, padding=2)
        a = a + conditions[:, 2 * hidden * i : 2 * hidden * (i + 1)]
        result = w.conv(f"{name}.res_skip_layers.{i}", gate(a))
        if i < n_layers - 1:
            x = (x + result[:, :hidden]) * mask
            output = output + result[:, hidden:]
        else:
            output = output + result
    return output * mask


def heads(w: Weights, name: str, x: Tensor, n_heads: int) -> list[Tensor]:
    """q, k and v, each (B, heads, T, d)."""
    return [
        w.conv(f"{name}.conv_{part}", x).view(len(x), n_heads, -1, x.shape[2]).transpose(2, 3)
        for part in "qkv"
    ]


def near(table: Tensor, length: int) -> Tensor:
    """Terms (1, 2w + 1, d) of the positions -(T - 1) ... T - 1, zero outside the window."""
    extra = max(length - (WINDOW + 1), 0)
    first = max(WINDOW + 1 - length, 0)
    return F.pad(table, (0, 0, extra, extra))[:, first : first + 2 * length - 1]


def to_absolute(x: Tensor) -> Tensor:
    """Scores by offset (B, heads, T, 2T - 1) -> by key (B, heads, T, T): every row one further."""
    batch, n_heads, length, _ = x.shape
    rows = F.pad(x, (0, 1)).flatten(2)
    rows = F.pad(rows, (0, length - 1)).view(batch, n_heads, length + 1, 2 * length - 1)
    return rows[:, :, :length, length - 1 :]


def to_relative(x: Tensor) -> Tensor:
    """Weights by key (B, heads, T, T) -> by offset (B, heads, T, 2T - 1)."""
    batch, n_heads, length, _ = x.shape
    rows = F.pad(F.pad(x, (0, length - 1)).flatten(2), (length, 0))
    return rows.view(batch, n_heads, length, 2 * length)[:, :, :, 1:]


def attention(
    w: Weights, name: str, x: Tensor, mask: Tensor, n_heads: int, dropout: float, relative: bool
) -> Tensor:
    q, k, v = heads(w, name, x, n_heads)
    length = x.shape[2]
    q = q / math.sqrt(q.shape[3])
    scores = q @ k.transpose(-2, -1)
    if relative:
        table = near(w[f"{name}.emb_rel_k"], length)
        scores = scores + to_absolute(q @ table[None].transpose(-2, -1))
    weights = F.dropout(scores.masked_fill(mask == 0, -1e4).softmax(-1), dropout)
    out = weights @ v
    if relative:
        out = out + to_relative(weights) @ near(w[f"{name}.emb_rel_v"], length)[None]
    return w.conv(f"{name}.conv_o", out.transpose(2, 3).reshape(x.shape))


def feed_forward(
    w: Weights, name: str, x: Tensor, mask: Tensor, kernel: int, dropout: float, causal: bool
) -> Tensor:
    sides = (kernel - 1, 0) if causal else ((kernel - 1) // 2, kernel // 2)
    x = F.dropout(torch.relu(w.conv(f"{name}.conv_1", F.pad(x * mask, sides))), dropout)
    return w.conv(f"{name}.conv_2", F.pad(x * mask, sides)) * mask


def transformer(
    w: Weights, name: str, x: Tensor, mask: Tensor, model: ModelConfig, dropout: float, causal: bool
) -> Tensor:
    """The prior encoder's stack, or the F0 decoder's."""
    attended, first, second = (
        ("self_attn_layers", "norm_layers_0", "norm_layers_1")
        if causal
        else ("attn_layers", "norm_layers_1", "norm_layers_2")
    )
    seen = mask[:, :, None] * mask[:, :, :, None]
    if causal:
        seen = torch.ones(x.shape[2], x.shape[2], device=x.device).tril()[None, None]
    x = x * mask
    for i in range(model.n_layers):
        y = attention(
            w, f"{name}.{attended}.{i}", x, seen, model.n_heads, dropout, relative=not causal
        )
        x = layer_norm(w, f"{name}.{first}.{i}", x + F.dropout(y, dropout))
        y = feed_forward(w, f"{name}.ffn_layers.{i}", x, mask, model.kernel_size, dropout, causal)
        x = layer_norm(w, f"{name}.{second}.{i}", x + F.dropout(y, dropout))
    return x * mask


def flow(w: Weights, z: Tensor, mask: Tensor, g: Tensor, n_layers: int) -> Tensor:
    """Four couplings with flips between, posterior -> prior."""
    for i in range(0, 8, 2):
        name = f"flow.flows.{i}"
        x0, x1 = torch.split(z, z.shape[1] // 2, 1)
        h = wavenet(w, f"{name}.enc", w.conv(f"{name}.pre", x0) * mask, mask, g, n_layers)
        x1 = w.conv(f"{name}.post", h) * mask + x1 * mask
        z = torch.flip(torch.cat([x0, x1], 1), [1])
    return z


# ---- decoder -------------------------------------------------------------------------------------


def harmonic_source(w: Weights, f0: Tensor, hop: int, rate: int) -> Tensor:
    """Excitation (B, 1, N) of f0 (B, T): F0 repeated per sample, phases summed over samples."""
    with torch.no_grad():
        upsampled = f0[:, None].repeat_interleave(hop, 2).transpose(1, 2)  # (B, N, 1)
        multiples = upsampled * torch.arange(1, N_HARMONICS + 1, device=f0.device)
        turns = (multiples / rate) % 1
        phase = torch.rand(len(f0), N_HARMONICS).to(f0.device)
        phase[:, 0] = 0
        turns[:, 0] = turns[:, 0] + phase
        wrapped = torch.cumsum(turns, 1) % 1
        back = torch.zeros_like(turns)
        back[:, 1:] = ((wrapped[:, 1:] - wrapped[:, :-1]) < 0) * -1.0
        sines = torch.sin(torch.cumsum(turns + back, dim=1) * 2 * math.pi) * AMPLITUDE
        voiced = (upsampled > 0).float()
        level = voiced * NOISE_STD + (1 - voiced) * AMPLITUDE / 3
        sines = sines * voiced + level * torch.randn_like(sines)
    merged = F.linear(sines, w["dec.m_source.l_linear.weight"], w["dec.m_source.l_linear.bias"])
    torch.randn_like(upsampled)  # drawn and dropped
    return torch.tanh(merged).transpose(1, 2)


def residual_block(
    w: Weights, name: str, x: Tensor, kernel: int, dilations: tuple[int, ...]
) -> Tensor:
    if f"{name}.convs1.0.weight_v" in w.tensors:
        for i, dilation in enumerate(dilations[:3]):
            y = F.leaky_relu(x, SLOPE)
            y = w.conv(
                f"{name}.convs1.{i}", y, padding=dilation * (kernel - 1) // 2, dilation=dilation
            )
            y = w.conv(f"{name}.convs2.{i}", F.leaky_relu(y, SLOPE), padding=(kernel - 1) // 2)
            x = y + x
        return x
    for i, dilation in enumerate(dilations[:2]):
        y = w.conv(
            f"{name}.convs.{i}", F.leaky_relu(x, SLOPE),
            padding=dilation * (kernel - 1) // 2, dilation=dilation,
        )  # fmt: skip
        x = y + x
    return x


def decoder(w: Weights, model: ModelConfig, z: Tensor, f0: Tensor, g: Tensor, rate: int) -> Tensor:
    """(B, C, T) -> (B, 1, N)."""
    rates, kernels = model.upsample_rates, model.upsample_kernel_sizes
    sizes = model.resblock_kernel_sizes
    excitation = harmonic_source(w, f0, math.prod(rates), rate)
    x = w.conv("dec.conv_pre", z, padding=3) + w.conv("dec.cond", g)
    for i, (up, kernel) in enumerate(zip(rates, kernels, strict=True)):
        x = F.leaky_relu(x, SLOPE)
        x = w.conv_transposed(f"dec.ups.{i}", x, stride=up, padding=(kernel - up + 1) // 2)
        step = math.prod(rates[i + 1 :])
        sides = {"stride": step, "padding": (step + 1) // 2} if i + 1 < len(rates) else {}
        x = x + w.conv(f"dec.noise_convs.{i}", excitation, **sides)
        blocks = [
            residual_block(w, f"dec.resblocks.{i * len(sizes) + j}", x, size, dilations)
            for j, (size, dilations) in enumerate(
                zip(sizes, model.resblock_dilation_sizes, strict=True)
            )
        ]
        x = torch.stack(blocks).sum(0) / len(blocks)
    return torch.tanh(w.conv("dec.conv_post", F.leaky_relu(x), padding=3))


# ---- discriminator -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """How one convolution of a discriminator is applied."""

    stride: int
    padding: int
    groups: int


def discriminator(w: Weights, layers: list[list[Layer]], wav: Tensor) -> list[list[Tensor]]:
    """Feature maps of every sub-discriminator, the last of each being its scores."""
    everything = []
    for number, stack in enumerate(layers):
        x = wav
        if number:
            period = PERIODS[number - 1]
            x = F.pad(x, (0, -x.shape[2] % period), "reflect")
            x = x.view(len(x), 1, -1, period)
        maps = []
        for i, layer in enumerate(stack):
            name = "conv_post" if i == len(stack) - 1 else f"convs.{i}"
            options = {"stride": layer.stride, "padding": layer.padding}
            if x.dim() == 3:
                options["groups"] = layer.groups
            x = w.conv(f"discriminators.{number}.{name}", x, **options)
            if i < len(stack) - 1:
                x = F.leaky_relu(x, SLOPE)
            maps.append(x)
        everything.append(maps)
    return everything
