from __future__ import annotations

from typing import Any

import pytest
import torch

from svc.errors import ConfigError
from svc.vocoder.generator import Generator

SMALL: dict[str, Any] = {
    "initial_channels": 16,
    "upsample_rates": (4, 2),
    "upsample_kernel_sizes": (8, 4),
    "resblock": "1",
    "resblock_kernel_sizes": (3, 5),
    "resblock_dilation_sizes": ((1, 3, 5), (1, 3, 5)),
    "sampling_rate": 8000,
    "gin_channels": 6,
}


def make(**changes: Any) -> Generator:
    torch.manual_seed(0)
    return Generator(5, **{**SMALL, **changes})


def run(net: Generator, n_frames: int = 9, time_varying: bool = False) -> torch.Tensor:
    torch.manual_seed(1)
    x, g = torch.randn(2, 5, n_frames), torch.randn(2, 6, n_frames if time_varying else 1)
    f0 = torch.full((2, n_frames), 200.0)
    with torch.no_grad():
        wav: torch.Tensor = net(x, f0, g, generator=torch.Generator().manual_seed(2))
    return wav


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"resblock": "2"},
        {"resblock": "2", "snake": True},
        {"snake": True},
        {"upsample_kernel_sizes": (9, 5)},  # kernel - rate odd
        {"upsample_kernel_sizes": (4, 2)},  # no overlap
        {"upsample_rates": (3, 5), "upsample_kernel_sizes": (6, 10)},  # odd rates
        {"upsample_rates": (5, 3, 2), "upsample_kernel_sizes": (11, 7, 4)},
    ],
)
@pytest.mark.parametrize("n_frames", [1, 9])
def test_every_frame_becomes_exactly_hop_length_samples(
    changes: dict[str, Any], n_frames: int
) -> None:
    net = make(**changes)
    wav = run(net, n_frames)
    assert wav.shape == (2, 1, n_frames * net.hop_length)
    assert wav.abs().max() < 1
    assert wav.std() > 0


@pytest.mark.parametrize("snake", [False, True])
def test_folding_changes_nothing(snake: bool) -> None:
    net = make(snake=snake)
    before = run(net)
    net.fold()
    assert torch.equal(run(net), before)
    assert not any(name.endswith(("weight_g", "weight_v")) for name in net.state_dict())


def test_speaker_may_change_over_time_and_matters() -> None:
    net = make()
    assert run(net, time_varying=True).shape == run(net).shape
    x, f0 = torch.randn(1, 5, 4), torch.full((1, 4), 200.0)
    g = torch.randn(1, 6, 1)
    with torch.no_grad():
        random = net.m_source.draw(1, 4, generator=None, device=f0.device)
        one = net(x, f0, g, random=random)
        same = net(x, f0, g.expand(-1, -1, 4), random=random)
        other = net(x, f0, -g, random=random)
    assert torch.allclose(one, same, atol=1e-6)
    assert (one - other).abs().max() > 1e-4


def test_a_seed_gives_the_same_audio_and_another_seed_another() -> None:
    net = make()
    x, f0, g = torch.randn(1, 5, 4), torch.full((1, 4), 200.0), torch.randn(1, 6, 1)
    first, again, other = (
        net(x, f0, g, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_batch_items_do_not_touch_each_other() -> None:
    net = make()
    x, f0, g = torch.randn(2, 5, 6), torch.tensor([[200.0] * 6, [0.0] * 6]), torch.randn(2, 6, 1)
    random = net.m_source.draw(2, 6, generator=None, device=f0.device)
    with torch.no_grad():
        both = net(x, f0, g, random=random)
        changed = net(torch.cat([x[:1], x[1:] + 1]), f0, g, random=random)
    assert torch.allclose(both[0], changed[0], atol=1e-6)
    assert (both[1] - changed[1]).abs().max() > 1e-5


def test_all_parameters_learn() -> None:
    net = make(snake=True)
    wav = net(torch.randn(1, 5, 8), torch.full((1, 8), 200.0), torch.randn(1, 6, 1))
    wav.square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_only_the_text_1_means_type_1_blocks() -> None:
    assert "resblocks.0.convs1.0.bias" in make(resblock="1").state_dict()
    assert "resblocks.0.convs.1.bias" in make(resblock="2").state_dict()
    assert "resblocks.0.convs.0.bias" in make(resblock=1).state_dict()


def test_impossible_sizes_are_named() -> None:
    with pytest.raises(ConfigError, match="kernel of 3 leaves gaps at rate 4; use 8"):
        make(upsample_kernel_sizes=(3, 4))
    with pytest.raises(ConfigError, match="upsample_initial_channel is 3"):
        make(initial_channels=3)


def test_the_last_stages_keep_their_precision_under_autocast() -> None:
    """See EXACT_STAGES: rounded to bfloat16 there, a voice hisses."""
    net = make(
        upsample_rates=(4, 2, 2), upsample_kernel_sizes=(8, 4, 4),
        resblock_dilation_sizes=((1, 3, 5), (1, 3, 5)),
    )  # fmt: skip
    seen: list[torch.dtype] = []
    for part in (*net.ups, net.conv_post):
        part.register_forward_hook(lambda _, given, made: seen.append(made.dtype))
    expected = run(net)
    assert set(seen) == {torch.float32}
    seen.clear()
    with torch.autocast("cpu", torch.bfloat16):
        wav = run(net)
    assert seen == [torch.bfloat16, torch.float32, torch.float32, torch.float32]
    assert wav.dtype == torch.float32
    assert 0 < float((wav - expected).norm() / expected.norm()) < 0.01
