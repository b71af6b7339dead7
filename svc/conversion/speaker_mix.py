r"""Who sings when: the weights of the speakers of a model along a song. numpy only.

so-vits-svc 4.1 behaviour, spec_core 8.6: every speaker has a track of segments without gaps, in each
of which a weight goes from one value to another in a straight line; at every frame the weights are
divided by their sum, and where nobody sings all speakers do alike.

    alice 1 |‾‾‾\             bob 1 |   /‾‾‾‾‾
          0 |    \_____       0 |__/
            0   0.5   1             0   0.5   1   of the song, or seconds

How `SpeakerMix.weights` differs from the original (I11, I12; `compat_weights` is the original's): the
frames are those of the song, not those of its cuts with their padding, borders lie where they are
written and not on whole frames, and a mix of one speaker is that speaker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from svc.conversion.mix_segments import MixSegment, Track, Unit, check_track, fit_track
from svc.conversion.speakers import find_speaker
from svc.errors import ConfigError

if TYPE_CHECKING:
    from svc.audio.slicer import Segment
    from svc.conversion.options import InferOptions

FloatArray = npt.NDArray[np.float32]

TOLERANCE_SECONDS = 0.1  # by which a track may be shorter than its song; as pitch curves


@dataclass(frozen=True)
class MixSpan:
    """A part of the song in which no segment begins or ends.

    Attributes:
        start: 0..1 of the song.
        end: 0..1 of the song.
        first: (S,) weights at `start`, sum 1.
        last: (S,) weights that are reached at `end`, sum 1.
        silent: all weights are written as 0, so that all speakers sing alike.
    """

    start: float
    end: float
    first: npt.NDArray[np.float64]
    last: npt.NDArray[np.float64]
    silent: bool


@dataclass(frozen=True)
class SpeakerMix:
    """Weights of all speakers along a song; build it with `of` or `constant`.

    Attributes:
        speakers: (S,) column -> name; column k is speaker id k, None where the config has none.
        tracks: (S,) segments of each column; an empty tuple = never sings.
        unit: of the segments' times.
        what: names the mix in messages, usually its file.

    Raises:
        ConfigError: the segments of a speaker are not one track of numbers; says which one, and
            what to write instead.
    """

    speakers: tuple[str | None, ...]
    tracks: tuple[Track, ...]
    unit: Unit = "fraction"
    what: str = "the mix"

    def __post_init__(self) -> None:
        if not any(self.tracks):
            raise ConfigError(f"{self.what} names no speaker; write for example alice=0.7,bob=0.3")
        for name, track in zip(self.speakers, self.tracks, strict=True):
            if track:
                check_track(track, self.unit, f'{self.what}: speaker "{name}"')

    @classmethod
    def of(
        cls,
        tracks: Mapping[str | int, Sequence[MixSegment]],
        speakers: Mapping[str, int],
        *,
        unit: Unit = "fraction",
        what: str = "the mix",
    ) -> SpeakerMix:
        """Build a mix from tracks by speaker.

        Args:
            tracks: name, id, or id as text -> segments; a name wins over a number. Speakers that
                are not in it never sing.
            speakers: name -> id, the `spk` table of the config.
            unit: of the segments' times.
            what: names the mix in messages.

        Raises:
            ConfigError: unknown speakers (the nearest name is shown), one of them twice, an empty
                track, or what the class refuses.
        """
        columns: dict[int, tuple[str | int, Track]] = {}
        for wanted, segments in tracks.items():
            try:
                name, column = find_speaker(speakers, wanted)
            except ConfigError as error:
                raise ConfigError(f"{what}: {error}") from None
            if column in columns:
                raise ConfigError(
                    f'{what}: "{columns[column][0]}" and "{wanted}" are the same speaker, '
                    f'"{name}" ({column}); put their segments into one track'
                )
            if not segments:
                raise ConfigError(
                    f'{what}: speaker "{wanted}" has no segments; leave the speaker out, or write '
                    "[[0, 1, 0, 0]]"
                )
            columns[column] = (wanted, tuple(segments))
        names = {column: name for name, column in speakers.items()}
        count = 1 + max(names, default=-1)
        return cls(
            tuple(names.get(column) for column in range(count)),
            tuple(columns[column][1] if column in columns else () for column in range(count)),
            unit,
            what,
        )

    @classmethod
    def constant(
        cls,
        weights: Mapping[str, float],
        speakers: Mapping[str, int],
        *,
        what: str = "the mix",
    ) -> SpeakerMix:
        """Build a mix that is the same in the whole song.

        Args:
            weights: name, id as text -> share, 0 or more; they need not add up to 1.
            speakers: name -> id, the `spk` table of the config.
            what: names the mix in messages.

        Raises:
            ConfigError: as `of`, or all weights are 0.
        """
        mix = cls.of(
            {name: [MixSegment(0.0, 1.0, share, share)] for name, share in weights.items()},
            speakers,
            what=what,
        )
        if not any(weights.values()):
            raise ConfigError(f"{what}: all weights are 0; give one of the speakers more")
        # Who has no share takes no part: alice=1,bob=0 is alice, computed as alice alone is.
        return replace(mix, tracks=tuple(t if t and t[0].first else () for t in mix.tracks))

    @property
    def only(self) -> int | None:
        """Id of the speaker who sings everything, because the model or the mix has no other (I11);
        None where several sing.
        """
        known = [column for column, name in enumerate(self.speakers) if name is not None]
        named = [column for column, track in enumerate(self.tracks) if track]
        return next((found[0] for found in (known, named) if len(found) == 1), None)

    @property
    def seconds(self) -> float | None:
        """Length of the longest song that the mix is long enough for; None = any."""
        if self.unit == "fraction":
            return None
        ends = [track[-1].end for track in self.tracks if track]
        return min((end for end in ends if end is not None), default=None)

    def require_length(self, seconds: float) -> None:
        """Raise ConfigError when a song of `seconds` is more than 0.1 s longer than the mix."""
        for name, track in zip(self.speakers, self.tracks):
            end = track[-1].end if track and self.unit == "seconds" else None
            if end is not None and end < seconds - TOLERANCE_SECONDS:
                raise ConfigError(
                    f'{self.what}: speaker "{name}", segment {len(track)}, the last, ends at '
                    f"{end:g} s, {seconds - end:.2f} s before the song ({seconds:.2f} s); write "
                    '"end" as its end'
                )

    def as_fractions(self, seconds: float | None = None) -> SpeakerMix:
        """Return the same mix with times as fractions of its song, which it covers exactly.

        Args:
            seconds: length of the song; needed for times in seconds.

        Raises:
            ConfigError: the song is longer than the mix.
            ValueError: `seconds` is needed.
        """
        if self.unit == "fraction":
            return replace(self, tracks=tuple(fit_track(t, 1.0) for t in self.tracks))
        if seconds is None:
            raise ValueError("a mix in seconds needs the length of its song")
        self.require_length(seconds)
        tracks = tuple(fit_track(track, max(seconds, 1e-9)) for track in self.tracks)
        return replace(self, tracks=tracks, unit="fraction")

    def weights(self, n_frames: int, *, frame_seconds: float | None = None) -> FloatArray:
        """Weights at every frame of a whole song.

        Args:
            n_frames: N, frames of the song; frame k is at k / N of it.
            frame_seconds: of one frame; needed for times in seconds.

        Returns:
            float32 (N, S); rows add up to 1.

        Raises:
            ConfigError: the song is longer than the mix.
            ValueError: `frame_seconds` is needed.
        """
        return self.rows(0, n_frames, n_frames, frame_seconds=frame_seconds)

    def rows(
        self, first: int, count: int, n_frames: int, *, frame_seconds: float | None = None
    ) -> FloatArray:
        """Weights at some frames of a song: rows `first` ... of `weights`, without the others.

        Args:
            first: first frame; may be negative.
            count: frames wanted; may pass the end. Outside the song the mix is what it is at its
                edge.
            n_frames: frames of the whole song.
            frame_seconds: as for `weights`.

        Returns:
            float32 (count, S); rows add up to 1.

        Raises:
            As `weights`.
        """
        seconds = None if frame_seconds is None else n_frames * frame_seconds
        mix = self.as_fractions(seconds)
        at = np.clip(np.arange(first, first + count), 0, max(n_frames - 1, 0))
        return mix._normalised(mix._written(at / max(n_frames, 1))).astype(np.float32)

    def compat_weights(self, total: int, *, seconds: float | None = None) -> FloatArray:
        """Weights as so-vits-svc 4.1 computes them, to be read by its running frame counter
        (spec_core 8.6).

        Args:
            total: the original's own count of frames, `total_frames`.
            seconds: length of the song; needed for times in seconds, which the original has not.

        Returns:
            float32 (total, S); rows add up to 1. Borders are at ``int(total * t)``; a segment of n
            frames has the values v0 + j (v1 - v0) / n.

        Raises:
            ConfigError: the song is longer than the mix.
            ValueError: `seconds` is needed.
        """
        mix = self.as_fractions(seconds)
        values = np.zeros((total, len(self.speakers)), dtype=np.float32)
        for column, track in enumerate(mix.tracks):
            borders = [*(int(total * segment.start) for segment in track), total]
            for segment, begin, end in zip(track, borders, borders[1:]):
                share = np.arange(end - begin) / max(end - begin, 1)
                values[begin:end, column] = segment.first + share * (segment.last - segment.first)
        return mix._normalised(values)

    def spans(self) -> list[MixSpan]:
        """Cut the song wherever a segment begins; the mix must be in fractions (`as_fractions`)."""
        if self.unit != "fraction":
            raise ValueError("call as_fractions first")
        starts = {segment.start for track in self.tracks for segment in track}
        borders = [0.0, *sorted(start for start in starts if 0 < start < 1), 1.0]
        firsts = self._written(np.array(borders[:-1]))
        lasts = self._written(np.array(borders[1:]), before=True)
        silent = np.logical_not(np.hstack([firsts, lasts]).any(axis=1)) & (self.only is None)
        facts = zip(self._normalised(firsts), self._normalised(lasts), silent.tolist())
        places = pairwise(borders)
        return [MixSpan(*place, *fact) for place, fact in zip(places, facts)]

    def outline(self, points: int = 33) -> tuple[FloatArray, FloatArray]:
        """Points of a picture of the mix: each span from its start to its end, so that a jump has
        two points at one place. The mix must be in fractions.

        Args:
            points: per span, at least 2.

        Returns:
            (P,) fractions of the song, and (P, S) weights.
        """
        places: list[npt.NDArray[np.float64]] = []
        values: list[npt.NDArray[np.float64]] = []
        for span in self.spans():
            inside = np.linspace(span.start, span.end, points)
            places.append(inside)
            values += [
                span.first[None],
                self._normalised(self._written(inside[1:-1])),
                span.last[None],
            ]
        return np.concatenate(places).astype("f4"), np.concatenate(values).astype("f4")

    def _written(
        self, places: npt.NDArray[np.float64], *, before: bool = False
    ) -> npt.NDArray[np.float64]:
        """Weights (P, S) as they are written, at fractions of the song; at a border those of the
        segment that begins there, or of the one `before`.
        """
        values = np.zeros((len(places), len(self.speakers)))
        for column, track in enumerate(self.tracks):
            if not track:
                continue
            starts, ends, firsts, lasts = np.array(
                [(s.start, 1.0 if s.end is None else s.end, s.first, s.last) for s in track]
            ).T
            side: Literal["left", "right"] = "left" if before else "right"
            k = np.maximum(np.searchsorted(starts, places, side=side) - 1, 0)
            lengths = np.maximum(ends - starts, 1e-12)
            share = np.clip((places - starts[k]) / lengths[k], 0.0, 1.0)
            values[:, column] = firsts[k] + share * (lasts - firsts)[k]
        return values

    def _normalised(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Divide rows (P, S) by their sum; rows of zeros become equal weights of all speakers."""
        known = np.array([name is not None for name in self.speakers], dtype=values.dtype)
        if self.only is not None:
            values = np.zeros_like(values)
            values[:, self.only] = 1
            return values
        sums = values.sum(axis=1, keepdims=True)
        shares = np.divide(values, sums, out=np.zeros_like(values), where=sums > 0)
        return np.asarray(np.where(sums > 0, shares, known / known.sum()))


def total_frames(
    segments: Sequence[Segment],
    sr: int,
    model_sr: int,
    hop_length: int,
    options: InferOptions,
) -> int:
    """Count the frames of a song as the original's mix does (spec_core 8.6): those of all calls
    with their padding, counted at the input's rate, and one more for each segment.

    Args:
        segments: voiced and silent parts, input samples.
        sr: rate of the input, Hz.
        model_sr: rate of the model, Hz.
        hop_length: samples per frame at the model's rate.
        options: as for `compat.plan_calls`.
    """
    from svc.audio.resample import resampled_length
    from svc.conversion.compat import plan_calls

    total = sum(segment.end > segment.start for segment in segments)
    for call in plan_calls(segments, sr, model_sr, hop_length, options):
        length = resampled_length(call.end - call.start, sr, model_sr)
        total += (length + 2 * call.pad) // hop_length
    return total
