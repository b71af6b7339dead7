"""A diffusion model and a vocoder that render a second of audio in a blink, on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from svc.checkpoint import save_checkpoint
from svc.config import find_template, load_diffusion_config, load_vocoder_config
from svc.config.diffusion import DiffusionConfig, new_diffusion_config, save_diffusion_config
from svc.diffusion import Unit2Mel
from svc.vocoder.nsf_hifigan import NsfHifigan

N_MELS = 16
VOCODER = {
    "resblock": "1",
    "upsample_rates": [8, 8, 2, 2, 2],
    "upsample_kernel_sizes": [16, 16, 4, 4, 4],
    "upsample_initial_channel": 32,
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3, 5]],
    "num_mels": N_MELS,
    "n_fft": 2048,
    "win_size": 2048,
    "hop_size": 512,
    "sampling_rate": 44100,
    "fmin": 40,
    "fmax": 16000,
}


def write_vocoder(folder: Path, **changes: Any) -> Path:
    """Write `model` and `config.json`; returns the weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**VOCODER, **changes}))
    torch.manual_seed(3)
    net = NsfHifigan(load_vocoder_config(folder / "config.json"))
    with torch.no_grad():  # an untrained net whispers, and hardly heeds its mel
        net.generator.conv_pre.weight_g.mul_(10.0)
        for up in net.generator.ups:
            up.weight_g.mul_(1.8)
        net.generator.conv_post.bias.zero_()
    save_checkpoint({"generator": net.generator.state_dict()}, folder / "model")
    return folder / "model"


def diffusion_config(
    vocoder: Path, speakers: Mapping[str, int], *, encoder: str, width: int, **model: Any
) -> DiffusionConfig:
    template = load_diffusion_config(find_template("diffusion_template.yaml"))
    config = new_diffusion_config(
        template, encoder=encoder, encoder_out_channels=width, speakers=speakers
    )
    raw = config.to_dict()
    raw["model"] |= {"n_layers": 2, "n_chans": 16, "n_hidden": 12, **model}
    raw["vocoder"]["ckpt"] = str(vocoder)
    path = vocoder.parent.parent / "raw.yaml"
    path.write_text(yaml.safe_dump(raw))
    return load_diffusion_config(path)


def write_diffusion(folder: Path, config: DiffusionConfig) -> Path:
    """Write `model_100.pt` and `config.yaml`; returns the checkpoint."""
    folder.mkdir(parents=True)
    torch.manual_seed(4)
    net = Unit2Mel.from_config(config, n_mels=N_MELS)
    # A fresh net tells no noise at all (its last weights are zero), and hardly heeds its speakers.
    nn.init.normal_(net.decoder.denoise_fn.output_projection.weight, std=0.05)
    if net.spk_embed is not None:
        nn.init.normal_(net.spk_embed.weight, std=20.0)
    save_checkpoint({"global_step": 100, "model": net.state_dict()}, folder / "model_100.pt")
    save_diffusion_config(config, folder / "config.yaml")
    return folder / "model_100.pt"
