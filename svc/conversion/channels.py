"""The channels of a song: what the voice hears of them, and its result put back where the singer stood.

A voice sings one channel, made from the mean of the song's (the mid). Two ways lead back to stereo:

* ``keep``: the result goes into every channel, louder or softer moment by moment as the singer was
  there. Level differences between channels stay, and the mean of the channels is the mono result,
  sample for sample, so a mix for one loudspeaker is what ``mono`` gives. Differences in time and
  phase, such as the echo of a room, belong to the old recording and go.
* ``mid-side``: the mid is replaced, and half the difference of left and right is left as it was but
  for its loudness, which follows the voice's. Room and doublings stay, and so does what they hold of
  the singer.

Converting each channel by itself is no third way: a voice sings quiet channels as loud as the others,
which moves the singer to the middle, and two conversions differ in phase, which is heard as a chorus.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from svc.audio.loudness import rms_frames
from svc.audio.resample import resample
from svc.conversion.chunks import FloatArray
from svc.errors import AudioError

ChannelMode = Literal["mono", "keep", "mid-side"]
CHANNEL_MODES: tuple[ChannelMode, ...] = get_args(ChannelMode)

_WINDOW_SECONDS = (
    0.05  # over which a level is measured: a syllable's onset, not a period of the voice
)
_HOP_SECONDS = 0.01
_QUIET = 1e-3  # of the loudest frame; what is softer says nothing of where the singer stands
_CANCELLED_DB = -20.0


def mix_down(channels: FloatArray) -> FloatArray:
    """Return the mean of the channels: (C, T) -> (T,), as `svc.audio.io.read_audio` gives it."""
    if channels.shape[0] == 1:
        return np.ascontiguousarray(channels[0])
    mixed: FloatArray = np.ascontiguousarray(channels.T).mean(axis=1, dtype=np.float32)
    return mixed


def lost_in_mono(channels: FloatArray) -> float | None:
    """Return how much softer the mean of the channels is than they are where they cancel each other.

    Args:
        channels: (C, T).

    Returns:
        dB below 0, or None where nothing of note is lost.
    """
    power = float(np.mean(np.square(channels, dtype=np.float64))) if channels.size else 0.0
    if power == 0.0 or channels.shape[0] == 1:
        return None
    mid = float(np.mean(np.square(mix_down(channels), dtype=np.float64)))
    found = 10 * np.log10(max(mid / power, 1e-12))
    return found if found < _CANCELLED_DB else None


def check_channels(n_channels: int, mode: ChannelMode) -> None:
    """Raise AudioError for a song that has no two sides where ``mid-side`` is asked for."""
    if mode == "mid-side" and n_channels > 2:
        raise AudioError(
            f"--channels mid-side is for stereo and this has {n_channels} channels; use keep or mono"
        )


def place(
    converted: FloatArray, sr: int, channels: FloatArray, source_sr: int, mode: ChannelMode
) -> FloatArray:
    """Put a converted song into the channels of its source.

    Args:
        converted: (T',) what the voice made of `mix_down(channels)`.
        sr: its rate, Hz.
        channels: (C, T) the source.
        source_sr: its rate, Hz.
        mode: how.

    Returns:
        (1, T') where the source has one channel or the mode is "mono"; (C, T') otherwise.

    Raises:
        AudioError: see `check_channels`.
    """
    check_channels(channels.shape[0], mode)
    if mode == "mono" or channels.shape[0] == 1:
        return converted[None]
    if mode == "keep":
        return LevelImage.of(channels, source_sr).apply(converted, sr)
    return _with_side(converted, sr, channels, source_sr)


@dataclass(frozen=True)
class LevelImage:
    """How loud each channel of a song is, as factors of their mean.

    Attributes:
        gains: (C, F), the mean over C is 1.
        frame_seconds: time from one frame to the next; the first one is at 0.
    """

    gains: npt.NDArray[np.float64]
    frame_seconds: float

    @classmethod
    def of(cls, channels: FloatArray, sr: int) -> LevelImage:
        """Measure a song.

        Args:
            channels: (C, T).
            sr: Hz.
        """
        hop, window = max(1, round(_HOP_SECONDS * sr)), max(2, round(_WINDOW_SECONDS * sr) // 2 * 2)
        levels = np.stack([rms_frames(row, window, hop) for row in channels]).astype(np.float64)
        total = levels.sum(axis=0)  # (F,)
        loud = np.flatnonzero(total > _QUIET * total.max(initial=0.0))
        if loud.size == 0:
            return cls(np.ones((len(channels), 1)), hop / sr)
        known = len(channels) * levels[:, loud] / total[loud]
        # Pauses take the image over from what sounds around them.
        frames = np.arange(total.size)
        return cls(np.stack([np.interp(frames, loud, row) for row in known]), hop / sr)

    def apply(self, wav: FloatArray, sr: int, *, start: int = 0) -> FloatArray:
        """Spread one channel.

        Args:
            wav: (T,), or a stretch of it.
            sr: its rate, Hz.
            start: first sample of the stretch in the song.

        Returns:
            float32 (C, T).
        """
        at = (start + np.arange(wav.size)) / (sr * self.frame_seconds)
        frames = np.arange(self.gains.shape[1])
        rows = [wav * np.interp(at, frames, row) for row in self.gains]
        return np.stack(rows).astype(np.float32)


def _with_side(converted: FloatArray, sr: int, channels: FloatArray, source_sr: int) -> FloatArray:
    """Return left and right (2, T') of a new mid and the old side."""
    side = resample((channels[0] - channels[1]) / 2, source_sr, sr)
    fitted = np.zeros(converted.size, dtype=np.float32)
    n_both = min(side.size, converted.size)
    fitted[:n_both] = side[:n_both]
    old, new = _rms(mix_down(channels)), _rms(converted)
    scaled = fitted * np.float32(new / old if old > 0 and new > 0 else 1.0)
    return np.stack((converted + scaled, converted - scaled))


def _rms(wav: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(wav, dtype=np.float64)))) if wav.size else 0.0
