"""A data set, a vocoder and a config small enough to train a diffusion model on in a test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from svc.audio.io import write_audio
from svc.audio.loudness import frame_volume
from svc.audio.mel import LogMel
from svc.checkpoint import save_checkpoint
from svc.config import DiffusionConfig, load_diffusion_config, load_vocoder_config
from svc.dataset.augment import augment, draw_change
from svc.dataset.feature_settings import FeatureSettings
from svc.dataset.features import FeatureCache
from svc.training.diffusion_checks import feature_settings
from svc.vocoder.nsf_hifigan import NsfHifigan, log_mel_of

RATE, HOP, DIM, N_MELS = 8000, 64, 384, 16  # whisper-ppg-tiny is 384 wide
CROP = 50  # frames: 0.4 s
SPEAKERS = {"alice": 0, "bob": 1}
CONFIG: dict[str, Any] = {
    "data": {
        "sampling_rate": RATE, "block_size": HOP, "duration": 0.4, "encoder": "whisper-ppg-tiny",
        "encoder_out_channels": DIM, "training_files": "train.txt", "validation_files": "val.txt",
        "unit_interpolate_mode": "nearest",
    },
    "model": {
        "n_layers": 2, "n_chans": 16, "n_hidden": 12, "use_pitch_aug": True, "timesteps": 40,
        "k_step_max": 0, "n_spk": 2,
    },
    "device": "cpu",
    "vocoder": {"type": "nsf-hifigan", "ckpt": "vocoder/model"},
    "infer": {"speedup": 10, "method": "dpm-solver++"},
    "env": {"expdir": "run", "gpu_id": 0},
    "train": {
        "num_workers": 0, "amp_dtype": "fp32", "batch_size": 2, "cache_all_data": True,
        "cache_device": "cpu", "cache_fp16": False, "epochs": 100000, "interval_log": 2,
        "interval_val": 4, "interval_force_save": 10, "lr": 1e-3, "decay_step": 3, "gamma": 0.5,
        "weight_decay": 0, "save_opt": True,
    },
    "spk": SPEAKERS,
}  # fmt: skip
VOCODER = {
    "resblock": "1", "upsample_rates": [8, 4, 2], "upsample_kernel_sizes": [16, 8, 4],
    "upsample_initial_channel": 16, "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3, 5]], "num_mels": N_MELS, "n_fft": 256, "win_size": 256,
    "hop_size": HOP, "sampling_rate": RATE, "fmin": 40, "fmax": 3900,
}  # fmt: skip


class Run:
    """Where everything lies; paths in it count from the working folder, which is its root."""

    def __init__(self, config_path: Path) -> None:
        self.config_path = config_path

    @property
    def config(self) -> DiffusionConfig:
        return load_diffusion_config(self.config_path)

    @property
    def settings(self) -> FeatureSettings:
        return feature_settings(self.config)

    def edit(self, **sections: Any) -> DiffusionConfig:
        raw = yaml.safe_load(self.config_path.read_text())
        self.config_path.write_text(yaml.safe_dump(changed(raw, sections)))
        return self.config


def changed(raw: Mapping[str, Any], sections: Mapping[str, Any]) -> dict[str, Any]:
    """Replace keys of sections; `spk` and `device` are replaced whole."""
    whole = {name: value for name, value in sections.items() if name in ("spk", "device")}
    parts = {
        name: {**raw[name], **values} for name, values in sections.items() if name not in whole
    }
    return {**raw, **parts, **whole}


def write_vocoder(folder: Path, *, weights: bool = True, **changes: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**VOCODER, **changes}))
    if weights:
        torch.manual_seed(3)
        net = NsfHifigan(load_vocoder_config(folder / "config.json"))
        save_checkpoint({"generator": net.generator.state_dict()}, folder / "model")


def write_clip(path: Path, settings: FeatureSettings, *, frames: int, seed: int) -> None:
    """A buzzing tone with all its features; `seed` decides pitch and units."""
    rng = np.random.default_rng(seed)
    pitch = 110.0 + 20 * (seed % 7)
    time = np.arange(frames * HOP + 10) / RATE
    wav = 0.3 * np.sign(np.sin(2 * np.pi * pitch * time)) + 0.02 * rng.standard_normal(len(time))
    write_audio(path, wav.astype(np.float32), RATE)
    assert settings.mel is not None
    samples, log_mel = torch.from_numpy(wav.astype(np.float32)), LogMel(settings.mel)
    gain, key_shift = draw_change(path, settings.aug_seed, float(samples.abs().max()))
    units = rng.standard_normal((DIM, max(1, round(frames * HOP / RATE * 50))))
    FeatureCache(settings).save(
        path,
        units=torch.from_numpy(units.astype(np.float32)),
        f0=torch.tensor([[pitch] * frames, [1.0] * frames]),
        volume=frame_volume(samples[None], HOP)[0],
        mel=log_mel(samples[None])[0].T,
        **augment(samples, log_mel, gain=gain, key_shift=key_shift),
    )


def write_run(
    *, lengths: tuple[int, ...] = (60, 55, 70, 58), weights: bool = False, **sections: Any
) -> Run:
    """Write data set, vocoder and config into the working folder; the last clip is held out."""
    write_vocoder(Path("vocoder"), weights=weights)
    raw = changed(CONFIG, sections)
    Path("diffusion.yaml").write_text(yaml.safe_dump(raw))
    run = Run(Path("diffusion.yaml"))
    settings = FeatureSettings(
        "whisper-ppg-tiny", RATE, HOP, mel=log_mel_of(load_vocoder_config("vocoder/config.json")).config
    )  # fmt: skip
    lists: dict[str, list[str]] = {"train.txt": [], "val.txt": []}
    for number, speaker in enumerate(SPEAKERS):
        for index, frames in enumerate(lengths):
            path = Path("clips", speaker, f"{index}.wav")
            write_clip(path, settings, frames=frames, seed=10 * number + index)
            lists["val.txt" if index == len(lengths) - 1 else "train.txt"].append(str(path))
    for name, paths in lists.items():
        Path(name).write_text("\n".join(paths) + "\n", encoding="utf-8")
    return run
