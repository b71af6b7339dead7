from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from svc.synthesizer import attention
from svc.synthesizer.attention import CausalAttention, CausalStack, EncoderStack, RelativeAttention


def written_out(layer: RelativeAttention, x: Tensor, mask: Tensor | None) -> Tensor:
    """Shaw et al. as in spec_core 2.2, with one loop per index."""
    heads, window = layer.n_heads, layer.window
    batch, channels, length = x.shape
    d = channels // heads
    q, k, v = layer.conv_q(x), layer.conv_k(x), layer.conv_v(x)
    out = torch.zeros_like(x)
    for b in range(batch):
        for h in range(heads):
            rows = slice(h * d, (h + 1) * d)
            for i in range(length):
                query = q[b, rows, i] / math.sqrt(d)
                scores = []
                for j in range(length):
                    score = query @ k[b, rows, j]
                    if abs(j - i) <= window:
                        score = score + query @ layer.emb_rel_k[0, j - i + window]
                    if mask is not None and mask[b, 0, j] == 0:
                        score = torch.tensor(-1e4)
                    scores.append(score)
                p = torch.stack(scores).softmax(0)
                for j in range(length):
                    value = v[b, rows, j]
                    if abs(j - i) <= window:
                        value = value + layer.emb_rel_v[0, j - i + window]
                    out[b, rows, i] += p[j] * value
    result: Tensor = layer.conv_o(out)
    return result


def relative(window: int = 4) -> RelativeAttention:
    torch.manual_seed(0)
    return RelativeAttention(8, 2, window=window, p_dropout=0.0)


@pytest.mark.parametrize("length", [1, 2, 4, 5, 9, 13])
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_relative_attention_equals_the_formula(length: int, masked: bool) -> None:
    layer, x = relative(), torch.randn(2, 8, length)
    mask = torch.ones(2, 1, length)
    mask[1, :, max(1, length - 3) :] = 0
    found = layer(x, mask if masked else None)
    expected = written_out(layer, x, mask if masked else None)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 3, 12, 25])
def test_blocks_of_queries_change_nothing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = relative(), torch.randn(2, 8, 25)
    mask = torch.ones(2, 1, 25)
    mask[1, :, 20:] = 0
    whole = layer(x, mask)
    monkeypatch.setattr(attention, "_MAX_SCORES", rows * 2 * 2 * 25)
    with torch.no_grad():
        assert torch.allclose(layer(x, mask), whole, atol=1e-6)


def test_gradients_equal_those_of_the_formula() -> None:
    layer, x = relative(window=2), torch.randn(1, 8, 6)
    names = [name for name, _ in layer.named_parameters()]
    weights = torch.randn(1, 8, 6)
    ours = torch.autograd.grad((layer(x) * weights).sum(), list(layer.parameters()))
    theirs = torch.autograd.grad(
        (written_out(layer, x, None) * weights).sum(), list(layer.parameters())
    )
    for name, mine, other in zip(names, ours, theirs, strict=True):
        assert torch.allclose(mine, other, atol=1e-4), name


def test_dropout_acts_on_the_probabilities_while_training() -> None:
    layer, x = relative(), torch.randn(1, 8, 9)
    layer.p_dropout = 0.5
    assert not torch.equal(layer.train()(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))


@pytest.mark.parametrize("length", [1, 7])
def test_causal_attention_equals_the_formula(length: int) -> None:
    torch.manual_seed(0)
    layer, x = CausalAttention(8, 2, p_dropout=0.1).eval(), torch.randn(2, 8, length)
    q, k, v = (
        conv(x).view(2, 2, 4, length).transpose(2, 3)
        for conv in (layer.conv_q, layer.conv_k, layer.conv_v)
    )
    scores = q @ k.transpose(2, 3) / 2
    scores = scores.masked_fill(torch.ones(length, length).tril() == 0, -1e4)
    out = (scores.softmax(-1) @ v).transpose(2, 3).reshape(2, 8, length)
    assert torch.allclose(layer(x), layer.conv_o(out), atol=1e-6)


def test_causal_stack_never_looks_ahead() -> None:
    torch.manual_seed(0)
    stack = CausalStack(
        8, 12, n_heads=2, n_layers=2, kernel_size=5, p_dropout=0.1, gin_channels=3
    ).eval()
    x, g, mask = torch.randn(1, 8, 10), torch.randn(1, 3, 1), torch.ones(1, 1, 10)
    later = x.clone()
    later[..., 6:] += 1
    a, b = stack(x, mask, g), stack(later, mask, g)
    assert torch.allclose(a[..., :6], b[..., :6], atol=1e-6)
    assert (a[..., 6:] - b[..., 6:]).abs().max() > 1e-2
    assert (stack(x, mask, -g) - a).abs().max() > 1e-2


def test_keys_start_as_queries_in_causal_attention_only() -> None:
    causal = CausalAttention(8, 2, p_dropout=0.0)
    assert torch.equal(causal.conv_k.weight, causal.conv_q.weight)
    assert not torch.equal(relative().conv_k.weight, relative().conv_q.weight)


def test_padding_does_not_change_an_encoded_clip() -> None:
    torch.manual_seed(0)
    stack = EncoderStack(8, 12, n_heads=2, n_layers=2, kernel_size=3, p_dropout=0.1).eval()
    x = torch.randn(1, 8, 9)
    alone = stack(x, torch.ones(1, 1, 9))
    padded = torch.cat([x, torch.randn(1, 8, 5)], dim=2)
    mask = torch.ones(1, 1, 14)
    mask[..., 9:] = 0
    found = stack(padded, mask)
    assert torch.allclose(found[..., :9], alone, atol=1e-6)
    assert found[..., 9:].abs().max() == 0
