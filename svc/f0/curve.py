"""Pitch curves that people edit: read from CSV or MIDI onto a model's frame grid, written, cut.

A curve is an `F0Track` on a song's own grid: frame i belongs to the time i * hop_length /
sampling_rate. The text of CSV files is `svc.f0.curve_csv`'s, MIDI is `svc.f0.midi`'s.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from svc.atomic import atomic_path
from svc.audio.pitch import F0Track, interpolate_unvoiced
from svc.errors import CurveError, MissingFileError
from svc.f0.curve_csv import CurvePoints, csv_text, parse_csv
from svc.f0.voice_range import note_name

logger = logging.getLogger(__name__)

CSV_SUFFIXES = (".csv", ".tsv", ".txt")
MIDI_SUFFIXES = (".mid", ".midi")
CURVE_SUFFIXES = (*CSV_SUFFIXES, *MIDI_SUFFIXES)

TOLERANCE_SECONDS = 0.1  # by which a curve may be longer or shorter than its song
_SNAP = 0.1  # frames; rows that near to the grid lie on it (times rounded to milliseconds do)
_DENSE_SECONDS = 0.05  # rows closer than this are frames, farther ones are points of a drawing
LONGEST_SECONDS = 24 * 3600.0
_GAP = 2.5  # spacings; frames farther apart than this have something unvoiced in between

Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FrameGrid:
    """Where the frames of a model lie."""

    sampling_rate: int = 44100  # Hz
    hop_length: int = 512  # samples

    @property
    def frame_seconds(self) -> float:
        """Time between frames."""
        return self.hop_length / self.sampling_rate

    @property
    def tolerance(self) -> int:
        """Frames by which a curve may be longer or shorter than its song."""
        return math.ceil(TOLERANCE_SECONDS / self.frame_seconds)


def read_curve(
    path: str | Path,
    grid: FrameGrid,
    n_frames: int | None = None,
    *,
    midi_track: str | None = None,
    bend_range: float | None = None,
) -> F0Track:
    """Read a curve from CSV (`svc.f0.curve_csv`) or a MIDI file (`svc.f0.midi`); what it is, is seen
    by its content.

    Rows of a CSV on the grid are taken as they are, bit for bit. Others are resampled: a frame is
    voiced as the row nearest in time is, its pitch lies on a straight line in log Hz between voiced
    rows, and the f0 of unvoiced frames is filled as a predictor does it. Where rows that otherwise
    follow each other within 50 ms leave out more than 2.5 spacings, the time between is unvoiced.

    Args:
        path: the file.
        grid: the model's.
        n_frames: frames of the song, floor(samples / hop_length); None = as long as the curve is.
        midi_track: number or name of a MIDI track; None = the one with most notes.
        bend_range: semitones of a full pitch bend where a MIDI file does not say; None = 2.

    Returns:
        The track, of `n_frames` where that is given.

    Raises:
        MissingFileError: no such file.
        CurveError: damaged or of another kind, wrong units, or a length that does not fit the song.
        MissingDependencyError: MIDI needs the extra "midi".
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise MissingFileError(f"the pitch curve {path} is not there; check the path") from error
    except OSError as error:
        raise CurveError(f"the pitch curve {path} cannot be read: {error.strerror}") from error
    if data.startswith(b"MThd"):
        from svc.f0.midi import read_midi

        return read_midi(data, str(path), grid, n_frames, wanted=midi_track, bend_range=bend_range)
    points = parse_csv(data, str(path))
    placed = _Placed.of(points, grid)
    if n_frames is not None:
        check_length(placed.n_frames, n_frames, grid, what=str(path))
    elif points.times[-1] > LONGEST_SECONDS:
        raise CurveError(f"{path} lasts {points.times[-1]:.6g} s; its times have to be in seconds")
    track = _on_grid(points, placed, grid, str(path))
    return track if n_frames is None else fit_length(track, n_frames, grid, what=str(path))


def write_curve(
    path: str | Path, track: F0Track, grid: FrameGrid, *, bend_range: int | None = None
) -> None:
    """Write a curve; the suffix chooses CSV or MIDI.

    Args:
        path: .csv, .tsv, .txt or .mid, .midi; folders are created.
        track: the curve.
        grid: where its frames lie.
        bend_range: of a MIDI file, semitones of a full pitch bend; None = its usual.

    Raises:
        CurveError: another suffix, or a pitch that MIDI cannot write.
        OutputError: the file cannot be written.
        MissingDependencyError: MIDI needs the extra "midi".
    """
    path = Path(path)
    check_suffix(path)
    if path.suffix.lower() in MIDI_SUFFIXES:
        from svc.f0.midi import BEND_RANGE, midi_bytes

        data = midi_bytes(track, grid, bend_range=bend_range or BEND_RANGE)
    else:
        times = np.arange(len(track)) * grid.hop_length / grid.sampling_rate
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        data = csv_text(times, track, delimiter).encode("utf-8")
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def check_suffix(path: Path) -> None:
    """Raise CurveError for a file name that tells neither CSV nor MIDI."""
    if path.suffix.lower() not in CURVE_SUFFIXES:
        raise CurveError(
            f'cannot write {path}: unknown suffix "{path.suffix}"; '
            f"end the name with {', '.join(CURVE_SUFFIXES[:-1])} or {CURVE_SUFFIXES[-1]}"
        )


