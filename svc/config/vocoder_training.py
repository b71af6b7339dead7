"""How a mel vocoder is trained: the section `train` that this project adds to the `config.json` of a vocoder.

The file stays one that every program of the community reads: it ignores keys it does not know (spec_vocoder 1).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svc.config.schema import extension, read_section, warn_unknown, write_section
from svc.config.synthesizer import TrainConfig
from svc.config.vocoder import VocoderConfig, load_vocoder_config
from svc.errors import ConfigError


@dataclass(frozen=True)
class VocoderTrainConfig(TrainConfig):
    """Section `train`; keys as a voice's (spec_core 1.3), of which those about units, KL and speakers have no use.

    Nor have `ema_decay` and `val_clips`: no average of the weights is kept, `best/` holds the plain weights of
    the best evaluation, and how many clips are held out and sung is said by ``--val_clips``.
    """

    segment_size: int = 16384  # samples of a crop
    log_interval: int = 100  # steps
    eval_interval: int = 1000  # steps
    epochs: int = 100000  # last epoch, inclusive
    learning_rate: float = 2e-4
    batch_size: int = 16  # crops
    half_type: str = "bf16"
    lr_decay: float = 0.999  # per epoch
    keep_ckpts: int = 2
    vol_aug: bool = True  # half of the crops get a random gain
    discriminator_width: float = extension(1.0)  # scales the discriminator's channels

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.discriminator_width > 0:
            raise ConfigError(
                f'"train.discriminator_width" must be above 0, found {self.discriminator_width}'
            )


@dataclass(frozen=True)
class VocoderRunConfig:
    """A vocoder and how it is trained."""

    vocoder: VocoderConfig
    train: VocoderTrainConfig
    path: Path | None = None  # where it was read from
    others: Mapping[str, Any] = field(default_factory=dict)  # further keys of the file

    def __post_init__(self) -> None:
        vocoder, segment = self.vocoder, self.train.segment_size
        if vocoder.win_size != vocoder.n_fft:
            raise ConfigError(
                f'"win_size" {vocoder.win_size} and "n_fft" {vocoder.n_fft} must be equal for training'
            )
        if segment % vocoder.hop_size or segment < vocoder.n_fft:
            least = -(-vocoder.n_fft // vocoder.hop_size)
            raise ConfigError(
                f'"train.segment_size" ({segment}, --segment_frames times "hop_size") must be a multiple '
                f'of "hop_size" ({vocoder.hop_size}) and hold one window: at least {least} frames'
            )

    @property
    def segment_frames(self) -> int:
        """Frames of a crop."""
        return self.train.segment_size // self.vocoder.hop_size

    def to_dict(self) -> dict[str, Any]:
        """Return the file's content: every key explicit, other keys of the file kept."""
        return {
            **self.others,
            **write_section(self.vocoder),
            "train": write_section(self.train),
        }


def load_vocoder_run_config(path: str | Path) -> VocoderRunConfig:
    """Read the `config.json` of a vocoder; a published one has no section `train` and gets the usual values.

    Raises:
        MissingFileError: no such file.
        ConfigError: not the config of a vocoder, or a value that training cannot use; names file and key.
    """
    file = Path(path)
    where = str(file)
    vocoder = load_vocoder_config(file)
    raw = json.loads(file.read_text(encoding="utf-8-sig"))  # an object: it was read just now
    train, unknown = read_section(
        VocoderTrainConfig, raw.get("train", {}), where=where, name="train"
    )
    known = {item.name for item in dataclasses.fields(VocoderTrainConfig)}
    warn_unknown(where, {"train": unknown}, {"train": known})
    own = {item.name for item in dataclasses.fields(VocoderConfig)} | {"train"}
    others = {str(key): value for key, value in raw.items() if key not in own}
    try:
        return VocoderRunConfig(vocoder, train, file, others)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def check_same_vocoder(
    config: VocoderRunConfig, other: Mapping[str, Any], where: str, advice: str
) -> None:
    """Refuse to train with weights of another vocoder.

    Args:
        config: the config now.
        other: keys of the config that the weights were made with.
        where: the weights, for the message.
        advice: the ways on.

    Raises:
        ConfigError: names what differs.
    """
    now = write_section(config.vocoder)
    then = {
        item.name: other.get(item.name, item.default) for item in dataclasses.fields(VocoderConfig)
    }
    # Numbers of a file may be whole or not, and a rate is the same rate: compare as they were read.
    differing = [
        f"{name} {then[name]!r} -> {now[name]!r}" for name in now if then[name] != now[name]
    ]
    if differing:
        raise ConfigError(
            f"the config {config.path} differs from the one of {where} ({'; '.join(differing)}); {advice}"
        )
