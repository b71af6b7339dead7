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
_STEP_FRAMES = 128  # of a meter of levels that are looked at at once


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
    meter = ChannelMeter(channels.shape[0])
    meter.feed(channels, mix_down(channels))
    return meter.lost_in_mono


class Power:
    """Mean square of samples that come in blocks; not a bit depends on where the blocks end."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0

    def feed(self, wav: FloatArray) -> None:
        """Take the next samples, (n,)."""
        squares = np.square(wav, dtype=np.float64)
        if squares.size:
            # One after the other: a sum in pairs would be rounded otherwise for other blocks.
            squares[0] += self._sum
            self._sum = float(np.cumsum(squares)[-1])
            self._count += squares.size

    @property
    def mean(self) -> float:
        """Mean square so far; 0 where there is nothing."""
        return self._sum / self._count if self._count else 0.0

    @property
    def rms(self) -> float:
        """Its square root."""
        return float(np.sqrt(self.mean))


class ChannelMeter:
    """Gathers how loud the channels of a song are, and their mean.

    Args:
        n_channels: C.
    """

    def __init__(self, n_channels: int) -> None:
        self.mid = Power()  # of the mean of the channels
        self._channels = [Power() for _ in range(n_channels)]

    def feed(self, channels: FloatArray, mid: FloatArray) -> None:
        """Take the next samples.

        Args:
            channels: (C, n).
            mid: (n,) their mean, see `mix_down`.
        """
        self.mid.feed(mid)
        if len(self._channels) > 1:
            for power, row in zip(self._channels, channels):
                power.feed(row)

    @property
    def lost_in_mono(self) -> float | None:
        """See `svc.conversion.channels.lost_in_mono`."""
        power = sum(channel.mean for channel in self._channels) / len(self._channels)
        if power == 0.0:
            return None
        found = 10 * np.log10(max(self.mid.mean / power, 1e-12))
        return float(found) if found < _CANCELLED_DB else None


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
        meter = LevelMeter(channels.shape[0], sr)
        meter.feed(channels)
        return meter.finish()

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


class LevelMeter:
    """Measures a `LevelImage` of a song that comes in blocks of any sizes.

    In memory are four bytes for every 10 ms of a channel: 3 MB for an hour of stereo.

    Args:
        n_channels: C.
        sr: Hz.
    """

    def __init__(self, n_channels: int, sr: int) -> None:
        self._hop = max(1, round(_HOP_SECONDS * sr))
        self._window = max(2, round(_WINDOW_SECONDS * sr) // 2 * 2)
        self._frame_seconds = self._hop / sr
        # Frames are centred, with zeros before the song and behind it, as those of `rms_frames`.
        self._rest = np.zeros((n_channels, self._window // 2), dtype=np.float32)
        self._levels: list[FloatArray] = []  # (C, n) each

    def feed(self, channels: FloatArray) -> None:
        """Take the next samples, (C, n)."""
        step = _STEP_FRAMES * self._hop
        for start in range(0, channels.shape[1], step):
            part = channels[:, start : start + step]
            self._rest = np.concatenate((self._rest, part), axis=1)
            if self._rest.shape[1] < self._window:
                continue
            frames = np.lib.stride_tricks.sliding_window_view(self._rest, self._window, axis=1)
            # The mean goes over memory in one piece, whatever the block: it is rounded alike.
            squares = np.square(frames[:, :: self._hop])
            self._levels.append(np.sqrt(squares.mean(axis=-1)))
            self._rest = self._rest[:, squares.shape[1] * self._hop :].copy()

    def finish(self) -> LevelImage:
        """Return the image; nothing may be fed afterwards."""
        self.feed(np.zeros((len(self._rest), self._window // 2), dtype=np.float32))
        n_channels = len(self._rest)
        levels = np.concatenate(self._levels, axis=1).astype(np.float64)
        total = levels.sum(axis=0)  # (F,)
        loud = np.flatnonzero(total > _QUIET * total.max(initial=0.0))
        if loud.size == 0:
            return LevelImage(np.ones((n_channels, 1)), self._frame_seconds)
        known = n_channels * levels[:, loud] / total[loud]
        # Pauses take the image over from what sounds around them.
        frames = np.arange(total.size)
        gains = np.stack([np.interp(frames, loud, row) for row in known])
        return LevelImage(gains, self._frame_seconds)


def with_side(mid: FloatArray, side: FloatArray, factor: float) -> FloatArray:
    """Return left and right of a new mid and the old side.

    Args:
        mid: (n,) what the voice made.
        side: (n,) half the difference of left and right of the song, at the same rate.
        factor: of `side`; see `side_factor`.

    Returns:
        (2, n).
    """
    scaled = side * np.float32(factor)
    return np.stack((mid + scaled, mid - scaled))


def side_factor(old: float, new: float) -> float:
    """Return by what the side is multiplied, from the RMS of the old mid and of the new one."""
    return new / old if old > 0 and new > 0 else 1.0


def side_of(channels: FloatArray) -> FloatArray:
    """Return half the difference of left and right, (2, n) -> (n,)."""
    side: FloatArray = (channels[0] - channels[1]) / 2
    return side


def _with_side(converted: FloatArray, sr: int, channels: FloatArray, source_sr: int) -> FloatArray:
    """Return left and right (2, T') of a new mid and the old side."""
    side = resample(side_of(channels), source_sr, sr)
    fitted = np.zeros(converted.size, dtype=np.float32)
    n_both = min(side.size, converted.size)
    fitted[:n_both] = side[:n_both]
    return with_side(converted, fitted, side_factor(_rms(mix_down(channels)), _rms(converted)))


def _rms(wav: FloatArray) -> float:
    power = Power()
    power.feed(wav)
    return power.rms
