"""Cutting recordings at silences: the slicer in front of conversion, and 5-15 s clips for a data
set.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from svc.audio.levels import FrameLevels
from svc.audio.loudness import rms_frames
from svc.errors import ConfigError

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording, in samples: ``wav[start:end]``."""

    start: int
    end: int
    silent: bool

    @property
    def n_samples(self) -> int:
        """Length in samples."""
        return self.end - self.start


@dataclass(frozen=True)
class Dropped:
    """A stretch of a recording that no clip holds, in samples."""

    start: int
    end: int
    reason: str  # "silent" or "too short"


class Slicer:
    """Cuts at long silences: so-vits-svc 4.1 behaviour, spec_core 8.4.

    Args:
        sr: sampling rate of the recordings, Hz.
        threshold_db: frames below it are silent, dBFS of RMS.
        min_length_ms: a segment runs at least so long before a silence inside the recording ends
            it.
        min_interval_ms: shortest silence that counts.
        hop_ms: step of the analysis.
        max_silence_ms: silence that voiced neighbours keep of a longer one.

    Raises:
        ConfigError: not min_length >= min_interval >= hop, or max_silence < hop.
    """

    def __init__(
        self,
        sr: int,
        *,
        threshold_db: float = -40.0,
        min_length_ms: float = 5000,
        min_interval_ms: float = 300,
        hop_ms: float = 20,
        max_silence_ms: float = 5000,
    ) -> None:
        if not min_length_ms >= min_interval_ms >= hop_ms > 0 or max_silence_ms < hop_ms:
            raise ConfigError(
                f"slicer: need min length {min_length_ms} ms >= min interval {min_interval_ms} ms "
                f">= hop {hop_ms} ms > 0 and max silence {max_silence_ms} ms >= hop; "
                "change these options"
            )
        interval = sr * min_interval_ms / 1000  # samples
        self._threshold = 10.0 ** (threshold_db / 20.0)
        self._hop = max(1, round(sr * hop_ms / 1000))  # samples
        self._window = min(round(interval), 4 * self._hop)  # samples
        self._min_length = round(sr * min_length_ms / 1000 / self._hop)  # frames, as the next two
        self._min_interval = round(interval / self._hop)
        self._max_silence = round(sr * max_silence_ms / 1000 / self._hop)

    def slice(self, wav: FloatArray) -> list[Segment]:
        """Cut a recording.

        Args:
            wav: ``(T,)`` samples.

        Returns:
            Segments in order that tile the recording exactly, none empty. A recording that is
            silent throughout is one silent segment, however short.
        """
        levels = self.levels()
        levels.feed(np.asarray(wav))
        return self.decide(levels.finish(), len(wav))

    def levels(self) -> FrameLevels:
        """Return what measures a recording in blocks; `decide` takes its outcome."""
        return FrameLevels(self._window, self._hop)

    def decide(self, rms: npt.NDArray[np.float32], n_samples: int) -> list[Segment]:
        """Cut a recording of which only the levels are known; what `slice` returns for the whole.

        Args:
            rms: of `levels`, after all samples were fed.
            n_samples: how many these were.
        """
        if n_samples == 0:
            return []
        silent = rms < self._threshold
        if silent.all():
            return [Segment(0, n_samples, silent=True)]
        tags = self._silences(rms, silent) if n_samples > self._min_length else []
        segments, end = [], 0
        for first, last in tags:
            start, stop = (min(frame * self._hop, n_samples) for frame in (first, last))
            segments += [Segment(end, start, silent=False), Segment(start, stop, silent=True)]
            end = stop
        segments.append(Segment(end, n_samples, silent=False))
        return [segment for segment in segments if segment.n_samples > 0]

    def _silences(
        self, rms: npt.NDArray[np.float32], silent: npt.NDArray[np.bool_]
    ) -> list[tuple[int, int]]:
        """Frame ranges of the silent segments; a range may be empty: a cut and nothing more."""
        keep, clip_start = self._max_silence, 0
        tags: list[tuple[int, int]] = []

        def quietest(first: int, last: int) -> int:
            """First minimum of rms[first .. last], both included."""
            return first + int(np.argmin(rms[first : last + 1]))

        for begin, end in _runs(silent):  # rms[end] is loud again, or behind the last frame
            if end == len(rms):
                if end - begin >= self._min_interval:
                    tags.append((quietest(begin, min(end, begin + keep)), end + 1))
                continue
            leading = begin == 0 and end > keep
            inside = end - begin >= self._min_interval and end - clip_start >= self._min_length
            if not leading and not inside:
                continue
            if end - begin <= keep:
                first = last = quietest(begin, end)
            else:
                first, last = quietest(begin, begin + keep), quietest(end - keep, end)
                if end - begin <= 2 * keep:
                    middle = quietest(end - keep, begin + keep)
                    first = min(first, middle)
                    last = last if begin == 0 else max(last, middle)
            tags.append((0 if begin == 0 else first, last))
            clip_start = last
        return tags


