"""Small voices in files, for the tests of `svc mix` and `svc compress` here and in tests/cli."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svc.checkpoint import save_checkpoint
from svc.config import SvcConfig, parse_config, save_config
from svc.f0.range_files import plain_ranges
from svc.f0.voice_range import VoiceRange
from svc.synthesizer import Synthesizer

SHARED_SNAKE: dict[str, Any] = {
    "flow_share_parameter": True,
    "n_flow_layer": 2,
    "vocoder_name": "nsf-snake-hifigan",
    "vol_embedding": True,
}
"""Keys of a net with tensors under several names, filter buffers and a volume embedding."""


def small_config(speakers: Sequence[str] = ("alice", "bob"), **model: Any) -> SvcConfig:
    """A voice on the bundled speech encoder that renders a second in some hundredths of one."""
    raw = {
        "train": {"segment_size": 1280, "learning_rate": 2e-4, "betas": [0.8, 0.99]},
        "data": {
            "sampling_rate": 8000, "filter_length": 256, "hop_length": 64, "win_length": 256,
            "unit_interpolate_mode": "nearest",
        },
        "model": {
            "inter_channels": 8, "hidden_channels": 8, "filter_channels": 8, "n_heads": 2,
            "n_layers": 1, "kernel_size": 3, "p_dropout": 0.1, "resblock": "1",
            "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3, 5]],
            "upsample_rates": [8, 4, 2], "upsample_initial_channel": 16,
            "upsample_kernel_sizes": [16, 8, 4], "gin_channels": 4, "ssl_dim": 384,
            "n_speakers": len(speakers), "n_flow_layer": 1, "speech_encoder": "whisper-ppg-tiny",
            "sampling_rate": 8000, **model,
        },
        "spk": {name: number for number, name in enumerate(speakers)},
    }  # fmt: skip
    return parse_config(raw, where="test")


def small_net(config: SvcConfig, seed: int = 1) -> Synthesizer:
    torch.manual_seed(seed)
    net = Synthesizer.from_config(config).eval()
    with torch.no_grad():
        snake = config.model.vocoder_name == "nsf-snake-hifigan"
        net.dec.conv_post.weight_g.mul_(3.0 if snake else 30.0)  # an untrained net whispers
        net.dec.conv_post.bias.zero_()
        for name, parameter in net.flow.named_parameters():
            if ".post." in name:  # zero in a fresh net
                parameter.normal_(0, 0.2)
    return net


def write_voice(
    folder: Path,
    config: SvcConfig | None = None,
    *,
    seed: int = 1,
    name: str = "G_8.pth",
    half: bool = False,
    posterior: bool = True,
    changes: Mapping[str, Tensor] | None = None,
    ranges: Mapping[str, VoiceRange] | None = None,
    with_config: bool = True,
) -> Path:
    """Write a checkpoint as training leaves it, with its config beside it."""
    config = config or small_config()
    net = small_net(config, seed)
    state = dict(net.state_dict())
    if half:
        halves = {tensor.data_ptr(): tensor.half() for tensor in state.values()}
        state = {key: halves[tensor.data_ptr()] for key, tensor in state.items()}
    state |= changes or {}
    if not posterior:
        state = {key: tensor for key, tensor in state.items() if not key.startswith("enc_q.")}
    optimizer = torch.optim.AdamW(net.parameters(), lr=1.5e-4)
    for parameter in net.parameters():
        optimizer.state[parameter] = {"exp_avg": torch.zeros_like(parameter)}
    extra: dict[str, Any] = {
        "format": 1, "step": 8, "epoch": 3, "batch": 2, "rng": {"cpu": torch.get_rng_state()},
        "released": False, "speakers": dict(config.spk), "encoder": config.model.speech_encoder,
        "config": config.to_dict(), "voice_range": plain_ranges(ranges or {}),
    }  # fmt: skip
    content = {
        "model": state, "iteration": 3, "optimizer": optimizer.state_dict(), "learning_rate": 2e-4,
    }  # fmt: skip
    save_checkpoint({**content, "svc": extra} if with_config else content, folder / name)
    if with_config:
        save_config(config, folder / "config.json")
    return folder / name


def spelled(config: SvcConfig, **model: Any) -> SvcConfig:
    """The config with other values in its model section."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **model))
