"""Convolutions have the same values and gradients in both memory layouts; in float64, where rounding
hides nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from svc.vocoder.convolution import (
    Conv1d,
    LayoutSwitch,
    convolve_columns,
    pad_frames,
    to_channels_last,
    use_channels_last,
)
from svc.vocoder.discriminator import Discriminator
from svc.vocoder.generator import Generator
from svc.vocoder.weight_norm import (
    SpectralNormConv,
    WeightNormConv1d,
    WeightNormConv2d,
    WeightNormConvTranspose1d,
)

CONVS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain": (lambda: Conv1d(6, 8, 5, stride=2, padding=4, dilation=2, groups=2), (3, 6, 31)),
    "plain, no bias": (lambda: Conv1d(6, 8, 3, bias=False), (3, 6, 31)),
    "kernel of one": (lambda: Conv1d(6, 8, 1), (3, 6, 31)),
    "kernel of one, strided": (lambda: Conv1d(6, 8, 1, stride=2), (3, 6, 31)),
    "one channel in": (lambda: Conv1d(1, 4, 8, stride=4, padding=2), (3, 1, 32)),
    "one channel in, kernel of one": (lambda: Conv1d(1, 4, 1), (3, 1, 32)),
    "one channel out": (lambda: WeightNormConv1d(5, 1, 7, padding=3), (3, 5, 31)),
    "weight norm": (
        lambda: WeightNormConv1d(6, 8, 5, stride=2, padding=4, dilation=2, groups=2),
        (3, 6, 31),
    ),
    "depthwise": (lambda: WeightNormConv1d(6, 6, 5, padding=2, groups=6), (3, 6, 31)),
    "transposed": (
        lambda: WeightNormConvTranspose1d(6, 4, 7, stride=3, padding=2, output_padding=1),
        (3, 6, 31),
    ),
    "columns": (lambda: WeightNormConv2d(4, 6, 5, stride=3, padding=2, groups=2), (3, 4, 31, 7)),
    "columns of one channel": (lambda: WeightNormConv2d(1, 6, 5, stride=3, padding=2), (3, 1, 31, 7)),
    "spectral": (lambda: SpectralNormConv(4, 6, 5, ndim=1, stride=2, padding=2), (3, 4, 31)),
    "spectral columns": (lambda: SpectralNormConv(4, 6, 5, ndim=2, padding=2), (3, 4, 31, 7)),
}  # fmt: skip


def values_and_gradients(conv: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    y = conv(x)
    weights = torch.arange(y.numel(), dtype=y.dtype).reshape(y.shape).cos()
    return [y, *torch.autograd.grad((y * weights).sum(), [x, *conv.parameters()])]


@pytest.mark.parametrize("name", CONVS)
@pytest.mark.parametrize("given", ["default", "channels last", "every other"])
def test_both_layouts_give_the_same(name: str, given: str) -> None:
    torch.manual_seed(0)
    make, shape = CONVS[name]
    conv = make().double().eval()
    x = torch.randn(*shape, dtype=torch.float64)
    if given == "channels last":
        x = x.transpose(1, -1).contiguous().transpose(1, -1)
    elif given == "every other":  # of memory that is twice as large
        x = torch.stack([x, x], dim=-1)[..., 0]
    expected = values_and_gradients(conv, x)
    use_channels_last(conv)
    for found, wanted in zip(values_and_gradients(conv, x), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)
    use_channels_last(conv, False)
    assert torch.equal(values_and_gradients(conv, x)[0], expected[0])


@pytest.mark.parametrize(
    "name", [name for name in CONVS if "columns" not in name and "channel out" not in name]
)
def test_the_channels_of_a_frame_lie_side_by_side(name: str) -> None:
    make, shape = CONVS[name]
    conv = make()
    use_channels_last(conv)
    assert conv(torch.randn(*shape)).stride(1) == 1


def test_layout_helpers_keep_values_and_copy_only_when_they_must() -> None:
    x = torch.randn(2, 5, 7)
    last = to_channels_last(x)
    assert torch.equal(last, x)
    assert last.stride() == (35, 1, 5)
    assert to_channels_last(last).data_ptr() == last.data_ptr()
    single = torch.randn(2, 1, 7)
    assert to_channels_last(single).data_ptr() == single.data_ptr()
    assert to_channels_last(single).stride() == (7, 1, 1)
    padded = pad_frames(last, 2, 1, channels_last=True)
    assert torch.equal(padded, pad_frames(x, 2, 1, channels_last=False))
    assert padded.stride(1) == 1


@pytest.mark.parametrize("snake", [False, True])
def test_a_generator_sings_the_same(snake: bool) -> None:
    torch.manual_seed(0)
    net = Generator(
        6, initial_channels=16, upsample_rates=(4, 2, 2), upsample_kernel_sizes=(8, 4, 5),
        resblock="1", resblock_kernel_sizes=(3, 5), resblock_dilation_sizes=((1, 3, 5),) * 2,
        sampling_rate=8000, gin_channels=3, snake=snake,
    ).double()  # fmt: skip
    x, f0, g = (
        torch.randn(2, 6, 9).double(),
        torch.full((2, 9), 200.0),
        torch.randn(2, 3, 1).double(),
    )
    random = net.m_source.draw(2, 9, generator=None, device=f0.device)
    expected = net(x, f0, g, random=random)
    names = list(net.state_dict())
    use_channels_last(net)
    torch.testing.assert_close(net(x, f0, g, random=random), expected, rtol=1e-11, atol=1e-12)
    assert list(net.state_dict()) == names


def test_the_switch_reaches_every_convolution_of_a_discriminator() -> None:
    net = Discriminator(width=0.05)
    convs = [part for part in net.modules() if isinstance(part, LayoutSwitch)]
    assert len(convs) == 7 + 5 * 6
    assert not any(conv.channels_last for conv in convs)
    use_channels_last(net)
    assert all(conv.channels_last for conv in convs)


def test_few_rows_in_bfloat16_take_up_no_stray_memory() -> None:
    """With the matrix units' kernels one row that is left was made from memory nobody had written."""
    weight, x = torch.ones(16, 16, 5, 1), torch.ones(2, 16, 3, 11)
    for _ in range(5):
        stray = [torch.full((2**n,), torch.nan, dtype=torch.bfloat16) for n in range(4, 17)] * 12
        del stray
        with torch.autocast("cpu", torch.bfloat16):
            made = convolve_columns(x, weight, None, stride=3, padding=2)
        assert made.shape == (2, 16, 1, 11)
        assert bool((made.float() == 48.0).all())  # 3 rows of 16 channels
