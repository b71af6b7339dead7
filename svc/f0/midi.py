"""Pitch curves as standard MIDI files: notes that can be edited, and pitch bend for the contour.

Written: format 0, 960 ticks per quarter at 120 bpm, one channel. The bend range is announced by RPN
0, and every frame's deviation from its note is a bend, so reading the file again gives the voiced
pitches back within a 16384th of twice the range (0.08 cents at 12 semitones); the f0 of unvoiced
frames is filled anew.

Read: formats 0, 1 and 2, any tempo map, also SMPTE time; of several tracks one, of a single track
with several channels one channel, percussion (channel 10) never. It is read as a voice: where notes
overlap, the one that began last is sung, of those that began together the highest, and when it ends
one that still sounds goes on. Pedals and controllers other than the bend range are ignored.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from svc.audio.pitch import F0Track, interpolate_unvoiced
from svc.errors import CurveError, import_extra
from svc.f0.midi_notes import segment
from svc.f0.voice_range import hz_to_midi

if TYPE_CHECKING:
    from svc.f0.curve import FrameGrid

logger = logging.getLogger(__name__)

BEND_RANGE = 12  # semitones of a full bend in the files written here
_USUAL_RANGE = 2.0  # semitones, of MIDI where nothing else is said
_FULL_BEND = 8192
_TICKS_PER_BEAT = 960
_TEMPO = 500_000  # microseconds per quarter: 120 bpm
_TICKS_PER_SECOND = _TICKS_PER_BEAT * 1_000_000 / _TEMPO
_DRUMS = 9  # channel 10, counted from 0
_VELOCITY = 100
# A frame listens a little after its time, as other programs may have moved events by some ticks.
_LATER = 0.25  # frames
_LONGEST_SECONDS = 24 * 3600.0
_SHORT_SECONDS, _SHORT_SHARE = 2.0, 0.9  # notes that end this much before the song are worth a word

Doubles = npt.NDArray[np.float64]


def midi_bytes(track: F0Track, grid: FrameGrid, *, bend_range: int = BEND_RANGE) -> bytes:
    """Write a curve as a MIDI file.

    Args:
        track: the curve.
        grid: where its frames lie.
        bend_range: semitones of a full bend, 1 to 24. Synthesizers that ignore the announcement
            assume 2.

    Raises:
        CurveError: a pitch beyond what MIDI can write, or a bend range out of its own.
        MissingDependencyError: the package mido is not installed.
    """
    mido = import_extra("mido", "midi")
    if not 1 <= bend_range <= 24:
        raise CurveError(f"the bend range is {bend_range} semitones; give 1 to 24")
    events: list[tuple[int, Any]] = [
        (0, mido.MetaMessage("track_name", name="F0")),
        (0, mido.MetaMessage("set_tempo", tempo=_TEMPO)),
        *(
            (0, mido.Message("control_change", control=control, value=value))
            for control, value in ((101, 0), (100, 0), (6, bend_range), (38, 0))
        ),
        (0, mido.Message("control_change", control=101, value=127)),
        (0, mido.Message("control_change", control=100, value=127)),
    ]
    bend = 0
    for note in segment(track, grid.frame_seconds, reach=bend_range):
        away = hz_to_midi(track.f0[note.start : note.end]) - note.number
        wanted = np.rint(away / bend_range * _FULL_BEND).astype(np.int64)
        if int(np.abs(wanted).max()) > _FULL_BEND:
            worst = note.start + int(np.abs(wanted).argmax())
            raise CurveError(
                f"{track.f0[worst]:.4g} Hz at {worst * grid.frame_seconds:.2f} s cannot be written "
                "as MIDI; write a CSV"
            )
        bends = np.clip(wanted, -_FULL_BEND, _FULL_BEND - 1).tolist()
        for frame, value in enumerate(bends, start=note.start):
            if value != bend:
                bend = value
                events.append((_tick(frame, grid), mido.Message("pitchwheel", pitch=value)))
            if frame == note.start:
                start = mido.Message("note_on", note=note.number, velocity=_VELOCITY)
                events.append((_tick(frame, grid), start))
        end = mido.Message("note_off", note=note.number, velocity=0)
        events.append((_tick(note.end, grid), end))
    events.append((_tick(len(track), grid), mido.MetaMessage("end_of_track")))
    file = mido.MidiFile(type=0, ticks_per_beat=_TICKS_PER_BEAT)
    before = 0
    written = mido.MidiTrack()
    for tick, message in events:
        written.append(message.copy(time=tick - before))
        before = tick
    file.tracks.append(written)
    stream = io.BytesIO()
    file.save(file=stream)
    return stream.getvalue()


def _tick(frame: int, grid: FrameGrid) -> int:
    """Last tick not after a frame, so that the frame hears what is written for it."""
    return int(frame * grid.frame_seconds * _TICKS_PER_SECOND + 1e-6)


@dataclass
class _Part:
    """What may be a melody: a track, or a channel of a file with one track."""

    name: str
    notes: list[tuple[float, float, int, int]] = field(
        default_factory=list
    )  # on, off s, number, ch
    bends: dict[int, list[tuple[float, float]]] = field(default_factory=dict)  # s, semitones by ch
    unsaid_range: bool = False  # a bend came where no range had been announced
    seconds: float = 0.0


def read_midi(
    data: bytes,
    path: str,
    grid: FrameGrid,
    n_frames: int | None = None,
    *,
    wanted: str | None = None,
    bend_range: float | None = None,
) -> F0Track:
    """Read a MIDI file as a curve.

    Args:
        data: the file's bytes.
        path: names it in messages.
        grid: the model's.
        n_frames: frames of the song: the time after the notes is unvoiced; None = up to the file's
            end.
        wanted: number (from 1) or name of the track; None = the one with most notes.
        bend_range: semitones of a full bend where the file does not say; None = 2.

    Raises:
        CurveError: damaged, without notes, no such track, or notes beyond the end of the song.
        MissingDependencyError: the package mido is not installed.
    """
    mido = import_extra("mido", "midi")
    try:
        file = mido.MidiFile(file=io.BytesIO(data), clip=True)
    except Exception as error:
        # mido meets damage with whatever its parser stumbles over.
        raise CurveError(_damaged(path, str(error) or type(error).__name__)) from error
    if file.ticks_per_beat == 0 or (file.ticks_per_beat < 0 and file.ticks_per_beat & 0xFF == 0):
        raise CurveError(_damaged(path, "it does not say how long a tick is"))
    usual = _USUAL_RANGE if bend_range is None else bend_range
    parts = [part for part in _parts(file, usual) if part.notes]
    part = _choose(parts, wanted, path)
    if part.unsaid_range and bend_range is None:
        logger.warning(
            "%s: its pitch bends are read as reaching 2 semitones, it does not say; set another "
            "range with  svc f0 convert --bend_range",
            path,
        )
    last = max(off for _, off, _, _ in part.notes)
    seconds = max(part.seconds, last)
    if seconds > _LONGEST_SECONDS:
        raise CurveError(f"{path} lasts {seconds:.6g} s, longer than a day; its tempo is wrong")
    if n_frames is None:
        n_frames = round(seconds / grid.frame_seconds)
    else:
        _check_end(last, seconds, n_frames, grid, path)
    return _sing(part, grid, n_frames)


def _damaged(path: str, reason: str) -> str:
    return f"{path} is no readable MIDI file ({' '.join(reason.split())[:100]}); export it again"


def _parts(file: Any, usual_range: float) -> list[_Part]:
    """Notes and bends of every part, in seconds."""
    tracks = [list(_ticked(track)) for track in file.tracks]
    everything = sorted((event for track in tracks for event in track), key=lambda event: event[0])
    parts = []
    for track in tracks:
        # The tracks of format 2 are songs of their own, each with its tempi.
        clock = _Clock.of(file.ticks_per_beat, track if file.type == 2 else everything)
        name = next((_name(event) for _, event in track if event.type == "track_name"), "")
        channels: list[int | None] = [None]
        if len(tracks) == 1:
            used = {message.channel for _, message in track if message.type == "note_on"}
            channels = [*sorted(used)] if len(used) > 1 else [None]
        for channel in channels:
            own = name if channel is None else f"{name} channel {channel + 1}".strip()
            parts.append(_read_part(track, channel, clock, _Part(own), usual_range))
    return parts


def _name(message: Any) -> str:
    """A track's name: mido takes the bytes for Latin-1, most programs write UTF-8."""
    raw = str(message.name).encode("latin-1", "replace")
    return raw.decode("utf-8") if _is_utf8(raw) else raw.decode("latin-1")


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _ticked(track: Any) -> Iterator[tuple[int, Any]]:
    now = 0
    for message in track:
        now += message.time
        yield now, message


