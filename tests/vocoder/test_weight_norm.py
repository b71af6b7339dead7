from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from svc.vocoder.weight_norm import (
    SpectralNormConv,
    WeightNormConv,
    WeightNormConv1d,
    WeightNormConv2d,
    WeightNormConvTranspose1d,
    fold_weight_norm,
    respell_state,
)


def kinds() -> list[tuple[WeightNormConv, nn.Module, Tensor]]:
    """Each of ours, the same of torch, and an input."""
    return [
        (
            WeightNormConv1d(6, 8, 5, stride=2, padding=4, dilation=2, groups=2),
            nn.Conv1d(6, 8, 5, stride=2, padding=4, dilation=2, groups=2),
            torch.randn(2, 6, 30),
        ),
        (
            WeightNormConvTranspose1d(6, 4, 7, stride=3, padding=2, output_padding=1),
            nn.ConvTranspose1d(6, 4, 7, stride=3, padding=2, output_padding=1),
            torch.randn(2, 6, 30),
        ),
        (
            WeightNormConv2d(3, 4, 5, stride=3, padding=2),
            nn.Conv2d(3, 4, (5, 1), stride=(3, 1), padding=(2, 0)),
            torch.randn(2, 3, 30, 7),
        ),
    ]


@pytest.mark.parametrize("index", range(3))
def test_equals_the_weight_norm_of_torch(index: int) -> None:
    torch.manual_seed(0)
    ours, plain, x = kinds()[index]
    with torch.no_grad():
        ours.weight_g.mul_(torch.rand_like(ours.weight_g) + 0.5)
    theirs = parametrizations.weight_norm(plain, dim=0)
    theirs.load_state_dict(
        {
            "bias": ours.bias,
            "parametrizations.weight.original0": ours.weight_g,
            "parametrizations.weight.original1": ours.weight_v,
        }
    )
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)


@pytest.mark.parametrize("index", range(3))
def test_folding_changes_no_output_and_drops_gain_and_direction(index: int) -> None:
    conv, _, x = kinds()[index]
    before = conv(x)
    conv.fold()
    assert torch.equal(conv(x), before)
    assert sorted(conv.state_dict()) == ["bias", "weight"]
    conv.fold()  # twice is once
    assert torch.equal(conv(x), before)


def test_fresh_gain_is_the_norm_of_the_direction_and_names_are_in_order() -> None:
    conv = WeightNormConvTranspose1d(6, 4, 7)
    assert list(conv.state_dict()) == ["bias", "weight_g", "weight_v"]
    assert conv.weight_g.shape == (6, 1, 1)
    assert torch.allclose(conv.plain_weight(), conv.weight_v, atol=1e-6)


def test_gradients_reach_gain_and_direction() -> None:
    conv, _, x = kinds()[0]
    conv(x).square().sum().backward()
    for parameter in conv.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0
    # The direction's length does not matter, so its gradient is orthogonal to it.
    assert conv.weight_v.grad is not None
    along = (conv.weight_v.grad * conv.weight_v).sum(dim=(1, 2))
    assert along.abs().max() < 1e-3 * conv.weight_v.grad.abs().max()


@pytest.mark.parametrize("spelling", ["classic", "parametrised", "folded"])
@pytest.mark.parametrize("fold_first", [False, True])
@pytest.mark.parametrize("through", ["load_state_dict", "respell_state"])
def test_every_spelling_loads(spelling: str, fold_first: bool, through: str) -> None:
    torch.manual_seed(0)
    given = nn.Sequential(WeightNormConv1d(4, 5, 3))
    x = torch.randn(1, 4, 9)
    expected = given(x)
    g, v = given[0].weight_g.detach(), given[0].weight_v.detach()
    spellings = {
        "classic": {"0.weight_g": g, "0.weight_v": v},
        "parametrised": {
            "0.parametrizations.weight.original0": g,
            "0.parametrizations.weight.original1": v,
        },
        "folded": {"0.weight": given[0].plain_weight().detach()},
    }
    state = {"0.bias": given[0].bias.detach(), **spellings[spelling]}
    names = sorted(state)
    fresh = nn.Sequential(WeightNormConv1d(4, 5, 3))
    if fold_first:
        fold_weight_norm(fresh)
    if through == "respell_state":
        respelled = respell_state(state, fresh)
        assert respelled.keys() == fresh.state_dict().keys()
        fresh.load_state_dict(respelled, strict=True)
    else:
        fresh.load_state_dict(state, strict=True)
    assert sorted(state) == names  # the caller's dictionary is left alone
    assert torch.allclose(fresh(x), expected, atol=1e-6)


def test_an_incomplete_state_is_refused() -> None:
    conv = WeightNormConv1d(4, 5, 3)
    state = conv.state_dict()
    del state["weight_g"]
    with pytest.raises(RuntimeError, match="weight_g"):
        conv.load_state_dict(state)


@pytest.mark.parametrize("ndim", [1, 2])
def test_spectral_norm_follows_torch_over_training_steps(ndim: int) -> None:
    torch.manual_seed(0)
    ours = SpectralNormConv(4, 6, 5, ndim=ndim, stride=2, padding=2, groups=2)
    plain: nn.Module = (
        nn.Conv1d(4, 6, 5, stride=2, padding=2, groups=2)
        if ndim == 1
        else nn.Conv2d(4, 6, (5, 1), stride=(2, 1), padding=(2, 0), groups=2)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.nn.utils.spectral_norm(plain)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, 20) if ndim == 1 else torch.randn(2, 4, 20, 3)
    for _ in range(3):
        mine, other = ours(x), theirs(x)
        assert torch.allclose(mine, other, atol=1e-6)
        (mine.square().sum() + other.square().sum()).backward()
    assert ours.weight_orig.grad is not None
    assert torch.allclose(ours.weight_orig.grad, theirs.weight_orig.grad, atol=1e-4)
    before = ours.weight_u.clone()
    ours.eval()
    ours(x)
    assert torch.equal(ours.weight_u, before)


def test_the_spectral_norm_converges_to_one() -> None:
    torch.manual_seed(0)
    conv = SpectralNormConv(4, 6, 5, ndim=1)
    for _ in range(200):
        weight = conv.plain_weight()
    assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-3)


def test_no_deprecated_interface_is_used() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conv = WeightNormConv1d(4, 5, 3)
        conv(torch.randn(1, 4, 9)).sum().backward()
        conv.fold()
