from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from svc.synthesizer import Synthesizer
from svc.synthesizer.ends import generator_reach
from svc.synthesizer.inference import Clip

MakeNet = Callable[..., Synthesizer]
LENGTHS = (28, 21, 36, 7)
VARIANTS: list[dict[str, Any]] = [
    {},
    {"vol_embedding": True},
    {"vocoder_name": "nsf-snake-hifigan"},
    {"use_transformer_flow": True},
    {"flow_share_parameter": True, "use_depthwise_conv": True, "resblock": "2"},
    {"upsample_rates": [2, 8], "upsample_kernel_sizes": [5, 16]},
]


def clips_of(net: Synthesizer, *, mixed: bool = False) -> list[Clip]:
    """Clips of different lengths and speakers."""
    draws = torch.Generator().manual_seed(1)
    clips = []
    for index, n_frames in enumerate(LENGTHS):
        mix = torch.rand(n_frames, 2 + index % 2, generator=draws)
        clips.append(
            Clip(
                torch.randn(1, net.config.ssl_dim, n_frames, generator=draws),
                torch.rand(1, n_frames, generator=draws) * 300 + 100,
                (torch.rand(1, n_frames, generator=draws) > 0.3).float(),
                mix if mixed and index else index % 3,
                torch.rand(1, n_frames, generator=draws) if net.has_volume else None,
            )
        )
    return clips


@pytest.mark.parametrize(
    ("changes", "own_pitch"),
    [*[(changes, False) for changes in VARIANTS], ({}, True), ({"vol_embedding": True}, True)],
)
def test_a_clip_is_what_it_is_alone(
    make_net: MakeNet, changes: dict[str, Any], own_pitch: bool
) -> None:
    """In float64 to ten digits: the masks are exact. At the end of a shorter clip to the precision in
    which the source keeps its phase, float32.
    """
    net = make_net(**changes).double()
    with torch.no_grad():  # an untrained net whispers
        net.dec.conv_post.weight_g.mul_(10.0)
    clips = clips_of(net, mixed=own_pitch)
    together = net.infer_many(clips, predict_f0=own_pitch)
    end = generator_reach(net.config) * net.hop_length
    for clip, (wav, f0) in zip(clips, together, strict=True):
        [(alone, pitch)] = net.infer_many([clip], predict_f0=own_pitch)
        assert wav.shape == (len(clip) * net.hop_length,)
        assert torch.equal(f0, pitch)
        assert float(alone.abs().max()) > 0.05
        different = (wav - alone).abs()
        assert float(different[:-end].max() if len(different) > end else 0.0) <= 1e-10
        assert float(different.max()) <= 1e-6


def test_a_lone_clip_is_the_plain_call(make_net: MakeNet) -> None:
    net = make_net(vol_embedding=True)
    clip = clips_of(net)[1]
    [(wav, f0)] = net.infer_many([clip], noise_scale=0.4, seed=9, predict_f0=True)
    plain, pitch = net.infer(
        clip.units, clip.f0, clip.uv, torch.tensor([1]), volume=clip.volume,
        noise_scale=0.4, seed=9, predict_f0=True,
    )  # fmt: skip
    assert torch.equal(wav, plain[0, 0])
    assert torch.equal(f0, pitch)
    assert net.infer_many([]) == []


def test_compat_sings_one_by_one(make_net: MakeNet) -> None:
    net = make_net(compat=True)
    clips = clips_of(net)[:2]
    for clip, (wav, _) in zip(clips, net.infer_many(clips), strict=True):
        assert torch.equal(wav, net.infer_many([clip])[0][0])
