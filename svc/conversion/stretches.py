"""Going through a song: its stretches one after the other into a model, and the results into one
wav.

    survey     |song read once: how long it is, where it is silent|
    read       |  resampled, cut into pieces at quiet places |...
    f0           | ahead, in another thread |...
    nets            | group of windows |...
    join               | parts of the result, in order |...

What is in memory of the song is what the windows from the present one to the next cuts hold.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace

import numpy as np

from svc.audio.hush import SHORTEST_SECONDS, silence_gain
from svc.audio.pitch import F0Track
from svc.conversion.ahead import runs_beside, with_tracks
from svc.conversion.assembly import Assembler
from svc.conversion.backend import Backend, out_of_memory
from svc.conversion.chunks import (
    LONG_JOIN_SECONDS,
    FloatArray,
    count_pieces,
    plan_pieces,
    sung_parts,
)
from svc.conversion.compat import Call, plan_calls, render_calls
from svc.conversion.grouping import in_groups, longest_first
from svc.conversion.options import InferOptions
from svc.conversion.sources import SongReader, SongSource
from svc.conversion.speaker_mix import SpeakerMix, total_frames
from svc.conversion.survey import Survey
from svc.conversion.windows import Passage, Window
from svc.errors import DeviceError
from svc.f0.curve import FrameGrid, cut, cut_at
from svc.progress import Progress

SILENCE_DB = -80.0
"""Where the song stays below this peak level, dBFS, the result is silent, whatever the model whispers."""

Render = Callable[[Sequence[Window]], list[FloatArray]]
"""``render(windows) -> wavs (n // hop_length * hop_length,)``, at the model's rate."""


@dataclass(frozen=True)
class Song:
    """A checked song.

    Attributes:
        source: its samples.
        survey: of the source.
        f0: its pitch curve on the frames of the model; None = there is none.
        mix: who sings when; None = one speaker.
    """

    source: SongSource
    survey: Survey
    f0: F0Track | None = None
    mix: SpeakerMix | None = None


def render_song(
    voice: Backend,
    song: Song,
    options: InferOptions,
    render: Render,
    report: Progress,
    *,
    listens_ahead: bool = True,
) -> Generator[FloatArray, None, None]:
    """Cut a song into stretches, render them and join them.

    Args:
        voice: gives rate, hop, the way of cutting and how much is rendered together; `render_many`
            is not taken from it.
        song: what to go through.
        options: everything about cutting and joining is used.
        render: the model.
        report: called after each stretch as ``(done, stretches, "")``.
        listens_ahead: let the voice's predictor find the pitch of the next windows while `render`
            works.

    Yields:
        Parts of the result, as `Converter.stream` says.

    Raises:
        AudioError: the song is not as long as its survey says.
        DeviceError: out of memory.
        SvcError: what `render` raises.
    """
    with _memory_told(voice.where):
        if voice.compat:
            yield from _as_the_original(voice, song, options, render, report)
        else:
            yield from _by_pieces(voice, song, options, render, report, listens_ahead)


@contextmanager
def _memory_told(where: str) -> Iterator[None]:
    """Say what to do when the memory of a device is full."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise DeviceError(
            f"out of memory on {where}: render shorter stretches with -cl 10, or "
            "choose another device with -d"
        ) from error


def _by_pieces(
    voice: Backend,
    song: Song,
    options: InferOptions,
    render: Render,
    report: Progress,
    listens_ahead: bool,
) -> Iterator[FloatArray]:
    reader = SongReader(song.source, song.survey.n_samples, voice.sampling_rate)
    assembler = Assembler(reader.n_samples)
    if song.survey.is_silent:
        yield from assembler.finish()
        return
    if options.max_chunk_seconds is None:
        options = replace(options, max_chunk_seconds=usual_chunk_seconds(voice, options))
    hop, predictor = voice.hop_length, voice.f0_predictor
    segments, rates = song.survey.segments, (song.source.sr, voice.sampling_rate)
    n_pieces = count_pieces(segments, reader.n_samples, *rates, options)
    done = 0
    report(done, n_pieces, "")
    with ExitStack() as stack:
        stretches = _stretches(reader, song, options, voice)
        if listens_ahead and predictor is not None and runs_beside(predictor, voice.where):
            ahead = with_tracks(stretches, predictor, lambda: voice.batch_frames * hop)
            # Closed whatever happens: a traceback would keep its thread alive.
            stretches = stack.enter_context(closing(ahead))
        for group in in_groups(
            stretches, lambda one: one.window.wav.size // hop, lambda: voice.batch_frames
        ):
            windows = [stretch.window for stretch in group]
            for stretch, wav in zip(group, longest_first(windows, render), strict=True):
                sung = wav if stretch.gain is None else wav * stretch.gain
                yield from assembler.add(stretch.piece, stretch.part(sung))
                done += 1
                report(done, n_pieces, "")
    yield from assembler.finish()


def usual_chunk_seconds(voice: Backend, options: InferOptions) -> float:
    """Length of the longest stretch whose window is not longer than the voice is at home with.

    Args:
        voice: gives that length, rate and hop.
        options: `pad_seconds` is used.

    Returns:
        Seconds, at least 1: a window holds both pads, is widened to whole frames at both ends, and
        overlaps with its neighbours where continuous sound is cut.
    """
    around = options.pad_seconds + voice.hop_length / voice.sampling_rate
    return max(1.0, voice.usual_seconds - 2 * around - LONG_JOIN_SECONDS)


def _stretches(
    reader: SongReader, song: Song, options: InferOptions, voice: Backend
) -> Iterator[Passage]:
    """Read a song and yield what the model is given of it, in order."""
    sr, hop = voice.sampling_rate, voice.hop_length
    context = round(options.pad_seconds * sr)
    # A pause counts as long as it is, also where only a moment of it lies in a window.
    reach = round(SHORTEST_SECONDS * sr)
    silence_db = min(SILENCE_DB, options.slice_db)  # what counts as sound for the user is sung
    n_frames = max(1, reader.n_samples // hop)
    rates = song.source.sr, sr
    parts = sung_parts(song.survey.segments, reader.n_samples, *rates)
    needed = next((start for start, _ in parts), reader.n_samples)  # by the next piece
    reader.forget(needed - context - hop - reach)
    for piece in plan_pieces(song.survey.segments, reader.take, reader.n_samples, *rates, options):
        begin, length = piece.window(context, hop)
        first, count = begin // hop, length // hop
        weights = None
        if song.mix is not None:
            weights = song.mix.rows(first, count, n_frames, frame_seconds=hop / sr)
        track = None if song.f0 is None else cut(song.f0, first, count)
        around = reader.take(begin - reach, begin + length + reach)
        gain = silence_gain(around, sr, silence_db)
        wav = around[reach : reach + length]
        if piece.joins_next:
            needed = piece.end - piece.fade_out
        else:  # however long the silence is, nothing of it is kept
            needed = next((start for start, _ in parts if start >= piece.end), reader.n_samples)
        reader.forget(needed - context - hop - reach)
        gain = None if gain is None else gain[reach : reach + length]
        yield Passage(Window(wav, track, weights), begin, piece, gain)


def _as_the_original(
    voice: Backend,
    song: Song,
    options: InferOptions,
    render: Render,
    report: Progress,
) -> Iterator[FloatArray]:
    """Go through a song as so-vits-svc 4.1 does, which needs the whole of it in memory."""
    import torch

    from svc.audio.resample import sinc_resample

    source_sr, segments = song.source.sr, song.survey.segments
    wav = np.concatenate([np.zeros(0, "f4"), *(block.copy() for block in song.source.blocks())])
    sr, hop = voice.sampling_rate, voice.hop_length
    grid = FrameGrid(sr, hop)
    calls = plan_calls(segments, source_sr, sr, hop, options)
    voiced = [call for call in calls if not call.silent]
    weights = None
    if song.mix is not None:
        total = total_frames(segments, source_sr, sr, hop, options)
        weights = song.mix.compat_weights(total, seconds=wav.size / source_sr)
    ahead = iter(voiced)
    done = 0

    def render_call(padded: FloatArray, first_frame: int) -> FloatArray:
        nonlocal done
        call = next(ahead)
        source = sinc_resample(torch.from_numpy(padded), source_sr, sr).numpy()
        if source.size < hop:
            return np.zeros(0, dtype=np.float32)
        n_frames = source.size // hop
        window = Window(
            source,
            None if song.f0 is None else _cut_call(song.f0, call, n_frames, source_sr, grid),
            None if weights is None else _rows(weights, first_frame, n_frames),
        )
        (rendered,) = render([window])
        done += 1
        report(done, len(voiced), "")
        return rendered

    made = render_calls(wav, calls, render_call, source_sr, sr, options)
    if made.size:
        yield made


def _rows(weights: FloatArray, first: int, count: int) -> FloatArray:
    """Take frames of a whole song's mix; the context before and after it sings like its ends."""
    at = np.clip(np.arange(first, first + count), 0, len(weights) - 1)
    rows: FloatArray = weights[at]
    return rows


def _cut_call(f0: F0Track, call: Call, n_frames: int, sr: int, grid: FrameGrid) -> F0Track:
    """Take the frames of the song's curve that are nearest in time to those of a call; there are
    none in the zeros around it.
    """
    seconds = np.arange(n_frames) * grid.frame_seconds + (call.start - call.pad) / sr
    track = cut_at(f0, np.rint(seconds / grid.frame_seconds).astype(np.int64))
    inside = (seconds >= call.start / sr) & (seconds < call.end / sr)
    return F0Track(track.f0, track.uv * inside)