def fit_length(track: F0Track, n_frames: int, grid: FrameGrid, *, what: str) -> F0Track:
    """Cut or continue a curve that is a little longer or shorter than its song.

    Args:
        track: the curve.
        n_frames: frames of the song.
        grid: both lie on it.
        what: names the curve in the message.

    Returns:
        The curve with `n_frames`; up to `grid.tolerance` frames repeat the last one.

    Raises:
        CurveError: the lengths differ by more; says both in seconds.
    """
    check_length(len(track), n_frames, grid, what=what)
    if len(track) in (0, n_frames):
        return track
    return _take(track, np.minimum(np.arange(n_frames), len(track) - 1))


def check_length(n_curve: int, n_frames: int, grid: FrameGrid, *, what: str) -> None:
    """Raise CurveError when a curve and its song differ in length by more than `grid.tolerance`."""
    if abs(n_curve - n_frames) > grid.tolerance or (n_curve == 0 < n_frames):
        raise CurveError(_misfit(n_curve, n_frames, grid, what))


def cut(track: F0Track, begin: int, n_frames: int) -> F0Track:
    """Take a stretch of a song's curve.

    Args:
        track: the song's curve.
        begin: first frame; may be negative.
        n_frames: frames wanted; may pass the end.

    Returns:
        The stretch. Outside the song nothing is voiced and f0 stays what it is at the edge.
    """
    return cut_at(track, np.arange(begin, begin + n_frames))


def cut_at(track: F0Track, index: npt.NDArray[np.int64]) -> F0Track:
    """Take frames by number, as `cut` does: those outside the song are unvoiced.

    Args:
        track: the song's curve.
        index: (M,) frame numbers, also negative or too large ones.
    """
    if len(track) == 0:
        nothing = np.zeros(len(index), dtype=np.float32)
        return F0Track(nothing, nothing.copy())
    inside = (index >= 0) & (index < len(track))
    taken = _take(track, np.clip(index, 0, len(track) - 1))
    return F0Track(taken.f0, taken.uv * inside, taken.confidence)


def find_curve(folder: Path, song: str) -> Path:
    """Find the curve of a song in a folder of curves.

    Args:
        folder: where to look.
        song: name of the song; for "a.wav" the names a.wav.f0.csv, a.wav.csv, a.f0.csv and a.csv
            count, and those with another suffix of `CURVE_SUFFIXES`.

    Raises:
        MissingFileError: there is none.
        CurveError: there are several.
    """
    name = Path(song).name
    stems = dict.fromkeys((f"{name}.f0", name, f"{Path(name).stem}.f0", Path(name).stem))
    names = [stem + suffix for stem in stems for suffix in CURVE_SUFFIXES]
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        raise MissingFileError(
            f"no pitch curve for {song} in {folder}; make one with  svc f0 extract {song} -o "
            f"{folder}"
        )
    if len(found) > 1:
        raise CurveError(
            f"several pitch curves for {song} in {folder}: "
            f"{', '.join(path.name for path in found)}; keep one of them"
        )
    return found[0]


def curve_name(song: str) -> str:
    """Name the curve of a song: "a.f0.csv" for "a.wav"."""
    return f"{Path(song).stem}.f0.csv"


def describe(track: F0Track, grid: FrameGrid) -> str:
    """Say in some words how long a curve is and what is sung in it."""
    sung = track.f0[track.uv > 0]
    text = f"{len(track) * grid.frame_seconds:.2f} s, {len(track)} frames"
    if not sung.size:
        return f"{text}, nothing voiced"
    return (
        f"{text}, {100 * sung.size / len(track):.0f} % voiced, {note_name(float(sung.min()))} to "
        f"{note_name(float(sung.max()))}"
    )


def _take(track: F0Track, index: npt.NDArray[np.int64]) -> F0Track:
    confidence = None if track.confidence is None else track.confidence[index]
    return F0Track(track.f0[index], track.uv[index], confidence)


