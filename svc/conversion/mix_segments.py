"""The track of one speaker of a mix: segments of straight lines without gaps between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from svc.errors import ConfigError

Unit = Literal["fraction", "seconds"]
_UNITS: dict[str, Unit] = {"fraction": "fraction", "seconds": "seconds", "s": "seconds"}

END = "end"
"""What files write for the end of the song."""

MAX_WEIGHT = 1e6  # sums stay exact enough in float32
_SLACK = {"fraction": 1e-6, "seconds": 1e-3}  # between one segment's end and the next one's start


@dataclass(frozen=True)
class MixSegment:
    """A straight line of one speaker's weight.

    Attributes:
        start: where it begins, in the unit of its track.
        end: where it ends; None = with the song.
        first: weight at `start`.
        last: weight that is reached at `end`.
    """

    start: float
    end: float | None
    first: float
    last: float


Track = tuple[MixSegment, ...]


@dataclass(frozen=True)
class MixContent:
    """What a file says, before the speakers are looked up.

    Attributes:
        tracks: name, id, or id as text -> segments, not checked yet.
        unit: of their times.
    """

    tracks: Mapping[str | int, Track]
    unit: Unit = "fraction"


def parse_unit(value: object, where: str) -> Unit:
    """Return the unit that a file names. Raises ConfigError."""
    found = _UNITS.get(str(value).strip().lower())
    if found is None:
        raise ConfigError(f'{where}: the unit is "{value}"; write "fraction" or "seconds"')
    return found


def plain(value: float | None) -> float | str:
    """Return a time or weight as files write it: whole numbers without a point, None as "end"."""
    if value is None:
        return END
    return int(value) if float(value).is_integer() else value


def check_track(track: Track, unit: Unit, where: str) -> None:
    """Refuse segments that are not one track, from the song's start to its end.

    Args:
        track: at least one segment.
        unit: of its times.
        where: file and speaker, for messages.

    Raises:
        ConfigError: names the segment and says what to write instead.
    """
    before: float | None = 0.0
    for number, segment in enumerate(track, start=1):
        _check_numbers(segment, f"{where}, segment {number}")
        _check_start(segment, before, number, unit, where)
        before = segment.end
    if unit == "fraction" and before is not None and abs(before - 1) > _SLACK[unit]:
        hint = ', or say that these are seconds: "unit": "seconds"' if before > 1 else ""
        raise ConfigError(
            f"{where}, segment {len(track)}, the last, ends at {before:g}; write 1, the end of the "
            f"song{hint}"
        )


def _check_numbers(segment: MixSegment, where: str) -> None:
    for what, value in (("start", segment.start), ("end", segment.end)):
        if value is not None and not math.isfinite(value):
            raise ConfigError(f"{where}: its {what} is {value:g}; write a number")
    for value in (segment.first, segment.last):
        if not 0 <= value <= MAX_WEIGHT:  # NaN too
            raise ConfigError(
                f"{where}: the weight {value:g} is not in 0..{MAX_WEIGHT:g}; write 0 for silence "
                "and 1 for full"
            )
    if segment.end is not None and segment.end <= segment.start:
        raise ConfigError(
            f"{where} ends at {segment.end:g}, not after its start {segment.start:g}; write a "
            "later end, or leave the segment out"
        )


def _check_start(
    segment: MixSegment, before: float | None, number: int, unit: Unit, where: str
) -> None:
    """Compare where a segment begins with the end of the one before it."""
    where = f"{where}, segment {number}"
    if before is None:
        raise ConfigError(
            f"{where} comes after one that goes on to the song's end; give segment {number - 1} "
            f"the end {segment.start:g}"
        )
    if abs(segment.start - before) <= _SLACK[unit]:
        return
    if number == 1:
        raise ConfigError(
            f"{where}, the first, begins at {segment.start:g}; write 0, with the weight 0 if the "
            "speaker is not to sing there"
        )
    how = "leaves a gap" if segment.start > before else "overlaps"
    raise ConfigError(
        f"{where} {how}: it begins at {segment.start:g} and segment {number - 1} ends at "
        f"{before:g}; write the same number"
    )


def fit_track(track: Track, end: float) -> Track:
    """Divide the times of a track by `end`, let it stop there, and each segment begin where the one
    before it ends.
    """
    kept = [segment for segment in track if segment.start / end < 1]
    found: list[MixSegment] = []
    start = 0.0
    for number, segment in enumerate(kept):
        stop, last = segment.end, segment.last
        if number + 1 == len(kept) or stop is None:
            if stop is not None and stop > end:
                share = (end - segment.start) / (stop - segment.start)
                last = segment.first + share * (last - segment.first)
            stop = end
        found.append(MixSegment(start, stop / end, segment.first, last))
        start = stop / end
    return tuple(found)
