"""The net against torch's own Transformer layers, and padding that changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svc.speech.attention import GatedAttention, RelativeBias, SelfAttention
from svc.speech.wav2vec2 import TransformerLayer, Wav2Vec2, Wav2Vec2Config

MakeNet = Callable[..., Wav2Vec2]


def noise(n: int, seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(n, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("pre_norm", [False, True])
def test_a_layer_is_torchs_transformer_layer(random_net: MakeNet, pre_norm: bool) -> None:
    config = replace(random_net("base").config, dim=32, n_heads=(4,), ffn_dims=(48,), head_dim=8)
    ours = TransformerLayer(replace(config, pre_norm=pre_norm), 0)
    theirs = nn.TransformerEncoderLayer(
        32, 4, 48, dropout=0.0, activation="gelu", batch_first=True, norm_first=pre_norm
    )
    attention = ours.attention
    assert attention is not None
    parts = (attention.query, attention.key, attention.value)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
        theirs.self_attn.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.self_attn.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        for mine, other in (
            (attention.out, theirs.self_attn.out_proj),
            (ours.fc1, theirs.linear1),
            (ours.fc2, theirs.linear2),
            (ours.attention_norm, theirs.norm1),
            (ours.ffn_norm, theirs.norm2),
        ):
            other.load_state_dict(mine.state_dict())
        x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-4, rtol=1e-5)


def test_attention_from_the_first_positions_only() -> None:
    attention = SelfAttention(32, 4)
    x = torch.randn(1, 20, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(attention(x, 7), attention(x)[:, :7])


def test_distance_buckets_are_those_of_the_paper() -> None:
    """Spec_encoders 10.1, written out for one distance at a time."""
    bias = RelativeBias(2, 320, 800)

    def bucket(d: int) -> int:
        offset, a = (160 if d > 0 else 0), abs(d)
        if a < 80:
            return offset + a
        far = torch.log(torch.tensor(a / 80, dtype=torch.float32)) / math.log(10) * 80
        return offset + min(80 + int(far), 159)

    distances = torch.arange(-1600, 1601)
    assert bias.buckets(distances).tolist() == [bucket(int(d)) for d in distances]
    assert bias.buckets(distances).unique().numel() == 319  # distance 0 has no positive side
    table = bias(7)
    assert table.shape == (2, 7, 7)
    query, key = 2, 5
    assert torch.equal(table[:, query, key], bias.table.weight[bucket(key - query)])


def test_gated_attention_written_out(random_net: MakeNet) -> None:
    """Spec_encoders 10.1 line by line, with plain softmax."""
    net = random_net("wavlm").double()
    attention = net.layers[0].attention
    assert isinstance(attention, GatedAttention)
    assert net.relative_bias is not None
    x = torch.randn(1, 11, 64, generator=torch.Generator().manual_seed(0)).double()
    table = net.relative_bias(11)
    ours = attention(x, bias=attention.gated(x, table))
    heads = []
    q, k, v = (part(x)[0] for part in (attention.query, attention.key, attention.value))
    for h in range(2):
        part = slice(32 * h, 32 * h + 32)
        eight = F.linear(x[0, :, part], attention.gate.weight, attention.gate.bias)
        a, b = torch.sigmoid(eight[:, :4].sum(1)), torch.sigmoid(eight[:, 4:].sum(1))
        gate = a * (b * attention.gate_scale[0, h] - 1) + 2
        scores = q[:, part] @ k[:, part].T / math.sqrt(32) + gate.view(-1, 1) * table[h]
        heads.append(scores.softmax(-1) @ v[:, part])
    expected = attention.out(torch.cat(heads, dim=1))
    # The gate is computed in float32, as the sigmoid of the original is.
    torch.testing.assert_close(ours[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["base", "large", "wavlm", "pruned"])
def test_padding_changes_nothing(random_net: MakeNet, kind: str) -> None:
    net = random_net(kind).double()
    lengths = [9000, 400, 5000, 8999]
    waves = [noise(n, seed).double() for seed, n in enumerate(lengths)]
    batch = torch.stack([F.pad(wave, (0, 9000 - len(wave))) for wave in waves])
    for layer in (1, None):
        together = net(batch, layer, lengths=torch.tensor(lengths))
        for wave, item in zip(waves, together):
            alone = net(wave[None], layer)[0]
            # 1e-6 and not less only for WavLM, whose gate is float32.
            torch.testing.assert_close(item[: len(alone)], alone, atol=1e-6, rtol=0)


def test_a_pruned_part_leaves_its_norm(random_net: MakeNet) -> None:
    """Spec_encoders 9, difference 4."""
    config = random_net("pruned").config
    assert config.n_heads == (2, 0, 1)
    assert config.ffn_dims == (96, 40, 0)
    x = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(0))
    _, headless, unfed = random_net("pruned").layers
    y = headless.attention_norm(x)
    y = headless.ffn_norm(y + headless.fc2(F.gelu(headless.fc1(y))))
    torch.testing.assert_close(headless(x), y)
    z = unfed.ffn_norm(unfed.attention_norm(x + unfed.attention(x)))
    torch.testing.assert_close(unfed(x), z)


def test_a_layer_is_not_computed_in_vain(random_net: MakeNet) -> None:
    net = random_net("base")
    called = []
    for index, layer in enumerate(net.layers):
        layer.register_forward_hook(lambda *_, index=index: called.append(index))
    net(noise(4000)[None], 2)
    assert called == [0, 1]


def test_the_end_of_a_pre_norm_net_is_normalised(random_net: MakeNet) -> None:
    net = random_net("large")
    last, end = net(noise(4000)[None], 3), net(noise(4000)[None])
    torch.testing.assert_close(end, net.norm(last))


def test_sizes_of_the_released_nets() -> None:
    """Parameters of HuBERT base without its training parts."""
    with torch.device("meta"):
        net = Wav2Vec2(
            Wav2Vec2Config(
                conv_channels=(512,) * 7,
                conv_bias=False,
                conv_layer_norm=False,
                dim=768,
                n_heads=(12,) * 12,
                ffn_dims=(3072,) * 12,
                head_dim=64,
                pre_norm=False,
                position_kernel=128,
                position_groups=16,
                projection_dim=None,
            )
        )
    # 94.4 million with the gains of the weight norm (128), which are folded here.
    assert sum(parameter.numel() for parameter in net.parameters()) == 94_370_816 - 128 + 128
