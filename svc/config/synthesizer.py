"""`config.json` of a synthesizer voice, read unchanged from so-vits-svc 4.0 and 4.1 (spec_core 1).

Defaults are what an absent key means to the original's inference (spec_core 1.3-1.5); new files are written with every
key explicit. Keys of ours are declared with `extension` and only written when set.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svc.atomic import write_text
from svc.config.encoders import (
    SPEECH_ENCODER_DIMS,
    WIDE_FILTER_ENCODERS,
    encoder_dim,
    encoder_paths,
    split_encoders,
)
from svc.config.schema import (
    extension,
    read_section,
    read_spk,
    read_text,
    warn_unknown,
    write_section,
)
from svc.errors import ConfigError

logger = logging.getLogger(__name__)

VOCODER_NAMES = ("nsf-hifigan", "nsf-snake-hifigan")


@dataclass(frozen=True)
class TrainConfig:
    """Section `train` (spec_core 1.3)."""

    segment_size: int  # samples the decoder is trained on at a time
    log_interval: int = 200  # steps
    eval_interval: int = 800  # steps
    seed: int = 1234
    epochs: int = 10000  # last epoch, inclusive
    learning_rate: float = 1e-4
    betas: tuple[float, ...] = (0.8, 0.99)
    eps: float = 1e-9
    batch_size: int = 6  # clips per process
    fp16_run: bool = False  # autocast
    half_type: str = "fp16"  # or bf16
    lr_decay: float = 0.999875  # per epoch
    init_lr_ratio: float = 1  # unused by the original
    warmup_epochs: int = 0
    c_mel: float = 45  # weight of the mel L1 loss
    c_kl: float = 1.0  # weight of the KL loss
    use_sr: bool = True  # unused
    max_speclen: int = 512  # unused
    port: str | int = "8001"
    keep_ckpts: int = 0  # checkpoints kept; 0 = all
    all_in_mem: bool = False
    vol_aug: bool = False
    gan_start_step: int = extension(0)  # steps of mel + KL + lf0 training before the discriminator
    source_weight: float = extension(0.0)  # of each harmonic when a net begins new; 0 = random
    crop_frames: int = extension(
        0
    )  # frames of the random crop of a clip; 0 = the original's 790 of 800
    max_bad_steps: int = extension(10)  # skipped in a row before a run goes back to its checkpoint
    ema_decay: float = extension(0.999)  # of the averaged weights that are heard; 0 = no average
    val_clips: int = extension(8)  # held-out clips that every evaluation sings

    def __post_init__(self) -> None:
        whole = (
            "segment_size", "log_interval", "eval_interval", "batch_size", "epochs", "val_clips",
            "max_bad_steps",
        )  # fmt: skip
        for name in whole:
            if getattr(self, name) < 1:
                raise ConfigError(f'"train.{name}" must be at least 1, found {getattr(self, name)}')
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(
                f'"train.ema_decay" must be at least 0 and below 1, found {self.ema_decay}'
            )
        if self.learning_rate <= 0:
            raise ConfigError(f'"train.learning_rate" must be above 0, found {self.learning_rate}')
        if not 0 <= self.source_weight <= 100:
            raise ConfigError(
                f'"train.source_weight" must be between 0 and 100, found {self.source_weight}'
            )
        if len(self.betas) != 2:
            raise ConfigError(f'"train.betas" must be two numbers, found {list(self.betas)}')


@dataclass(frozen=True)
class DataConfig:
    """Section `data` (spec_core 1.4)."""

    sampling_rate: int  # Hz
    filter_length: int  # n_fft of the linear spectrogram
    hop_length: int  # samples per frame
    win_length: int  # samples
    training_files: str = "filelists/train.txt"
    validation_files: str = "filelists/val.txt"
    max_wav_value: float = 32768.0
    n_mel_channels: int = 80
    mel_fmin: float = 0.0  # Hz
    mel_fmax: float | None = 22050  # Hz; null = half the sampling rate
    unit_interpolate_mode: str = (
        "left"  # how units are stretched to frames; templates say "nearest"
    )

    def __post_init__(self) -> None:
        for name in (
            "sampling_rate",
            "filter_length",
            "hop_length",
            "win_length",
            "n_mel_channels",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f'"data.{name}" must be at least 1, found {getattr(self, name)}')

    @property
    def spec_channels(self) -> int:
        """Bins of the linear spectrogram."""
        return self.filter_length // 2 + 1


@dataclass(frozen=True)
class ModelConfig:
    """Section `model` (spec_core 1.5)."""

    inter_channels: int  # latent width
    hidden_channels: int
    filter_channels: int  # feed-forward width
    n_heads: int
    n_layers: int  # of the prior encoder and of the F0 decoder
    kernel_size: int
    p_dropout: float
    resblock: str | int  # "1" = type 1, anything else = type 2
    resblock_kernel_sizes: tuple[int, ...]
    resblock_dilation_sizes: tuple[tuple[int, ...], ...]
    upsample_rates: tuple[int, ...]
    upsample_initial_channel: int
    upsample_kernel_sizes: tuple[int, ...]
    gin_channels: int  # speaker embedding width
    ssl_dim: int  # width of the units
    n_speakers: int  # rows of the speaker embedding
    n_flow_layer: int = 4
    n_layers_trans_flow: int = 3
    use_transformer_flow: bool = False
    flow_share_parameter: bool = False
    use_depthwise_conv: bool = False
    use_automatic_f0_prediction: bool = True
    vol_embedding: bool = False
    vocoder_name: str = "nsf-hifigan"
    speech_encoder: str = "vec768l12"  # one id, or two fused: "vec768l12+whisper-ppg-tiny"
    use_spectral_norm: bool = False
    speaker_embedding: bool = False  # unused
    n_layers_q: int = 3  # unused
    sampling_rate: int | None = extension(
        None
    )  # Hz of the harmonic source; the original's is 44100
    discriminator_width: float = extension(1.0)  # scales the discriminator's channels
    encoder_path: str | None = extension(None)  # its weights where they are not under pretrain/:
    # a file or folder; for a fusion "ID=PATH,ID=PATH"

    def __post_init__(self) -> None:
        kernels, dilations = self.resblock_kernel_sizes, self.resblock_dilation_sizes
        if len(self.upsample_rates) != len(self.upsample_kernel_sizes):
            raise ConfigError(
                f'"model.upsample_rates" has {len(self.upsample_rates)} entries and '
                f'"model.upsample_kernel_sizes" {len(self.upsample_kernel_sizes)}; they go in pairs'
            )
        if len(kernels) != len(dilations):
            raise ConfigError(
                f'"model.resblock_kernel_sizes" has {len(kernels)} entries and '
                f'"model.resblock_dilation_sizes" {len(dilations)}; they go in pairs'
            )
        if self.inter_channels % 2 or self.hidden_channels % self.n_heads:
            raise ConfigError(
                f'"model.inter_channels" ({self.inter_channels}) must be even and '
                f'"model.hidden_channels" ({self.hidden_channels}) a multiple of '
                f'"model.n_heads" ({self.n_heads})'
            )
        try:
            split_encoders(self.speech_encoder)
        except ConfigError as error:
            raise ConfigError(f'"model.speech_encoder": {error}') from None
        encoder_paths(self.speech_encoder, self.encoder_path, what='"model.encoder_path"')
        if self.vocoder_name not in VOCODER_NAMES:
            raise ConfigError(
                f'"model.vocoder_name" must be one of {", ".join(VOCODER_NAMES)}, '
                f'found "{self.vocoder_name}"'
            )


@dataclass(frozen=True)
class SvcConfig:
    """A whole `config.json`."""

    train: TrainConfig
    data: DataConfig
    model: ModelConfig
    spk: dict[str, int]  # speaker folder name -> id
    path: Path | None = None  # where it was read from, for messages
    unknown: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # kept on the round trip

    def __post_init__(self) -> None:
        product = math.prod(self.model.upsample_rates)
        if product != self.data.hop_length:
            raise ConfigError(
                f'the product of "model.upsample_rates" ({product}) must equal '
                f'"data.hop_length" ({self.data.hop_length})'
            )
        if self.train.segment_size % self.data.hop_length:
            raise ConfigError(
                f'"train.segment_size" ({self.train.segment_size}) must be a multiple of '
                f'"data.hop_length" ({self.data.hop_length})'
            )

        if 0 < self.train.crop_frames < self.segment_frames:
            raise ConfigError(
                f'"train.crop_frames" ({self.train.crop_frames}) must be 0 or at least the '
                f'{self.segment_frames} frames of "train.segment_size"'
            )

    @property
    def segment_frames(self) -> int:
        """Frames the decoder is trained on at a time."""
        return self.train.segment_size // self.data.hop_length

    def to_dict(self) -> dict[str, Any]:
        """Return the file's content: every key explicit, unknown keys of the file kept."""
        plain: dict[str, Any] = {
            name: {**write_section(getattr(self, name)), **self.unknown.get(name, {})}
            for name in ("train", "data", "model")
        }
        return {**plain, "spk": dict(self.spk), **self.unknown.get("", {})}


