from __future__ import annotations

import pytest
import torch
from torch import Tensor

from svc.vocoder.discriminator import (
    _PERIOD_LAYERS,
    _SCALE_LAYERS,
    PERIODS,
    Discriminator,
    PeriodDiscriminator,
    scaled_layers,
)


@pytest.mark.parametrize("width", [0.01, 0.125, 0.25, 0.3, 0.77, 1.0, 1.5])
def test_every_width_keeps_groups_valid(width: float) -> None:
    for layers in (_SCALE_LAYERS, _PERIOD_LAYERS):
        before = 1
        for scaled, layer in zip(scaled_layers(layers, width), layers, strict=True):
            assert before % scaled.groups == 0
            assert scaled.channels % scaled.groups == 0
            assert scaled[1:3] == layer[1:3]
            before = scaled.channels


def test_width_one_is_the_original_and_a_quarter_is_a_sixteenth() -> None:
    assert scaled_layers(_SCALE_LAYERS, 1.0) == list(_SCALE_LAYERS)
    full = sum(p.numel() for p in meta(1.0).parameters())
    quarter = sum(p.numel() for p in meta(0.25).parameters())
    assert full == 46_747_132
    assert quarter < full / 14


def meta(width: float) -> Discriminator:
    with torch.device("meta"):
        return Discriminator(width=width)


@pytest.mark.parametrize("spectral", [False, True])
def test_scores_and_maps(spectral: bool) -> None:
    torch.manual_seed(0)
    net = Discriminator(use_spectral_norm=spectral, width=0.05)
    real, fake = torch.randn(2, 2, 1, 10240).mul(0.3).unbind()
    fake.requires_grad_()
    real_scores, fake_scores, real_maps, fake_maps = net(real, fake)
    assert [score.shape[1] for score in real_scores] == [40, 128, 129, 130, 133, 132]
    assert [len(maps) for maps in real_maps] == [7, 6, 6, 6, 6, 6]
    for score, maps in zip(fake_scores, fake_maps, strict=True):
        assert torch.equal(score, maps[-1].flatten(1))
        assert all(m.min() < 0 for m in maps[:-1])
    sum(score.sum() for score in fake_scores).backward()
    assert fake.grad is not None
    # Every sample of the window is judged.
    assert (fake.grad != 0).float().mean() > 0.999
    assert all(p.grad is not None for p in net.parameters())
    if not spectral:
        alone = [d(real)[0] for d in net.discriminators]
        assert all(torch.equal(a, b) for a, b in zip(alone, real_scores, strict=True))


def judged(net: Discriminator, real: Tensor, fake: Tensor) -> list[Tensor]:
    """Every score and map, and the gradients of what both steps of training learn from."""
    real_scores, fake_scores, real_maps, fake_maps = net(real, fake)
    maps = [one for stack in (*real_maps, *fake_maps) for one in stack]
    everything = [*real_scores, *fake_scores, *maps]
    learning = [tensor for tensor in (fake, *net.parameters()) if tensor.requires_grad]
    loss = sum(
        (one * (1 + torch.arange(one.numel()).view_as(one)).sin()).sum() for one in everything
    )
    return [*everything, *torch.autograd.grad(loss, learning)]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("sizes", [(3, 3), (2, 4)])
def test_one_pass_gives_what_two_give(frozen: bool, sizes: tuple[int, int]) -> None:
    """In float64: a batch of both has other sums of the same terms."""
    torch.manual_seed(0)
    net = Discriminator(width=0.05).double().requires_grad_(not frozen)
    real, fake = (0.3 * torch.randn(size, 1, 1000).double() for size in sizes)
    fake.requires_grad_(frozen)
    results = []
    for net.one_pass in (False, True):
        results.append(judged(net, real, fake))
    for found, wanted in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("frozen", "differentiated", "spectral", "passes"),
    [
        (False, False, False, 1),  # the discriminator's step
        (True, True, False, 2),  # the generator's step, on a CPU
        (True, False, False, 1),  # nobody learns
        (False, False, True, 2),  # the estimate of the norm advances twice a step
    ],
)
def test_where_one_pass_is_less_work(
    frozen: bool, differentiated: bool, spectral: bool, passes: int
) -> None:
    net = Discriminator(spectral, width=0.05).requires_grad_(not frozen)
    sizes: list[int] = []
    net.discriminators[0].register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    real, fake = torch.randn(2, 1, 500), torch.randn(2, 1, 500)
    net(real, fake.requires_grad_(differentiated))
    assert sizes == ([4] if passes == 1 else [2, 2])


def test_period_discriminator_sees_columns() -> None:
    """A change of one sample moves the scores of its own column only."""
    torch.manual_seed(0)
    net = PeriodDiscriminator(5, width=0.05)
    wav = torch.randn(1, 1, 500)
    other = wav.clone()
    other[0, 0, 253] += 1  # column 253 % 5 = 3
    with torch.no_grad():
        moved = (net(wav)[1][-1] != net(other)[1][-1])[0, 0].any(dim=0)
    assert moved.tolist() == [False, False, False, True, False]


@pytest.mark.parametrize("length", [1000, 1001, 1010])
def test_any_length_is_padded_to_a_multiple(length: int) -> None:
    net = Discriminator(width=0.05)
    scores, *_ = net(torch.randn(1, 1, length), torch.randn(1, 1, length))
    assert len(scores) == 1 + len(PERIODS)


def test_width_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        Discriminator(width=0)
