r"""Which stretches of a song are rendered in one call, and how neighbouring stretches meet.

All positions are samples at the model's rate, so nothing drifts when the input has another rate
(so-vits-svc 4.1 counted cross-fades in input samples, behaviour I5, spec_core 10). The original's
own arithmetic is in `compat.py`.

    silent        voiced                                  voiced                silent
    0 0 0 0 |/‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾\ /‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾\| 0 0 0 0
            ^ EDGE_FADE_SECONDS            X  overlap: both are rendered, then cross-faded
    |.......^........................................^.......|
     context                                          context      (rendered and thrown away)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from svc.audio.resample import resampled_length
from svc.audio.slicer import Segment
from svc.conversion.options import InferOptions

FloatArray = npt.NDArray[np.float32]

EDGE_FADE_SECONDS = 0.005  # between sound and exact silence
JOIN_SECONDS = 0.010  # between two stretches of sound, when no longer overlap is asked for
LONG_JOIN_SECONDS = 0.050  # at cuts that `max_chunk_seconds` forces into continuous sound
_QUIET_FRAME_SECONDS = 0.02
_REACH = 10  # a cut moves by at most this part of the longest stretch

Take = Callable[[int, int], FloatArray]
"""``take(begin, end) -> float32 (end - begin,)``: samples of the song at the model's rate."""