@dataclass(frozen=True)
class _Clock:
    """Ticks to seconds."""

    ticks: Doubles  # (K,) where a tempo begins
    starts: Doubles  # (K,) s
    pace: Doubles  # (K,) seconds per tick

    @classmethod
    def of(cls, division: int, events: Sequence[tuple[int, Any]]) -> _Clock:
        if division < 0:  # SMPTE: frames per second in the upper byte, ticks per frame in the lower
            per_second = -(division >> 8)
            rate = 30000 / 1001 if per_second == 29 else float(per_second)
            return cls(np.zeros(1), np.zeros(1), np.array([1 / (rate * (division & 0xFF))]))
        tempi = [(0, _TEMPO)]
        tempi += [(tick, message.tempo) for tick, message in events if message.type == "set_tempo"]
        ticks = np.array([tick for tick, _ in tempi], dtype=np.float64)
        pace = np.array([tempo for _, tempo in tempi]) / 1e6 / division
        starts = np.concatenate(([0.0], np.cumsum(np.diff(ticks) * pace[:-1])))
        return cls(ticks, starts, pace)

    def __call__(self, tick: int) -> float:
        k = int(np.searchsorted(self.ticks, tick, side="right")) - 1
        return float(self.starts[k] + (tick - self.ticks[k]) * self.pace[k])


