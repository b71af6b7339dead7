"""The average of the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from svc.training.ema import UPDATES, WEIGHTS, Ema
from svc.training.step import Adversaries
from svc.vocoder.weight_norm import WeightNormConv1d


def weights(net: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in net.parameters()]


def walk(net: nn.Module, draws: torch.Generator, scale: float = 0.1) -> None:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=draws))


def test_it_is_the_mean_with_falling_weights() -> None:
    net, draws = nn.Linear(3, 2), torch.Generator().manual_seed(0)
    ema = Ema(net, 0.9)
    expected = [value.double() for value in weights(net)]
    for n in range(200):
        walk(net, draws)
        ema.update()
        decay = min(0.9, (1 + n) / (10 + n))
        expected = [
            decay * old + (1 - decay) * new for old, new in zip(expected, weights(net), strict=True)
        ]
    assert ema.updates == 200
    with ema.applied():
        for got, wanted in zip(weights(net), expected, strict=True):
            torch.testing.assert_close(got.double(), wanted, rtol=0, atol=1e-6)


def test_the_first_weights_are_forgotten_soon() -> None:
    """With 0.999 alone they would be nine tenths of the average after a hundred steps."""
    net = nn.Linear(4, 4)
    nn.init.constant_(net.weight, 1.0)
    ema = Ema(net, 0.999)
    nn.init.constant_(net.weight, 0.0)
    for _ in range(100):
        ema.update()
    with ema.applied():
        assert float(net.weight[0, 0].detach()) < 1e-6


def test_a_net_gets_its_own_weights_back_bit_for_bit() -> None:
    net, draws = nn.Linear(3, 2), torch.Generator().manual_seed(0)
    ema = Ema(net, 0.9)
    walk(net, draws)
    ema.update()
    own, places = weights(net), [parameter.data_ptr() for parameter in net.parameters()]
    averages = ema.keys()[WEIGHTS]
    averages = {name: value.clone() for name, value in averages.items()}

    def fail() -> None:
        with ema.applied():
            for name, value in net.named_parameters():
                assert torch.equal(value, averages[name])
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert all(torch.equal(a, b) for a, b in zip(weights(net), own, strict=True))
    assert all(torch.equal(ema.keys()[WEIGHTS][name], averages[name]) for name in averages)
    # Optimizers and compiled code hold on to the memory, not to the values.
    assert [parameter.data_ptr() for parameter in net.parameters()] == places


def test_a_step_that_was_skipped_changes_nothing() -> None:
    net, draws = nn.Linear(3, 2), torch.Generator().manual_seed(0)
    ema = Ema(net, 0.5)
    walk(net, draws)
    for _ in range(60):
        ema.update()
    before = {name: value.clone() for name, value in ema.keys()[WEIGHTS].items()}
    ema.update()  # the weights did not move
    assert all(torch.equal(ema.keys()[WEIGHTS][name], before[name]) for name in before)


def test_it_goes_on_exactly_where_it_was_saved() -> None:
    nets = [nn.Linear(3, 2) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    draws = [torch.Generator().manual_seed(0) for _ in range(2)]
    straight, parts = (Ema(net, 0.99) for net in nets)
    for step in range(40):
        for net, draw, ema in zip(nets, draws, (straight, parts), strict=True):
            walk(net, draw)
            ema.update()
        if step == 20:
            saved = parts.keys()
            saved = {
                WEIGHTS: {k: v.clone() for k, v in saved[WEIGHTS].items()},
                UPDATES: saved[UPDATES],
            }
            parts = Ema(nets[1], 0.99)
            assert "2 of 2 tensors, 21 steps" in parts.restore(saved)
    one, two = straight.keys(), parts.keys()
    assert one[UPDATES] == two[UPDATES] == 40
    assert all(torch.equal(one[WEIGHTS][name], two[WEIGHTS][name]) for name in one[WEIGHTS])


def test_what_no_checkpoint_knows_begins_with_the_weights() -> None:
    """A file of the original, or another number of speakers."""
    net = nn.Linear(3, 2)
    ema = Ema(net, 0.9)
    assert "begins with the weights" in ema.restore(None)
    assert ema.updates == 0
    filled = ema.restore({WEIGHTS: {"weight": torch.ones(2, 3), "bias": torch.ones(5)}, UPDATES: 7})
    assert "1 of 2 tensors" in filled
    with ema.applied():
        assert torch.equal(net.weight, torch.ones(2, 3))
        assert float(net.bias[0].detach()) != 1
    assert torch.equal(ema.keys()[WEIGHTS]["bias"], net.bias)


def test_averages_of_weight_norm_are_averages_of_weights() -> None:
    """g and v are averaged apart: over a walk as small as that of a hundred steps of training the
    convolution is that of the averaged weights, to a thousandth of what it moved.
    """
    torch.manual_seed(0)
    conv = WeightNormConv1d(8, 8, 3)
    draws = torch.Generator().manual_seed(1)
    ema, plain = Ema(conv, 0.99), None

    def weight() -> Tensor:
        g, v = conv.weight_g.detach().double(), conv.weight_v.detach().double()
        return g * v / torch.linalg.vector_norm(v, dim=(1, 2), keepdim=True)

    first = plain = weight()
    for n in range(300):
        walk(conv, draws, scale=2e-4)
        ema.update()
        decay = min(0.99, (1 + n) / (10 + n))
        plain = decay * plain + (1 - decay) * weight()
    moved = float((weight() - first).norm())
    with ema.applied():
        assert float((weight() - plain).norm()) < 1e-2 * moved


def test_shared_parameters_are_averaged_once(voices: Any) -> None:
    nets = Adversaries(voices.config, torch.device("cpu"))
    names = set(Ema(nets.generator, 0.9).keys()[WEIGHTS])
    assert names == {name for name, _ in nets.generator.named_parameters()}
    assert len(nets.generator.state_dict()) > len(names)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_is_a_share(decay: float) -> None:
    with pytest.raises(ValueError, match="decay"):
        Ema(nn.Linear(1, 1), decay)
