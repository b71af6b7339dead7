from __future__ import annotations

import math

import pytest
import torch

from svc.vocoder.snake import SnakeAlias, kaiser_sinc_filter


def test_filter_has_the_values_of_the_specification() -> None:
    half = [0.00202896, 0.00938947, -0.02554346, -0.05765738, 0.12857258, 0.44320980]
    taps = kaiser_sinc_filter()
    assert taps.shape == (1, 1, 12)
    assert torch.allclose(taps[0, 0], torch.tensor(half + half[::-1]), atol=5e-8)
    assert taps.sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("length", [1, 2, 7, 64])
def test_keeps_the_length(length: int) -> None:
    assert SnakeAlias(3)(torch.randn(2, 3, length)).shape == (2, 3, length)


def test_a_constant_passes_through_snake() -> None:
    snake = SnakeAlias(2)
    with torch.no_grad():
        snake.act.alpha.copy_(torch.tensor([0.3, -0.4]))
        snake.act.beta.copy_(torch.tensor([0.1, 0.6]))
        found = snake(torch.full((1, 2, 50), 0.7))
    for channel, (alpha, beta) in enumerate([(0.3, 0.1), (-0.4, 0.6)]):
        expected = 0.7 + math.sin(0.7 * math.exp(alpha)) ** 2 / math.exp(beta)
        # The polyphase branches of the filter sum to 0.4998 and 0.5002, hence the ripple.
        assert torch.allclose(found[0, channel], torch.tensor(expected), atol=2e-3)


def test_equals_the_steps_of_the_specification() -> None:
    """spec_core 3.3: pad 5, depthwise transposed, times 2, crop 15; snake; pad 5 and 6, stride 2."""
    torch.manual_seed(0)
    snake = SnakeAlias(3)
    x = torch.randn(2, 3, 11)
    f = torch.nn.functional
    taps = kaiser_sinc_filter().expand(3, 1, 12)
    with torch.no_grad():
        up = f.conv_transpose1d(f.pad(x, (5, 5), mode="replicate"), taps, stride=2, groups=3)
        up = (2 * up)[..., 15:-15]
        assert up.shape[-1] == 22
        active = up + torch.sin(up) ** 2 / (1 + 1e-9)
        expected = f.conv1d(f.pad(active, (5, 6), mode="replicate"), taps, stride=2, groups=3)
        assert torch.allclose(snake(x), expected, atol=1e-6)


def test_aliasing_is_lower_than_of_plain_snake() -> None:
    time = torch.arange(4096)
    # sin² makes even harmonics: the fourth, at 0.82, folds to 0.18.
    x = 2 * torch.sin(2 * math.pi * 0.205 * time)[None, None]
    window = torch.hann_window(4096)
    bin_of_alias = round(0.18 * 4096)

    def alias(y: torch.Tensor) -> float:
        spectrum = torch.fft.rfft(y[0, 0] * window).abs()
        return spectrum[bin_of_alias - 3 : bin_of_alias + 4].max().item()

    with torch.no_grad():
        assert alias(SnakeAlias(1)(x)) < 0.1 * alias(x + torch.sin(x) ** 2)


def test_half_precision_and_gradients() -> None:
    snake = SnakeAlias(2)
    assert sorted(snake.state_dict()) == [
        "act.alpha",
        "act.beta",
        "downsample.lowpass.filter",
        "upsample.filter",
    ]
    assert len(list(snake.parameters())) == 2
    snake(torch.randn(1, 2, 9)).sum().backward()
    assert snake.act.alpha.grad is not None
    half = snake.to(torch.bfloat16)(torch.randn(1, 2, 9, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16