def split_clips(
    wav: FloatArray,
    sr: int,
    *,
    threshold_db: float = -40.0,
    min_seconds: float = 5.0,
    max_seconds: float = 15.0,
    min_interval_ms: Sequence[float] = (300, 100, 50),
    hop_ms: float = 10,
    max_silence_ms: float = 500,
) -> tuple[list[Segment], list[Dropped]]:
    """Cut a long recording into clips for training, at silences.

    Long silences are left out but for `max_silence_ms` at each side. What lies between and is too
    long is cut at silences of at least ``min_interval_ms[0]``; where there are none, ``[1]`` and so
    on; in the end at the quietest frame. What is too short is joined with neighbours if all
    fit into `max_seconds`, no more than half of `min_seconds` was left out between two of them and
    a quarter of the whole sounds; else it is dropped.

    Args:
        wav: ``(T,)`` samples.
        sr: Hz.
        threshold_db: frames below it are silent, dBFS of RMS.
        min_seconds: shortest clip.
        max_seconds: longest clip.
        min_interval_ms: shortest silence to cut at, from the first choice to the last.
        hop_ms: step of the analysis.
        max_silence_ms: silence kept at each end of a clip.

    Returns:
        ``(clips, dropped)`` in order; together they tile the recording exactly.

    Raises:
        ConfigError: the options contradict each other.
    """
    levels = sorted(min_interval_ms, reverse=True)
    if not 0 < min_seconds <= max_seconds:
        raise ConfigError(
            f"need 0 < min length {min_seconds} s <= max length {max_seconds} s; "
            "change these options"
        )
    if not levels or not levels[-1] >= hop_ms > 0 or max_silence_ms < 0:
        raise ConfigError(
            f"need min intervals {list(min_interval_ms)} ms >= hop {hop_ms} ms > 0 and max silence "
            f"{max_silence_ms} ms >= 0; change these options"
        )
    splitter = _Splitter(
        wav,
        hop=max(1, round(sr * hop_ms / 1000)),
        threshold=10.0 ** (threshold_db / 20.0),
        min_samples=int(np.ceil(min_seconds * sr)),
        max_samples=max(1, int(max_seconds * sr)),
        levels=[round(sr * level / 1000) for level in levels],
        keep=round(sr * max_silence_ms / 1000),
    )
    return splitter.split()


