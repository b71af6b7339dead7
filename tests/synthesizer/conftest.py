"""A net small enough for a test: 2 x 16-wide, hop 16, three speakers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from svc.config import SvcConfig, parse_config
from svc.synthesizer import Synthesizer

MODEL: dict[str, Any] = {
    "inter_channels": 8,
    "hidden_channels": 16,
    "filter_channels": 24,
    "n_heads": 2,
    "n_layers": 2,
    "kernel_size": 3,
    "p_dropout": 0.1,
    "resblock": "1",
    "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]],
    "upsample_rates": [4, 4],
    "upsample_initial_channel": 16,
    "upsample_kernel_sizes": [8, 8],
    "gin_channels": 12,
    "ssl_dim": 10,
    "n_speakers": 3,
    "speech_encoder": "vec768l12",
}

MakeConfig = Callable[..., SvcConfig]


@pytest.fixture
def make_config() -> MakeConfig:
    """Return ``make_config(**model_keys)`` -> config of the small net; `sampling_rate_` is data's."""

    def make(sampling_rate_: int = 44100, **changes: Any) -> SvcConfig:
        raw = {
            "train": {"segment_size": 64},
            "data": {
                "sampling_rate": sampling_rate_,
                "filter_length": 64,
                "hop_length": 16,
                "win_length": 64,
            },
            "model": {**MODEL, **changes},
            "spk": {"a": 0, "b": 1, "c": 2},
        }
        return parse_config(raw, where="test")

    return make


@pytest.fixture
def make_net(make_config: MakeConfig) -> Callable[..., Synthesizer]:
    """Return ``make_net(**model_keys)`` -> small net in eval mode whose flow does something."""

    def make(compat: bool = False, **changes: Any) -> Synthesizer:
        torch.manual_seed(0)
        net = Synthesizer.from_config(make_config(**changes), compat=compat).eval()
        with torch.no_grad():
            for name, parameter in net.flow.named_parameters():
                if ".post." in name:  # zero in a fresh net
                    parameter.normal_(0, 0.2)
        return net

    return make


def batch_of(net: Synthesizer, n_frames: int = 20, batch: int = 2) -> dict[str, Tensor]:
    """Random training inputs for a small net; the second clip is shorter."""
    generator = torch.Generator().manual_seed(5)
    lengths = torch.full((batch,), n_frames)
    lengths[1:] = n_frames - 7
    inside = (torch.arange(n_frames) < lengths[:, None]).float()
    f0 = (torch.rand(batch, n_frames, generator=generator) * 300 + 100) * inside
    inputs = {
        "units": torch.randn(batch, net.config.ssl_dim, n_frames, generator=generator),
        "f0": f0,
        "uv": (f0 > 150).float(),
        "spec": torch.rand(batch, 33, n_frames, generator=generator),
        "speaker": torch.arange(batch) % net.config.n_speakers,
        "lengths": lengths,
    }
    if net.has_volume:
        inputs["volume"] = torch.rand(batch, n_frames, generator=generator)
    return inputs


@pytest.fixture
def make_batch() -> Callable[..., dict[str, Tensor]]:
    return batch_of


@pytest.fixture
def voice() -> Callable[..., dict[str, Tensor]]:
    """Return ``voice(net)`` -> inference inputs of one clip."""

    def make(net: Synthesizer, n_frames: int = 12) -> dict[str, Tensor]:
        inputs = batch_of(net, n_frames, batch=1)
        return {name: inputs[name] for name in inputs if name not in ("spec", "lengths")}

    return make
