"""Formats of audio files: which suffixes are known, and what each can hold when it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from svc.errors import AudioError

SNDFILE_SUFFIXES = frozenset({
    ".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au",
    ".snd", ".caf", ".w64", ".rf64",
})  # fmt: skip
"""Those of formats that libsndfile reads."""
_FFMPEG_SUFFIXES = frozenset({
    ".m4a", ".m4b", ".aac", ".mp4", ".wma", ".webm", ".mka", ".ac3", ".amr", ".ape", ".wv", ".tta",
    ".mp2",
})  # fmt: skip
AUDIO_SUFFIXES: frozenset[str] = SNDFILE_SUFFIXES | _FFMPEG_SUFFIXES
"""Lower-case suffixes of files that are taken for recordings."""

BIT_DEPTHS = ("16", "24", "32f")
"""Sample formats to choose from: whole numbers of 16 or 24 bits, or 32-bit floats."""

_PCM = {"16": "PCM_16", "24": "PCM_24"}
_PCM_FLOAT = {**_PCM, "32f": "FLOAT"}
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_WEBM_RATES = (48000,)  # what its readers make of any other one
_AAC_RATES = (
    8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000,
)  # fmt: skip
"""Others would be resampled by ffmpeg, without a word."""
_RIFF_BYTES = (1 << 32) - (1 << 20)  # sizes are 32-bit numbers; some room for the header


@dataclass(frozen=True)
class OutputFormat:
    """How files of one suffix are written.

    Attributes:
        container: libsndfile's name of the format, or ffmpeg's of the muxer.
        depths: bit depth -> libsndfile's name of the sample format, or ffmpeg's words for it.
        lossy: the codec where no bit depth is asked for, named as in `depths`; "" = 16 bits.
        by_ffmpeg: ffmpeg writes it.
        kbits: of ffmpeg's lossy codec, kbit/s per channel.
        rates: the only rates of its lossy codec, Hz, rising; () = the encoder decides.
        most_bytes: longest file; None = there is no limit that matters.
    """

    container: str
    depths: Mapping[str, str]
    lossy: str = ""
    by_ffmpeg: bool = False
    kbits: int = 0
    rates: tuple[int, ...] = ()
    most_bytes: int | None = None

    def natural_rate(self, sr: int, bit_depth: str | None = None) -> int:
        """Return `sr`, or where the format cannot have it the next higher rate, else its highest one, Hz.

        Args:
            sr: Hz.
            bit_depth: see `codec`; formats that are lossy without one may have any rate with it.
        """
        rates = self.rates if bit_depth is None else ()
        return next((rate for rate in rates if rate >= sr), rates[-1]) if rates else sr

    def refused_rate(self, sr: int, codec: str) -> str:
        """Say why a codec cannot have a rate; "" = it can, or the encoder says so itself."""
        if codec != self.lossy or not self.rates or sr in self.rates:
            return ""
        return f"it has {', '.join(map(str, reversed(self.rates)))} Hz only"

    def codec(self, path: Path, bit_depth: str | None) -> str:
        """Return libsndfile's or ffmpeg's words for samples of a bit depth; None = the usual ones.

        Raises:
            AudioError: the format does not have it.
        """
        if bit_depth is None:
            return self.lossy or self.depths["16"]
        if bit_depth not in self.depths:
            there = ", ".join(self.depths) or "no bit depths: its codec is lossy"
            raise AudioError(
                f'cannot write {path}: {path.suffix} has no bit depth "{bit_depth}", it has {there}; '
                "choose another format, such as .wav, or leave the bit depth out"
            )
        return self.depths[bit_depth]


_ALAC = {"16": "alac -sample_fmt s16p", "24": "alac -sample_fmt s32p -bits_per_raw_sample 24"}
_FORMATS: dict[str, OutputFormat] = {
    ".flac": OutputFormat("FLAC", _PCM),
    ".wav": OutputFormat("WAV", _PCM_FLOAT, most_bytes=_RIFF_BYTES),
    ".ogg": OutputFormat("OGG", {}, "VORBIS"),
    ".mp3": OutputFormat("MP3", {}, "MPEG_LAYER_III"),
    ".opus": OutputFormat("OGG", {}, "OPUS", rates=_OPUS_RATES),
    ".aiff": OutputFormat("AIFF", _PCM_FLOAT, most_bytes=_RIFF_BYTES),
    ".caf": OutputFormat("CAF", _PCM_FLOAT),
    ".w64": OutputFormat("W64", _PCM_FLOAT),
    ".m4a": OutputFormat("ipod", _ALAC, "aac", by_ffmpeg=True, kbits=128, rates=_AAC_RATES),
    ".mp4": OutputFormat("mp4", _ALAC, "aac", by_ffmpeg=True, kbits=128, rates=_AAC_RATES),
    ".webm": OutputFormat("webm", {}, "libopus", by_ffmpeg=True, kbits=96, rates=_WEBM_RATES),
}
OUTPUT_SUFFIXES: tuple[str, ...] = tuple(_FORMATS)
"""Suffixes that can be written, with their dot; the usual ones first."""


def output_format(path: Path) -> OutputFormat:
    """Return how a file is written, by its suffix in any case.

    Raises:
        AudioError: no writer knows the suffix.
    """
    found = _FORMATS.get(path.suffix.lower())
    if found is None:
        known = " ".join(sorted(_FORMATS))
        raise AudioError(f'cannot write {path}: unknown suffix "{path.suffix}"; use one of {known}')
    return found