class _Splitter:
    """The work of `split_clips` on one recording; everything in samples."""

    def __init__(
        self,
        wav: FloatArray,
        *,
        hop: int,
        threshold: float,
        min_samples: int,
        max_samples: int,
        levels: list[int],
        keep: int,
    ) -> None:
        self._n = len(wav)
        self._hop, self._keep = hop, keep
        self._min, self._max = min_samples, max_samples
        self._levels = levels
        # Frame k says what samples k*hop - hop ... k*hop + hop hold; its place is sample k*hop.
        self._rms = rms_frames(wav, 2 * hop, hop)
        silent = self._rms < threshold
        self._loud = np.concatenate(([0], np.cumsum(~silent)))  # loud frames before frame k
        self._silences = [
            (min(begin * hop, self._n), min(end * hop, self._n)) for begin, end in _runs(silent)
        ]

    def split(self) -> tuple[list[Segment], list[Dropped]]:
        pieces = [piece for begin, end in self._islands() for piece in self._cut_to_fit(begin, end)]
        clips: list[Segment] = []
        dropped: list[Dropped] = []
        end_before = 0
        for begin, end in self._join_short(pieces):
            if begin > end_before:
                dropped.append(Dropped(end_before, begin, "silent"))
            if end - begin < self._min:
                dropped.append(Dropped(begin, end, "too short"))
            else:
                clips.append(Segment(begin, end, silent=False))
            end_before = end
        if end_before < self._n:
            dropped.append(Dropped(end_before, self._n, "silent"))
        return clips, dropped

    def _islands(self) -> list[tuple[int, int]]:
        """Stretches between the middles of long silences, with at most `keep` of silence at each
        end.
        """
        islands, begin = [], 0
        for quiet_begin, quiet_end in self._silences:
            at_start, at_end = quiet_begin == 0, quiet_end == self._n
            kept = self._keep * (2 - at_start - at_end)
            if quiet_end - quiet_begin <= max(kept, 0 if at_start or at_end else self._levels[0]):
                continue
            stop = 0 if at_start else quiet_begin + self._keep
            if stop > begin:
                islands.append((begin, stop))
            begin = self._n if at_end else quiet_end - self._keep
        if self._n > begin:
            islands.append((begin, self._n))
        return [island for island in islands if self._sound(*island) > 0]

    def _cut_to_fit(self, begin: int, end: int) -> list[tuple[int, int]]:
        """Cut one island into pieces of at most the longest length."""
        pieces = []
        while end - begin > self._max:
            cut = self._best_cut(begin, end)
            pieces.append((begin, cut))
            begin = cut
        return [*pieces, (begin, end)]

    def _best_cut(self, begin: int, end: int) -> int:
        """Where to end the clip that starts at `begin`: the last good silence, else the quietest
        frame.
        """
        low, high = begin + self._min, min(begin + self._max, end - self._min)
        if low > high:  # no cut leaves two clips of fit length
            low, high = max(begin + 1, end - self._max), begin + self._max
        nearby = self._silences[
            bisect_left(self._silences, low, key=lambda run: run[1]) : bisect_right(
                self._silences, high, key=lambda run: run[0]
            )
        ]
        for level in self._levels:
            for quiet_begin, quiet_end in reversed(nearby):
                if quiet_end - quiet_begin < level:
                    continue
                # Cut where neither side keeps more silence than it may.
                first = max(low, quiet_begin, quiet_end - max(self._keep, level))
                last = min(high, quiet_end, quiet_begin + max(self._keep, level))
                if first <= last:
                    return self._quietest(first, last)
        return self._quietest(low, high)

    def _quietest(self, first: int, last: int) -> int:
        """Sample of the quietest frame in first .. last; of equals the one in the middle."""
        frames = np.arange(-(-first // self._hop), last // self._hop + 1)
        if frames.size == 0:
            return last
        rms = self._rms[frames]
        lowest = frames[rms == rms.min()]
        return int(lowest[lowest.size // 2]) * self._hop

    def _join_short(self, pieces: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Join neighbours so that clips of fit length hold as much sound as possible, and join no
        more than that takes.

        best[i] describes the best way to group the first i pieces: frames of sound in clips of fit
        length, minus the silence that joining took in, and the first piece of the last group.
        """
        best = [(0, 0, 0)]
        for i, (_, end) in enumerate(pieces, start=1):
            ways, silence = [], 0
            for j in range(i - 1, -1, -1):
                begin = pieces[j][0]
                if j < i - 1:
                    gap = pieces[j + 1][0] - pieces[j][1]
                    silence += gap
                    if 2 * gap > self._min or end - begin > self._max:
                        break
                sound = self._sound(begin, end)
                fit = end - begin >= self._min
                if j < i - 1 and not (fit and 4 * sound * self._hop >= end - begin):
                    continue
                ways.append((best[j][0] + sound * fit, best[j][1] - silence, j))
            best.append(max(ways))
        joined = []
        last = len(pieces)
        while last > 0:
            first = best[last][2]
            joined.append((pieces[first][0], pieces[last - 1][1]))
            last = first
        return joined[::-1]

    def _sound(self, begin: int, end: int) -> int:
        """Loud frames whose place is in begin .. end."""
        first, last = -(-begin // self._hop), -(-end // self._hop)
        return int(self._loud[min(last, len(self._rms))] - self._loud[min(first, len(self._rms))])


def _runs(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Begin and end (behind the last) of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(np.int8), [0]))))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]