def _misfit(n_curve: int, n_song: int, grid: FrameGrid, what: str) -> str:
    """Say that a curve is too long or too short, and why that might be."""
    curve, song = n_curve * grid.frame_seconds, n_song * grid.frame_seconds
    message = f"{what} lasts {curve:.2f} s, the song {song:.2f} s"
    ratio = curve / song if song > 0 else math.inf
    for factor, unit in (
        (1000.0, "milliseconds"),
        (1 / grid.frame_seconds, "frames"),
        (float(grid.sampling_rate), "samples"),
    ):
        if abs(ratio / factor - 1) < 0.03:
            return f"{message}: its times look like {unit}, they have to be seconds"
    if n_curve < n_song:
        return (
            f"{message}: take the curve of this song; if the rest of it is unvoiced, add a last "
            f"row  {song:.3f},0,0"
        )
    return f"{message}: take the curve of this song, or delete the rows behind its end"


@dataclass(frozen=True)
class _Placed:
    """Where rows lie on the grid, all in frames."""

    place: Doubles  # (P,) of each row
    snapped: bool  # all rows lie on frames
    width: float  # what a row stands for
    longest: float  # step between rows above which nothing is known in between
    n_frames: int  # of the whole curve

    @classmethod
    def of(cls, points: CurvePoints, grid: FrameGrid) -> _Placed:
        place = points.times / grid.frame_seconds
        nearest = np.rint(place)
        snapped = bool((np.abs(place - nearest) <= _SNAP).all() and (np.diff(nearest) > 0).all())
        if snapped:
            place = nearest
        width, longest = 1.0, np.inf
        spacing = float(np.median(np.diff(place))) if len(place) > 1 else 1.0
        if spacing * grid.frame_seconds <= _DENSE_SECONDS:
            width, longest = max(spacing, 1.0), _GAP * max(spacing, 1.0)
        tail = 1.0 if snapped else min(spacing, width)
        return cls(place, snapped, width, longest, max(1, math.floor(place[-1] + tail + 1e-6)))


def _on_grid(points: CurvePoints, placed: _Placed, grid: FrameGrid, what: str) -> F0Track:
    """Bring rows onto the grid; as many frames as the rows last."""
    place, longest = placed.place, placed.longest
    steps = np.diff(place)
    sung = points.voiced[:-1] & points.voiced[1:]
    _tell_gaps(steps[(steps > longest) & sung] * grid.frame_seconds, what)
    frame = np.arange(placed.n_frames, dtype=np.float64)
    after = np.searchsorted(place, frame, side="left").clip(max=len(place) - 1)
    before = (np.searchsorted(place, frame, side="right") - 1).clip(min=0)
    near = np.where(frame - place[before] <= place[after] - frame, before, after)
    near = np.where(frame < place[0], 0, np.where(frame > place[-1], len(place) - 1, near))
    away = np.abs(frame - place[near])
    inner = (frame >= place[0]) & (frame <= place[-1])
    gap = inner & (place[after] - place[before] > longest)
    reach = np.where(gap | ~inner, placed.width / 2, np.inf)
    voiced: Bools = points.voiced[near] & (away <= reach)

    f0 = np.where(voiced, points.f0[near], 0.0)
    between = voiced & (after > before) & ~gap & points.voiced[before] & points.voiced[after]
    f0[between] = _log_line(points, place, frame, before, after)[between]
    filled, uv = interpolate_unvoiced(f0, hop_length=grid.hop_length, sr=grid.sampling_rate)
    filled[voiced] = f0[voiced]  # the interpolation rounds there, too
    if placed.snapped:
        own = (away == 0) & (points.f0[near] > 0)
        filled[own] = points.f0[near][own]
    confidence = None
    if points.confidence is not None:
        confidence = points.confidence[near].astype(np.float32)
    return F0Track(filled.astype(np.float32), uv, confidence)


def _log_line(
    points: CurvePoints,
    place: Doubles,
    frame: Doubles,
    before: npt.NDArray[np.int64],
    after: npt.NDArray[np.int64],
) -> Doubles:
    """Pitch on straight lines in log Hz between rows; only right between two voiced rows."""
    low = np.log(np.maximum(points.f0[before], 1e-3))
    high = np.log(np.maximum(points.f0[after], 1e-3))
    width = np.maximum(place[after] - place[before], 1e-9)
    line: Doubles = np.exp(low + (high - low) * (frame - place[before]) / width)
    return line


def _tell_gaps(gaps: Sequence[float] | Doubles, what: str) -> None:
    if len(gaps):
        logger.warning(
            "%s: no rows for %.2f s in %d places; that time counts as unvoiced",
            what,
            float(np.sum(gaps)),
            len(gaps),
        )
