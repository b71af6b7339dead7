"""`config.json` of a mel vocoder, the one beside its weights, read unchanged (spec_vocoder 1)."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from svc.config.diffusion import DiffusionConfig
from svc.config.schema import read_section, read_text
from svc.errors import ConfigError

VOCODER_TYPES = ("nsf-hifigan", "nsf-hifigan-log10")
"""Names for `vocoder.type` of a diffusion config; log10 = trained on base-10 mels."""


@dataclass(frozen=True)
class VocoderConfig:
    """The keys that inference uses; a file has many more, for training."""

    resblock: str | int  # "1" = type 1, anything else type 2
    upsample_rates: tuple[int, ...]
    upsample_kernel_sizes: tuple[int, ...]
    upsample_initial_channel: int
    resblock_kernel_sizes: tuple[int, ...]
    resblock_dilation_sizes: tuple[tuple[int, ...], ...]
    num_mels: int
    n_fft: int
    win_size: int  # samples
    hop_size: int  # samples
    sampling_rate: int  # Hz
    fmin: float  # Hz
    fmax: float | None  # Hz; null = half the sampling rate
    mini_nsf: bool = False  # only the fundamental is synthesised (PC-NSF-HiFiGAN)
    snake: bool = False  # Snake activations, as "nsf-snake-hifigan" of a voice (our own key)

    def __post_init__(self) -> None:
        whole = (
            "upsample_initial_channel", "num_mels", "n_fft", "win_size", "hop_size", "sampling_rate",
        )  # fmt: skip
        for key in whole:
            if getattr(self, key) < 1:
                raise ConfigError(f'"{key}" is {getattr(self, key)}; it must be 1 or more')
        pairs = (
            ("upsample_rates", "upsample_kernel_sizes"),
            ("resblock_kernel_sizes", "resblock_dilation_sizes"),
        )
        for first, second in pairs:
            ours, theirs = len(getattr(self, first)), len(getattr(self, second))
            if ours != theirs or not ours:
                raise ConfigError(f'"{first}" has {ours} entries and "{second}" {theirs}')
        if min(self.upsample_rates) < 1 or math.prod(self.upsample_rates) != self.hop_size:
            raise ConfigError(
                f'"upsample_rates" {list(self.upsample_rates)} multiply to '
                f'{math.prod(self.upsample_rates)}, "hop_size" is {self.hop_size}'
            )
        if self.mini_nsf and self.snake:
            raise ConfigError('"mini_nsf" and "snake" are both true: there is no such vocoder')
        if self.win_size > self.n_fft:
            raise ConfigError(f'"win_size" {self.win_size} is longer than "n_fft" {self.n_fft}')
        if not 0 <= self.fmin < self.highest <= self.sampling_rate / 2:
            raise ConfigError(
                f'"fmin" {self.fmin:g} and "fmax" {self.highest:g} do not lie in order between 0 '
                f'and half of "sampling_rate" {self.sampling_rate}'
            )

    @property
    def highest(self) -> float:
        """Upper edge of the mel bands, Hz."""
        return self.sampling_rate / 2 if self.fmax is None else self.fmax


def load_vocoder_config(path: str | Path) -> VocoderConfig:
    """Read the `config.json` of a vocoder.

    Raises:
        MissingFileError: no such file.
        ConfigError: not JSON, or a key is missing or has a wrong type or value; names file and key.
    """
    file = Path(path)
    where = str(file)
    try:
        raw = json.loads(read_text(file, "vocoder config"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: a vocoder config is a JSON object, found {type(raw).__name__}")
    missing = [
        field.name
        for field in dataclasses.fields(VocoderConfig)
        if field.default is dataclasses.MISSING and field.name not in raw
    ]
    if missing:
        raise ConfigError(
            f"{where}: is no config of an NSF-HiFiGAN vocoder, it lacks {', '.join(missing)}; use "
            "the config.json that was published with the weights"
        )
    config, _ = read_section(VocoderConfig, raw, where=where, name="")
    return config


def check_vocoder(
    config: DiffusionConfig,
    vocoder: VocoderConfig,
    *,
    n_mels: int | None = None,
    advice: str = "give the vocoder it was trained with",
) -> None:
    """Refuse a vocoder that does not speak the mels of a diffusion voice.

    Args:
        config: of the diffusion voice.
        vocoder: of the vocoder.
        n_mels: mel bands of the voice's net (`Unit2Mel.n_mels`), which its config does not tell;
            None = not known.
        advice: what to do.

    Raises:
        ConfigError: names what differs, and both values.
    """
    facts = (
        ("data.sampling_rate", config.data.sampling_rate, "sampling_rate", vocoder.sampling_rate),
        ("data.block_size", config.data.block_size, "hop_size", vocoder.hop_size),
        ("mel bands", vocoder.num_mels if n_mels is None else n_mels, "num_mels", vocoder.num_mels),
    )
    wrong = [
        f"{key} {mine} and {their_key} {theirs}"
        for key, mine, their_key, theirs in facts
        if mine != theirs
    ]
    if wrong:
        raise ConfigError(
            f"the diffusion voice ({config.path or 'its config'}) and its vocoder do not fit: "
            f"{'; '.join(wrong)}; {advice}"
        )
