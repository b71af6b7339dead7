"""What results are written as: rate, bit depth, channels, tags."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from svc import __version__
from svc.audio.formats import BIT_DEPTHS, output_format
from svc.audio.io import AudioWriter
from svc.audio.resample import resample, resampled_length
from svc.conversion.channels import CHANNEL_MODES, ChannelMode, place
from svc.conversion.chunks import FloatArray
from svc.errors import ConfigError

logger = logging.getLogger(__name__)

SOFTWARE = f"svc {__version__} (voice conversion)"
"""What a result says it was made with: that a voice is synthetic must not get lost."""

LOWEST_RATE, HIGHEST_RATE = 8_000, 192_000  # Hz


@dataclass(frozen=True)
class ResultOptions:
    """How results are written.

    Raises:
        ConfigError: a value is out of its range; the message names the flag.
    """

    bit_depth: str | None = None  # of `BIT_DEPTHS`; None = 16, or as the codec does (--bit_depth)
    rate: int | Literal["source"] | None = None  # Hz; None = the voice's (--rate)
    channels: ChannelMode = "mono"  # (--channels)
    tags: bool = True  # copy title and others, and say what made it (--no_tags)

    def __post_init__(self) -> None:
        if self.bit_depth is not None and self.bit_depth not in BIT_DEPTHS:
            raise ConfigError(
                f'--bit_depth "{self.bit_depth}" is unknown: choose {", ".join(BIT_DEPTHS)}'
            )
        if isinstance(self.rate, int) and not LOWEST_RATE <= self.rate <= HIGHEST_RATE:
            raise ConfigError(
                f"--rate is {self.rate}: give a number from {LOWEST_RATE} to {HIGHEST_RATE} Hz, or "
                "source"
            )
        if self.channels not in CHANNEL_MODES:
            raise ConfigError(
                f'--channels "{self.channels}" is unknown: choose {", ".join(CHANNEL_MODES)}'
            )

    def rate_of(self, path: Path, voice_sr: int, source_sr: int) -> int:
        """Return the rate of a result, Hz.

        Args:
            path: the result; formats without the voice's rate take the next higher one.
            voice_sr: of the voice, Hz.
            source_sr: of its song, Hz.
        """
        if self.rate is None:
            return output_format(path).natural_rate(voice_sr, self.bit_depth)
        return source_sr if self.rate == "source" else self.rate

    def channels_of(self, n_channels: int) -> int:
        """Return the number of channels of a result whose song has `n_channels`."""
        return 1 if self.channels == "mono" else n_channels

    def check_format(self, path: Path, voice_sr: int) -> None:
        """Make sure, before a model is loaded, that results of this suffix can be written; for one
        channel, and where the rate is each song's, for the voice's.

        Raises:
            AudioError: as `check`.
        """
        self.check(path, voice_sr, output_format(path).natural_rate(voice_sr, self.bit_depth))

    def check(self, path: Path, voice_sr: int, source_sr: int, n_channels: int = 1) -> None:
        """Make sure, before the work, that a result can be written as it is asked for.

        Raises:
            AudioError: its format cannot have the rate, bit depth or channels, or needs an ffmpeg
                that is not there.
        """
        sr = self.rate_of(path, voice_sr, source_sr)
        AudioWriter(path, sr, self.channels_of(n_channels), bit_depth=self.bit_depth).check()

    def write(self, path: Path, wav: FloatArray, sr: int, tags: Mapping[str, str]) -> None:
        """Write a result.

        Args:
            path: the target.
            wav: (C, T).
            sr: Hz.
            tags: of its song.

        Raises:
            AudioError: it holds NaN, or see `check`.
            OutputError: it cannot be written.
        """
        kept = self.tags_of(tags)
        with AudioWriter(path, sr, len(wav), bit_depth=self.bit_depth, tags=kept) as writer:
            writer.write(wav)

    def tags_of(self, tags: Mapping[str, str]) -> dict[str, str]:
        """Return the tags of a result, from those of its song."""
        return {**tags, "software": SOFTWARE} if self.tags else {}


def shape_result(
    converted: FloatArray,
    voice_sr: int,
    sr: int,
    channels: FloatArray,
    source_sr: int,
    mode: ChannelMode,
) -> FloatArray:
    """Bring what a voice has sung to its rate, length and channels.

    Args:
        converted: (T',) at `voice_sr`.
        voice_sr: Hz.
        sr: rate of the result, Hz.
        channels: (C, T) the song.
        source_sr: its rate, Hz.
        mode: see `svc.conversion.channels`.

    Returns:
        (C or 1, ceil(T * sr / source_sr)) where the voice kept the length, as it does but for
        `compat`; it sounds when the song does.
    """
    n_source = channels.shape[1]
    wav = resample(converted, voice_sr, sr)
    if converted.size == resampled_length(n_source, source_sr, voice_sr):
        # There and back again is up to a sample longer than where it began.
        wav = wav[: resampled_length(n_source, source_sr, sr)]
    placed = place(wav, sr, channels, source_sr, mode)
    if len(placed) > 1 and placed.size:
        gain = gain_of(float(np.abs(placed).max()), float(np.abs(wav).max()))
        if gain is not None:
            placed *= gain
    return placed


def gain_of(peak: float, mono_peak: float) -> np.float32 | None:
    """Return by what a result with several channels is multiplied, and tell of it.

    A singer far on one side is louder there than a mono result; that is no clipping of ours.

    Args:
        peak: of the channels.
        mono_peak: of what the voice has sung.

    Returns:
        A factor below 1; None = it stays as it is.
    """
    most = max(1.0, mono_peak)
    if peak <= most:
        return None
    logger.warning(
        "turned down by %.1f dB: one channel would be louder than full scale",
        20 * np.log10(peak / most),
    )
    gain: np.float32 = np.float32(most / peak)
    return gain
