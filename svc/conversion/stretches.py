"""Going through a song: its stretches one after the other into a model, and the results into one
wav.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from svc.audio.pitch import F0Track
from svc.audio.resample import resample, resampled_length
from svc.audio.slicer import Segment, Slicer
from svc.conversion.assembly import Assembler
from svc.conversion.backend import Backend
from svc.conversion.chunks import FloatArray, plan_pieces
from svc.conversion.compat import Call, plan_calls, render_calls
from svc.conversion.options import InferOptions
from svc.conversion.speaker_mix import SpeakerMix, total_frames
from svc.conversion.windows import Window
from svc.errors import DeviceError
from svc.f0.curve import FrameGrid, cut, cut_at
from svc.progress import Progress

Render = Callable[[Window], FloatArray]
"""``render(window) -> wav (n // hop_length * hop_length,)``, at the model's rate."""


@dataclass(frozen=True)
class Song:
    """A checked song.

    Attributes:
        wav: float32 (T,).
        sr: its rate, Hz.
        f0: its pitch curve on the frames of the model; None = there is none.
        mix: who sings when; None = one speaker.
    """

    wav: FloatArray
    sr: int
    f0: F0Track | None = None
    mix: SpeakerMix | None = None


def render_song(
    voice: Backend, song: Song, options: InferOptions, render: Render, report: Progress
) -> FloatArray:
    """Cut a song into stretches, render each and join them.

    Args:
        voice: gives rate, hop and the way of cutting; `render` is not taken from it.
        song: what to go through.
        options: everything about cutting and joining is used.
        render: the model.
        report: called after each stretch as ``(done, stretches, "")``.

    Returns:
        float32, as `Converter.convert` says.

    Raises:
        DeviceError: out of memory.
        SvcError: what `render` raises.
    """
    slicer = Slicer(song.sr, threshold_db=options.slice_db)
    segments = slicer.slice(song.wav) if song.wav.size else []
    try:
        way = _as_the_original if voice.compat else _by_pieces
        return way(voice, song, segments, options, render, report)
    except (RuntimeError, MemoryError) as error:
        # On the CPU torch reports it as a plain RuntimeError of its allocator, on an accelerator by
        # an error of its own, which cannot be named where there is no torch.
        names = {kind.__name__ for kind in type(error).__mro__}
        if not names & {"OutOfMemoryError", "MemoryError"} and "allocate memory" not in str(error):
            raise
        raise DeviceError(
            f"out of memory on {voice.where}: render shorter stretches with -cl 10, or "
            "choose another device with -d"
        ) from error


def _by_pieces(
    voice: Backend,
    song: Song,
    segments: Sequence[Segment],
    options: InferOptions,
    render: Render,
    report: Progress,
) -> FloatArray:
    sr, hop = voice.sampling_rate, voice.hop_length
    n_samples = resampled_length(song.wav.size, song.sr, sr)
    assembler = Assembler(n_samples)
    if all(segment.silent for segment in segments):
        return assembler.song
    source = resample(song.wav, song.sr, sr)
    if options.max_chunk_seconds is None:
        heard = voice.usual_seconds - 2 * options.pad_seconds
        options = replace(options, max_chunk_seconds=max(1.0, heard))
    pieces = plan_pieces(segments, source, song.sr, sr, options)
    context = round(options.pad_seconds * sr)
    for done, piece in enumerate(pieces):
        report(done, len(pieces), "")
        begin, length = piece.window(context, hop)
        first, count = begin // hop, length // hop
        window = Window(
            _cut(source, begin, length),
            None if song.f0 is None else cut(song.f0, first, count),
            None
            if song.mix is None
            else song.mix.rows(first, count, max(1, n_samples // hop), frame_seconds=hop / sr),
        )
        rendered = render(window)
        assembler.add(piece, rendered[piece.start - begin : piece.end - begin])
    report(len(pieces), len(pieces), "")
    return assembler.song


def _as_the_original(
    voice: Backend,
    song: Song,
    segments: Sequence[Segment],
    options: InferOptions,
    render: Render,
    report: Progress,
) -> FloatArray:
    import torch

    from svc.audio.resample import sinc_resample

    sr, hop = voice.sampling_rate, voice.hop_length
    grid = FrameGrid(sr, hop)
    calls = plan_calls(segments, song.sr, sr, hop, options)
    voiced = [call for call in calls if not call.silent]
    weights = None
    if song.mix is not None:
        total = total_frames(segments, song.sr, sr, hop, options)
        weights = song.mix.compat_weights(total, seconds=song.wav.size / song.sr)
    ahead = iter(voiced)
    done = 0

    def render_call(padded: FloatArray, first_frame: int) -> FloatArray:
        nonlocal done
        call = next(ahead)
        source = sinc_resample(torch.from_numpy(padded), song.sr, sr).numpy()
        if source.size < hop:
            return np.zeros(0, dtype=np.float32)
        n_frames = source.size // hop
        window = Window(
            source,
            None if song.f0 is None else _cut_call(song.f0, call, n_frames, song.sr, grid),
            None if weights is None else _rows(weights, first_frame, n_frames),
        )
        rendered = render(window)
        done += 1
        report(done, len(voiced), "")
        return rendered

    return render_calls(song.wav, calls, render_call, song.sr, sr, options)


def _rows(weights: FloatArray, first: int, count: int) -> FloatArray:
    """Take frames of a whole song's mix; the context before and after it sings like its ends."""
    at = np.clip(np.arange(first, first + count), 0, len(weights) - 1)
    rows: FloatArray = weights[at]
    return rows


def _cut(source: FloatArray, begin: int, length: int) -> FloatArray:
    """Return `source[begin:begin + length]` with zeros where that is outside the song."""
    window = np.zeros(length, dtype=np.float32)
    low, high = max(begin, 0), min(begin + length, source.size)
    window[low - begin : high - begin] = source[low:high]
    return window


def _cut_call(f0: F0Track, call: Call, n_frames: int, sr: int, grid: FrameGrid) -> F0Track:
    """Take the frames of the song's curve that are nearest in time to those of a call; there are
    none in the zeros around it.
    """
    seconds = np.arange(n_frames) * grid.frame_seconds + (call.start - call.pad) / sr
    track = cut_at(f0, np.rint(seconds / grid.frame_seconds).astype(np.int64))
    inside = (seconds >= call.start / sr) & (seconds < call.end / sr)
    return F0Track(track.f0, track.uv * inside)
