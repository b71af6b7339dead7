from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from svc.synthesizer import Synthesizer
from svc.synthesizer.ends import generator_reach

MakeNet = Callable[..., Synthesizer]
GENERATORS: list[dict[str, Any]] = [
    {},
    {"vocoder_name": "nsf-snake-hifigan"},
    {"resblock": "2"},
    {"upsample_rates": [2, 8], "upsample_kernel_sizes": [5, 17]},
    {"upsample_rates": [16], "upsample_kernel_sizes": [16]},
    {"resblock_kernel_sizes": [11], "resblock_dilation_sizes": [[1, 3, 5]]},
]


@pytest.mark.parametrize("changes", GENERATORS)
def test_the_generator_hears_no_further_than_its_reach(
    make_net: MakeNet, changes: dict[str, Any]
) -> None:
    net = make_net(**changes).double()
    reach, n_frames, at, hop = generator_reach(net.config), 70, 35, net.hop_length
    draws = torch.Generator().manual_seed(1)
    z = torch.randn(1, 8, n_frames, generator=draws).double()
    f0 = torch.zeros(1, n_frames)  # unvoiced: what is heard of a frame's pitch goes no further
    noise = net.dec.m_source.draw(1, n_frames, generator=draws, device=f0.device)
    other, louder = z.clone(), f0.clone()
    other[:, :, at] += 1
    louder[:, at] = 300
    with torch.no_grad():
        g = net.speaker_condition(torch.tensor([0])).double()
        before = net.dec(z, f0, g, random=noise)
        for given in ((other, f0), (z, louder)):
            changed = (net.dec(*given, g, random=noise) - before).abs()
            frames = changed.reshape(n_frames, hop).amax(1).nonzero().flatten() - at
            assert -reach <= int(frames.min()) <= 0 <= int(frames.max()) <= reach
            # And hardly less far, for all of it is computed twice; a snake's filters fade out.
            if given[1] is f0 and net.config.vocoder_name == "nsf-hifigan":
                assert max(int(frames.max()), -int(frames.min())) >= reach - 3


def test_the_usual_generator_reaches_a_sixth_of_a_second(make_config: Any) -> None:
    """Well below the context of half a second that conversion renders around a stretch."""
    usual = dataclasses.replace(
        make_config().model,
        upsample_rates=(8, 8, 2, 2, 2),
        upsample_kernel_sizes=(16, 16, 4, 4, 4),
        resblock_kernel_sizes=(3, 7, 11),
        resblock_dilation_sizes=((1, 3, 5),) * 3,
    )
    assert generator_reach(usual) * 512 / 44100 < 1 / 6