def parse_config(raw: Any, *, where: str, path: Path | None = None) -> SvcConfig:
    """Build a config from parsed JSON.

    Args:
        raw: the parsed file.
        where: its name for messages.
        path: where it was read from.

    Returns:
        The checked config.

    Raises:
        ConfigError: a key is missing or has a wrong type or value; the message names file, key and what is expected.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: a config is a JSON object with train, data, model and spk")
    for name in ("train", "data", "model", "spk"):
        if name not in raw:
            raise ConfigError(f'{where}: the key "{name}" is missing (expected an object)')
    model_raw = raw["model"]
    is_40 = isinstance(model_raw, Mapping) and "speech_encoder" not in model_raw
    if is_40 and model_raw.get("ssl_dim") == 256:
        # The original would assume vec768l12 and fail on the first convolution (spec_core 1.5).
        logger.warning('%s: no "model.speech_encoder"; taking vec256l9 (a 4.0 voice)', where)
        model_raw = {**model_raw, "speech_encoder": "vec256l9"}
    train, train_unknown = read_section(TrainConfig, raw["train"], where=where, name="train")
    data, data_unknown = read_section(DataConfig, raw["data"], where=where, name="data")
    model, model_unknown = read_section(ModelConfig, model_raw, where=where, name="model")
    top = {
        str(key): value
        for key, value in raw.items()
        if key not in ("train", "data", "model", "spk")
    }
    unknown = {"train": train_unknown, "data": data_unknown, "model": model_unknown, "": top}
    known = {
        name: {item.name for item in dataclasses.fields(cls)}
        for name, cls in (("train", TrainConfig), ("data", DataConfig), ("model", ModelConfig))
    }
    warn_unknown(where, unknown, {**known, "": {"train", "data", "model", "spk"}})
    try:
        return SvcConfig(train, data, model, read_spk(raw["spk"], where), path, unknown)
    except ConfigError as error:
        message = str(error)
        raise ConfigError(message if message.startswith(where) else f"{where}: {message}") from None


def load_config(path: str | Path) -> SvcConfig:
    """Read a `config.json`. Raises MissingFileError or ConfigError; see `parse_config`."""
    file = Path(path)
    text = read_text(file, "config")
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{file}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    return parse_config(raw, where=str(file), path=file)


def save_config(config: SvcConfig, path: str | Path) -> None:
    """Write a `config.json` atomically, two-space indent, UTF-8. Raises OutputError."""
    write_text(path, json.dumps(config.to_dict(), indent=2, ensure_ascii=False) + "\n")


def new_config(
    template: SvcConfig,
    *,
    speech_encoder: str,
    speakers: Mapping[str, int],
    vol_aug: bool = False,
    tiny: bool = False,
    encoder_path: str | None = None,
) -> SvcConfig:
    """Fill a template for a dataset as the original's file-list script does (spec_core 1.6).

    Args:
        template: a loaded template.
        speech_encoder: id of the content encoder, or two joined by "+"; sets ssl_dim, gin_channels and, for the wide
            ones, filter_channels.
        speakers: folder name -> id.
        vol_aug: volume embedding and augmentation.
        tiny: force filter_channels to 512 as `--tiny` does.
        encoder_path: weights other than the encoder's default ones, see `svc.config.encoders.encoder_paths`.

    Returns:
        The config of the new voice.

    Raises:
        ConfigError: unknown encoder, or a path that does not say whose it is.
    """
    dim = encoder_dim(speech_encoder)
    encoder_paths(speech_encoder, encoder_path)
    # The widths of speaker embedding and feed-forward parts have nothing to do with how much the
    # units say, so a fusion keeps those of a voice with its first encoder alone.
    leader = split_encoders(speech_encoder)[0]
    width = SPEECH_ENCODER_DIMS[leader]
    model = template.model
    # A template that is narrower than the encoder on purpose (the quick one) keeps its narrow speaker embedding.
    usual = SPEECH_ENCODER_DIMS[split_encoders(model.speech_encoder)[0]]
    standard = model.gin_channels in (model.ssl_dim, usual)
    filters = width if leader in WIDE_FILTER_ENCODERS and standard else model.filter_channels
    return dataclasses.replace(
        template,
        path=None,
        spk=dict(speakers),
        train=dataclasses.replace(template.train, vol_aug=vol_aug or template.train.vol_aug),
        model=dataclasses.replace(
            model,
            speech_encoder=speech_encoder,
            ssl_dim=dim,
            gin_channels=width if standard else model.gin_channels,
            filter_channels=512 if tiny else filters,
            n_speakers=max(speakers.values(), default=0) + 1,
            vol_embedding=vol_aug or model.vol_embedding,
            encoder_path=encoder_path,
        ),
    )