@dataclass(frozen=True)
class Piece:
    """A stretch [start, end) of the output, in samples at the model's rate.

    Attributes:
        start: first sample; where `fade_in` begins.
        end: one past the last sample; where `fade_out` ends.
        fade_in: samples of the fade at the start.
        fade_out: samples of the fade at the end.
        joins_previous: the fade-in is a cross-fade with the previous piece, not a fade from
            silence.
        joins_next: the fade-out is a cross-fade with the next piece, not a fade to silence.
    """

    start: int
    end: int
    fade_in: int = 0
    fade_out: int = 0
    joins_previous: bool = False
    joins_next: bool = False

    def window(self, context: int, hop_length: int) -> tuple[int, int]:
        """Stretch to feed to the model: the piece with its context, widened to whole frames.

        Its frames are frames of the song, so that a pitch curve of the song holds theirs.

        Args:
            context: samples to add on both sides, at least.
            hop_length: samples per frame.

        Returns:
            ``(begin, length)``, whole frames both; begin may be negative and begin + length may
            pass the end of the song.
        """
        begin = (self.start - context) // hop_length * hop_length
        return begin, -(-(self.end + context - begin) // hop_length) * hop_length


def plan_pieces(
    segments: Sequence[Segment],
    take: Take,
    n_samples: int,
    sr: int,
    model_sr: int,
    options: InferOptions,
) -> Iterator[Piece]:
    """Plan the calls for one song, each as soon as the song is known as far as it depends on it.

    Args:
        segments: voiced and silent parts of the input, in samples at `sr`.
        take: gives the song at the model's rate; long sound without a pause is cut where it is
            quietest. No more is asked for than two pieces ahead of the one that is yielded.
        n_samples: length of the song at the model's rate.
        sr: rate of the segments, Hz.
        model_sr: rate of the model, Hz.
        options: clip_seconds, crossfade_seconds, crossfade_retain, max_chunk_seconds are used.

    Yields:
        Pieces in order. What no piece covers is silence.
    """
    fade = round(EDGE_FADE_SECONDS * model_sr)
    last: Piece | None = None
    for start, end in sung_parts(segments, n_samples, sr, model_sr):
        if last is not None and last.end < start:  # it meets silence, however long that is
            yield _fade_edges(last, n_samples, fade)
            last = None
        inner = _split_segment(start, end, take, model_sr, options)
        piece = next(inner)
        if last is not None:
            last, piece = _join(last, piece, start, round(JOIN_SECONDS * model_sr))
            yield _fade_edges(last, n_samples, fade)
        while piece.joins_next:
            yield _fade_edges(piece, n_samples, fade)
            piece = next(inner)
        last = piece
    if last is not None:
        yield _fade_edges(last, n_samples, fade)


def count_pieces(
    segments: Sequence[Segment], n_samples: int, sr: int, model_sr: int, options: InferOptions
) -> int:
    """Count what `plan_pieces` is going to yield; arguments as there."""
    clip = round(options.clip_seconds * model_sr)
    longest = _longest(model_sr, options)
    return sum(
        1 + len(_forced_cuts(start, end, clip, model_sr))
        if clip > 0
        else _parts(start, end, longest)
        for start, end in sung_parts(segments, n_samples, sr, model_sr)
    )


def sung_parts(
    segments: Sequence[Segment], n_samples: int, sr: int, model_sr: int
) -> Iterator[tuple[int, int]]:
    """Yield start and end of the voiced segments at the model's rate; arguments as of `plan_pieces`."""
    for segment in segments:
        start = min(resampled_length(segment.start, sr, model_sr), n_samples)
        end = min(resampled_length(segment.end, sr, model_sr), n_samples)
        if not segment.silent and end > start:
            yield start, end


def _split_segment(
    start: int, end: int, take: Take, model_sr: int, options: InferOptions
) -> Iterator[Piece]:
    """Cut one voiced segment at the forced positions, or where it is too long for the memory."""
    clip = round(options.clip_seconds * model_sr)
    cuts: Iterable[int]
    if clip > 0:
        cuts = _forced_cuts(start, end, clip, model_sr)
        overlap = round(options.crossfade_seconds * model_sr)
    else:
        cuts = _quiet_cuts(start, end, take, model_sr, _longest(model_sr, options))
        overlap = 0
    seconds = JOIN_SECONDS if clip > 0 else LONG_JOIN_SECONDS
    borders = itertools.chain(cuts, [end])
    cut = next(borders)
    piece = Piece(start, cut)
    for stop in borders:
        following = Piece(cut, stop)
        if overlap > 0:
            # Every clip but the first starts `overlap` early; the middle part of the overlap is
            # faded (spec_core 8.5).
            fade = max(1, round(overlap * options.crossfade_retain))
            left = (overlap - fade) // 2
            fade_start = cut - overlap + left
            piece = replace(piece, end=fade_start + fade, fade_out=fade, joins_next=True)
            following = Piece(fade_start, stop, fade_in=fade, joins_previous=True)
        else:
            piece, following = _join(piece, following, cut, round(seconds * model_sr))
        yield piece
        piece, cut = following, stop
    yield piece


def _forced_cuts(start: int, end: int, clip: int, model_sr: int) -> range:
    """Cut a segment every `clip` samples."""
    cuts = range(start + clip, end, clip)
    # The rest after the last whole clip is rendered together with it when it is too short to hold a
    # join.
    if cuts and end - cuts[-1] < round(2 * JOIN_SECONDS * model_sr):
        cuts = cuts[:-1]
    return cuts


def _join(before: Piece, after: Piece, cut: int, fade: int) -> tuple[Piece, Piece]:
    """Let two pieces overlap around their border."""
    half = max(
        0,
        min(
            fade // 2,
            cut - before.start - before.fade_in,
            (after.end - cut) // 2,
            after.end - cut - after.fade_out,
        ),
    )
    return (
        replace(before, end=cut + half, fade_out=2 * half, joins_next=True),
        replace(after, start=cut - half, fade_in=2 * half, joins_previous=True),
    )


def _fade_edges(piece: Piece, n_samples: int, fade: int) -> Piece:
    """Give a short fade to borders with silence; both ends of the song stay as they are."""
    length = piece.end - piece.start
    fade_in, fade_out = piece.fade_in, piece.fade_out
    if not piece.joins_previous and piece.start > 0:
        fade_in = max(0, min(fade, length // 2, length - fade_out))
    if not piece.joins_next and piece.end < n_samples:
        fade_out = max(0, min(fade, length // 2, length - fade_in))
    return replace(piece, fade_in=fade_in, fade_out=fade_out)


def _longest(model_sr: int, options: InferOptions) -> int:
    """Samples of the longest stretch without a cut; 0 = any."""
    return round((options.max_chunk_seconds or 0.0) * model_sr)


def _parts(start: int, end: int, longest: int) -> int:
    """Into how many parts a segment is cut that may be too long."""
    if longest <= 0 or end - start <= longest:
        return 1
    # Parts are planned 2 * reach shorter than the limit, so moving both of their cuts cannot exceed
    # it.
    return -(-(end - start) // (longest - 2 * (longest // _REACH)))


def _quiet_cuts(start: int, end: int, take: Take, model_sr: int, longest: int) -> Iterator[int]:
    """Cut sound that is too long into even parts; cuts move to the quietest 20 ms near them."""
    parts = _parts(start, end, longest)
    reach = longest // _REACH
    frame = max(1, round(_QUIET_FRAME_SECONDS * model_sr))
    for part in range(1, parts):
        ideal = start + (end - start) * part // parts
        low = max(ideal - reach, start + 1)
        high = min(ideal + reach, end - 1)
        n_frames = max(0, high - low) // frame
        if n_frames == 0:
            yield ideal
            continue
        energy = np.square(take(low, low + n_frames * frame), dtype=np.float64)
        power = energy.reshape(n_frames, frame).mean(axis=1)
        yield low + int(power.argmin()) * frame + frame // 2
