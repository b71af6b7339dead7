"""Bringing a song into the range of a voice: which shift is sung, and what is said about it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from svc.audio.pitch import F0Track
from svc.conversion.backend import Backend
from svc.conversion.options import InferOptions
from svc.conversion.speaker_mix import SpeakerMix
from svc.conversion.speakers import find_speaker
from svc.errors import ConfigError
from svc.f0.range_files import RANGE_FILE
from svc.f0.voice_range import Pitches, VoiceRange, choose_transpose

_MIX_POINTS = 1000  # of a song, at which its mix is looked at
MUCH = 0.2  # share of a song outside of the voice's range that is worth a warning


@dataclass(frozen=True)
class KeyFit:
    """How a song is going to be transposed.

    Attributes:
        options: those given, with the shift to sing.
        chosen: what was chosen and why, for the user; "" where the shift was given.
        warning: that much of the song is out of reach although the shift was given; "" = it is not.
    """

    options: InferOptions
    chosen: str = ""
    warning: str = ""


class Melody:
    """The pitch of a song's windows, kept while they are sung: four bytes for each frame."""

    def __init__(self) -> None:
        self._f0: list[npt.NDArray[np.float32]] = []

    def add(self, track: F0Track) -> None:
        """Take what was heard in the next window."""
        self._f0.append(np.where(track.uv > 0.5, track.f0, 0).astype(np.float32))

    def tracks(self) -> Iterator[F0Track]:
        """Yield the windows' tracks, f0 0 where nothing is voiced."""
        for f0 in self._f0:
            yield F0Track(f0, (f0 > 0).astype(np.float32))


def fit_key(song: Pitches, voice: VoiceRange, speaker: str, options: InferOptions) -> KeyFit:
    """Choose the shift of a song, or look at the one that is given.

    Args:
        song: its pitches.
        voice: range of the target voice.
        speaker: its name.
        options: `fit_to_voice` and `transpose` are used.

    Returns:
        Options with `transpose` set and nothing left to choose, and what to tell.
    """
    octaves = options.fit_to_voice == "octaves"
    choice = choose_transpose(song, voice, whole_octaves=octaves)
    if options.fit_to_voice == "no":
        return KeyFit(options, warning=_warning(song, voice, speaker, options.transpose))
    fitted = replace(options, fit_to_voice="no", transpose=float(choice.semitones))
    sung = VoiceRange.of(song)
    text = f"-t {choice.semitones} ({choice.reason})"
    if sung is not None:
        text += f"; song {sung}, voice {voice}; outside of the voice's range: "
        text += f"{choice.outside_before:.0%} of the song"
        if choice.semitones:
            text += f" as it is, {choice.outside_after:.0%} transposed"
    return KeyFit(fitted, chosen=text)


def _warning(song: Pitches, voice: VoiceRange, speaker: str, semitones: float) -> str:
    """Say that much of a song is out of reach, and which shift would do."""
    outside = voice.share_outside(song, semitones)
    if outside <= MUCH:
        return ""
    choice = choose_transpose(song, voice)
    sung = VoiceRange.of(song)
    where = f"at -t {semitones:g} " if semitones else ""
    text = (
        f'{outside:.0%} of the song ({sung}) {where}lies outside of what "{speaker}" sings '
        f"({voice})"
    )
    if outside - choice.outside_after <= 0.05:
        return f"{text}, and no other transposition helps"
    return f"{text}; -t {choice.semitones} would leave {choice.outside_after:.0%} (-t auto)"


def unknown_range(speaker: str, folder: Path | None = None) -> ConfigError:
    """Make the error for a voice whose range nobody knows; it names the command that helps.

    Args:
        speaker: name of the voice.
        folder: where the model lies; None = not known.
    """
    target = RANGE_FILE if folder is None else str(folder / RANGE_FILE)
    command = shlex.join(["-s", speaker, "-o", target])
    return ConfigError(
        f'-t auto needs to know which notes "{speaker}" sings, and this model does not tell '
        "(svc train notes it, other programs do not); measure recordings of the voice with  "
        f"svc voice-range RECORDINGS {command}"
    )


def range_of(
    voice: Backend, speaker: str | int | SpeakerMix, seconds: float, *, needed: bool
) -> tuple[str, VoiceRange | None]:
    """Find name and range of who sings.

    Args:
        voice: whose ranges are looked at.
        speaker: name or id, or a mix.
        seconds: length of the song; a mix in seconds depends on it.
        needed: not to know the range is an error.

    Returns:
        The name, or what a mix was made of; and the range, None where it is not known.

    Raises:
        ConfigError: an unknown speaker, a range that is needed and not known, or a mix shorter than
            the song.
    """
    if isinstance(speaker, SpeakerMix):
        mix = speaker.as_fractions(seconds)
        return speaker.what, range_of_mix(voice.ranges, mix, needed=needed)
    name, _ = find_speaker(voice.speakers, speaker)
    known = voice.ranges.get(name)
    if known is None and needed:
        raise unknown_range(name)
    return name, known


def range_of_mix(
    ranges: Mapping[str, VoiceRange], mix: SpeakerMix, *, needed: bool
) -> VoiceRange | None:
    """Return the range of a mix: its speakers' ranges, weighted by their shares of the song.

    Args:
        ranges: those that are known, by name.
        mix: who sings when, in fractions of the song.
        needed: not to know one is an error.

    Returns:
        The range, or None where that of a speaker is not known.

    Raises:
        ConfigError: a range that is needed is not known.
    """
    voices = []
    for name, share in zip(mix.speakers, mix.weights(_MIX_POINTS).mean(axis=0)):
        if name is None or share == 0:
            continue
        if name not in ranges:
            if needed:
                raise unknown_range(name)
            return None
        voices.append((ranges[name], float(share)))
    return VoiceRange.mixed(voices)