def _read_part(
    track: Sequence[tuple[int, Any]],
    channel: int | None,
    clock: _Clock,
    part: _Part,
    usual_range: float,
) -> _Part:
    sounding: dict[tuple[int, int], list[float]] = {}  # channel, number -> when they began
    listening: dict[int, list[int]] = {}  # by channel, the RPN that data bytes are for
    reach: dict[int, float] = {}
    wheel: dict[int, int] = {}
    now = 0.0
    for tick, message in track:
        now = clock(tick)
        kind = message.type
        if kind not in ("note_on", "note_off", "pitchwheel", "control_change"):
            continue
        ch = message.channel
        if ch == _DRUMS or (channel is not None and ch != channel):
            continue
        if kind == "note_on" and message.velocity > 0:
            sounding.setdefault((ch, message.note), []).append(now)
        elif kind in ("note_on", "note_off"):
            began = sounding.get((ch, message.note))
            if began:
                part.notes.append((began.pop(0), now, message.note, ch))
        elif kind == "pitchwheel":
            wheel[ch] = message.pitch
            part.unsaid_range |= message.pitch != 0 and ch not in reach
        else:
            _control(message, listening.setdefault(ch, [127, 127]), reach)
        if kind in ("pitchwheel", "control_change"):
            semitones = wheel.get(ch, 0) / _FULL_BEND * reach.get(ch, usual_range)
            part.bends.setdefault(ch, [(-1.0, 0.0)]).append((now, semitones))
    part.seconds = now
    for (ch, number), starts in sounding.items():  # never ended: they sound until the track ends
        part.notes += [(start, now, number, ch) for start in starts]
    return part


def _control(message: Any, rpn: list[int], reach: dict[int, float]) -> None:
    """Follow the messages that set the bend range: RPN 0, semitones and cents."""
    if message.control in (98, 99):
        rpn[:] = [127, 127]  # data bytes are now for a parameter of the maker's
    elif message.control in (100, 101):
        rpn[message.control - 100] = message.value
    elif rpn == [0, 0] and message.control == 6:
        reach[message.channel] = float(message.value)
    elif rpn == [0, 0] and message.control == 38:
        reach[message.channel] = float(int(reach.get(message.channel, _USUAL_RANGE)))
        reach[message.channel] += min(message.value, 99) / 100


def _choose(parts: Sequence[_Part], wanted: str | None, path: str) -> _Part:
    """Take the track that was asked for, or the one with most notes."""
    if not parts:
        raise CurveError(f"{path} holds no notes (percussion does not count)")
    names = ", ".join(
        f'{number} "{part.name}" ({len(part.notes)} notes)'
        for number, part in enumerate(parts, start=1)
    )
    if wanted is not None:
        for number, part in enumerate(parts, start=1):
            if wanted == str(number) or wanted.casefold() == part.name.casefold():
                return part
        raise CurveError(f'{path} has no track "{wanted}"; it has {names}')
    most = max(range(len(parts)), key=lambda i: (len(parts[i].notes), -i))
    if len(parts) > 1:
        logger.warning(
            "%s: track %d is sung, it has most notes, of %s; choose with  svc f0 convert --track",
            path,
            most + 1,
            names,
        )
    return parts[most]


def _check_end(last: float, seconds: float, n_frames: int, grid: FrameGrid, path: str) -> None:
    song = n_frames * grid.frame_seconds
    if last > song + grid.tolerance * grid.frame_seconds:
        raise CurveError(
            f"{path}: its notes last until {last:.2f} s, the song {song:.2f} s; take the melody of "
            "this song in its tempo"
        )
    if max(last, seconds) < min(song * _SHORT_SHARE, song - _SHORT_SECONDS):
        logger.warning(
            "%s ends at %.2f s, the song at %.2f s; the rest is unvoiced", path, seconds, song
        )


def _sing(part: _Part, grid: FrameGrid, n_frames: int) -> F0Track:
    """What a voice makes of the notes, frame by frame."""
    times = (np.arange(n_frames) + _LATER) * grid.frame_seconds
    owner = np.full(n_frames, -1, dtype=np.int64)
    notes = sorted(part.notes, key=lambda note: (note[0], note[2]))
    for i, (on, off, _, _) in enumerate(notes):  # later ones over earlier ones
        first, end = np.searchsorted(times, (on, off), side="left")
        owner[first:end] = i
    voiced = owner >= 0
    number = np.array([note[2] for note in notes], dtype=np.float64)[owner]
    channel = np.array([note[3] for note in notes])[owner]
    for ch, bends in part.bends.items():
        when = np.array([time for time, _ in bends])
        bend = np.array([semitones for _, semitones in bends])
        heard = bend[np.searchsorted(when, times, side="right") - 1]
        number = np.where(channel == ch, number + heard, number)
    f0 = np.where(voiced, 440.0 * np.exp2((number - 69.0) / 12.0), 0.0)
    filled, uv = interpolate_unvoiced(f0, hop_length=grid.hop_length, sr=grid.sampling_rate)
    filled[voiced] = f0[voiced]
    return F0Track(filled.astype(np.float32), uv)
