from __future__ import annotations

import pytest
import torch

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
