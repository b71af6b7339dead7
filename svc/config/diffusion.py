"""`diffusion.yaml` of a diffusion voice, read unchanged (spec_diffusion 1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from svc.atomic import write_text
from svc.config.encoders import split_encoders
from svc.config.schema import read_section, read_spk, read_text, warn_unknown, write_section
from svc.errors import ConfigError


@dataclass(frozen=True)
class DiffusionData:
    """Section `data`."""

    sampling_rate: int  # Hz
    block_size: int  # hop length, samples
    encoder: str  # one id of `SPEECH_ENCODER_DIMS`, or two fused
    encoder_out_channels: int  # width of its units
    duration: float = 2  # seconds of a training crop
    cnhubertsoft_gate: int = 10  # unused
    encoder_sample_rate: int = 16000
    encoder_hop_size: int = 320
    training_files: str = "filelists/train.txt"
    validation_files: str = "filelists/val.txt"
    extensions: tuple[str, ...] = ("wav",)
    unit_interpolate_mode: str = "left"

    def __post_init__(self) -> None:
        try:
            split_encoders(self.encoder)
        except ConfigError as error:
            raise ConfigError(f'"data.encoder": {error}') from None


@dataclass(frozen=True)
class DiffusionModel:
    """Section `model`."""

    type: str = "Diffusion"
    n_layers: int = 20
    n_chans: int = 512
    n_hidden: int = 256
    use_pitch_aug: bool = True
    timesteps: int | None = 1000
    k_step_max: int | None = 0
    n_spk: int | None = 1

    def __post_init__(self) -> None:
        sizes = {key: getattr(self, key) for key in ("n_layers", "n_chans", "n_hidden")}
        for key, value in {**sizes, "timesteps": self.n_steps}.items():
            if value < 1:
                raise ConfigError(f'"model.{key}" is {value}; it must be 1 or more')
        if self.n_chans < 4 or self.n_chans % 2:
            raise ConfigError(f'"model.n_chans" is {self.n_chans}; use an even number from 4 up')

    @property
    def n_steps(self) -> int:
        """Steps of the whole noise schedule."""
        return 1000 if self.timesteps is None else self.timesteps

    @property
    def trained_steps(self) -> int:
        """How many of them, from the least noisy on, the net is trained on (spec_diffusion 4)."""
        most = self.k_step_max or 0
        return most if 0 < most < self.n_steps else self.n_steps

    @property
    def n_speakers(self) -> int:
        """Speakers the net tells apart; 1 = it has no table of them."""
        return max(1, self.n_spk or 1)


@dataclass(frozen=True)
class DiffusionVocoder:
    """Section `vocoder`."""

    type: str = "nsf-hifigan"
    ckpt: str = "pretrain/nsf_hifigan/model"


@dataclass(frozen=True)
class DiffusionInfer:
    """Section `infer`."""

    speedup: int = 10
    method: str | None = "dpm-solver++"  # null = ddpm


@dataclass(frozen=True)
class DiffusionEnv:
    """Section `env`."""

    expdir: str = "logs/44k/diffusion"
    gpu_id: int = 0


@dataclass(frozen=True)
class DiffusionTrain:
    """Section `train`."""

    num_workers: int = 4
    amp_dtype: str = "fp32"
    batch_size: int = 48
    cache_all_data: bool = True
    cache_device: str = "cpu"
    cache_fp16: bool = True
    epochs: int = 100000
    interval_log: int = 10
    interval_val: int = 2000
    interval_force_save: int = 5000
    lr: float = 1e-4
    decay_step: int = 100000
    gamma: float = 0.5
    weight_decay: float = 0
    save_opt: bool = False


_SECTIONS = {
    "data": DiffusionData,
    "model": DiffusionModel,
    "vocoder": DiffusionVocoder,
    "infer": DiffusionInfer,
    "env": DiffusionEnv,
    "train": DiffusionTrain,
}


@dataclass(frozen=True)
class DiffusionConfig:
    """A whole `diffusion.yaml`."""

    data: DiffusionData
    model: DiffusionModel
    vocoder: DiffusionVocoder
    infer: DiffusionInfer
    env: DiffusionEnv
    train: DiffusionTrain
    spk: dict[str, int]
    device: str = "cuda"
    path: Path | None = None
    unknown: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the file's content: every key explicit, unknown keys of the file kept."""
        plain: dict[str, Any] = {
            name: {**write_section(getattr(self, name)), **self.unknown.get(name, {})}
            for name in _SECTIONS
        }
        return {**plain, "device": self.device, "spk": dict(self.spk), **self.unknown.get("", {})}

    def to_yaml(self) -> str:
        """Return the text of the file."""
        return yaml.safe_dump(self.to_dict(), allow_unicode=True, sort_keys=False)


def load_diffusion_config(path: str | Path) -> DiffusionConfig:
    """Read a `diffusion.yaml`.

    Raises:
        MissingFileError: no such file.
        ConfigError: not YAML, or a key is missing or has a wrong type; names file, key and what is expected.
    """
    file = Path(path)
    where = str(file)
    try:
        raw = yaml.safe_load(read_text(file, "diffusion config"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: a diffusion config is a YAML mapping with data, model, spk")
    sections: dict[str, Any] = {}
    unknown: dict[str, dict[str, Any]] = {}
    for name, cls in _SECTIONS.items():
        # Older files leave out whole sections that only training reads.
        sections[name], unknown[name] = read_section(cls, raw.get(name, {}), where=where, name=name)
    unknown[""] = {
        str(key): value for key, value in raw.items() if key not in {*_SECTIONS, "spk", "device"}
    }
    known = {
        name: {item.name for item in dataclasses.fields(cls)} for name, cls in _SECTIONS.items()
    }
    warn_unknown(where, unknown, {**known, "": {*_SECTIONS, "spk", "device"}})
    device = raw.get("device", "cuda")
    if not isinstance(device, str):
        raise ConfigError(f'{where}: "device" must be a text, found {device!r}')
    if "spk" not in raw:
        raise ConfigError(f'{where}: the key "spk" is missing (expected speaker names and ids)')
    return DiffusionConfig(
        **sections, spk=read_spk(raw["spk"], where), device=device, path=file, unknown=unknown
    )


def save_diffusion_config(config: DiffusionConfig, path: str | Path) -> None:
    """Write a `diffusion.yaml` atomically in UTF-8. Raises OutputError."""
    write_text(path, config.to_yaml())


def new_diffusion_config(
    template: DiffusionConfig,
    *,
    encoder: str,
    encoder_out_channels: int,
    speakers: Mapping[str, int],
) -> DiffusionConfig:
    """Fill a template for a dataset (spec_core 1.6): encoder, its width, the speaker table and its size."""
    return dataclasses.replace(
        template,
        path=None,
        spk=dict(speakers),
        data=dataclasses.replace(
            template.data, encoder=encoder, encoder_out_channels=encoder_out_channels
        ),
        model=dataclasses.replace(template.model, n_spk=max(speakers.values(), default=0) + 1),
    )
