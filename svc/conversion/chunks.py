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

from collections.abc import Sequence
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
    segments: Sequence[Segment], source: FloatArray, sr: int, model_sr: int, options: InferOptions
) -> list[Piece]:
    """Plan the calls for one song.

    Args:
        segments: voiced and silent parts of the input, in samples at `sr`.
        source: the song at the model's rate, float32 (T,); long sound without a pause is cut where
            it is quietest.
        sr: rate of the segments, Hz.
        model_sr: rate of the model, Hz.
        options: clip_seconds, crossfade_seconds, crossfade_retain, max_chunk_seconds are used.

    Returns:
        Pieces in order. What no piece covers is silence.
    """
    n_samples = source.shape[-1]
    pieces: list[Piece] = []
    for segment in segments:
        start = min(resampled_length(segment.start, sr, model_sr), n_samples)
        end = min(resampled_length(segment.end, sr, model_sr), n_samples)
        if segment.silent or end <= start:
            continue
        inner = _split_segment(start, end, source, model_sr, options)
        if pieces and pieces[-1].end == start:
            inner = _join(pieces, inner, start, round(JOIN_SECONDS * model_sr))
        pieces.extend(inner)
    return _fade_edges(pieces, n_samples, round(EDGE_FADE_SECONDS * model_sr))


def _split_segment(
    start: int, end: int, source: FloatArray, model_sr: int, options: InferOptions
) -> list[Piece]:
    """Cut one voiced segment at the forced positions, or where it is too long for the memory."""
    clip = round(options.clip_seconds * model_sr)
    if clip > 0:
        cuts = list(range(start + clip, end, clip))
        # The rest after the last whole clip is rendered together with it when it is too short to
        # hold a join.
        if cuts and end - cuts[-1] < round(2 * JOIN_SECONDS * model_sr):
            cuts.pop()
        overlap = round(options.crossfade_seconds * model_sr)
    else:
        cuts = _quiet_cuts(start, end, source, model_sr, options.max_chunk_seconds or 0.0)
        overlap = 0
    pieces = [Piece(start, cuts[0] if cuts else end)]
    for cut, stop in zip(cuts, [*cuts[1:], end]):
        following = [Piece(cut, stop)]
        if overlap > 0:
            # Every clip but the first starts `overlap` early; the middle part of the overlap is
            # faded (spec_core 8.5).
            fade = max(1, round(overlap * options.crossfade_retain))
            left = (overlap - fade) // 2
            fade_start = cut - overlap + left
            pieces[-1] = replace(pieces[-1], end=fade_start + fade, fade_out=fade, joins_next=True)
            pieces.append(Piece(fade_start, stop, fade_in=fade, joins_previous=True))
        else:
            seconds = JOIN_SECONDS if clip > 0 else LONG_JOIN_SECONDS
            pieces.extend(_join(pieces, following, cut, round(seconds * model_sr)))
    return pieces


def _join(done: list[Piece], following: list[Piece], cut: int, fade: int) -> list[Piece]:
    """Let the last piece of `done` and the first of `following` overlap around their border."""
    before, after = done[-1], following[0]
    half = max(
        0,
        min(
            fade // 2,
            cut - before.start - before.fade_in,
            (after.end - cut) // 2,
            after.end - cut - after.fade_out,
        ),
    )
    done[-1] = replace(before, end=cut + half, fade_out=2 * half, joins_next=True)
    first = replace(after, start=cut - half, fade_in=2 * half, joins_previous=True)
    return [first, *following[1:]]


def _fade_edges(pieces: list[Piece], n_samples: int, fade: int) -> list[Piece]:
    """Give a short fade to every border with silence; both ends of the song stay as they are."""
    faded: list[Piece] = []
    for piece in pieces:
        length = piece.end - piece.start
        fade_in, fade_out = piece.fade_in, piece.fade_out
        if not piece.joins_previous and piece.start > 0:
            fade_in = max(0, min(fade, length // 2, length - fade_out))
        if not piece.joins_next and piece.end < n_samples:
            fade_out = max(0, min(fade, length // 2, length - fade_in))
        faded.append(replace(piece, fade_in=fade_in, fade_out=fade_out))
    return faded


def _quiet_cuts(
    start: int, end: int, source: FloatArray, model_sr: int, max_seconds: float
) -> list[int]:
    """Cut sound that is too long into even parts; cuts move to the quietest 20 ms near them."""
    longest = round(max_seconds * model_sr)
    if longest <= 0 or end - start <= longest:
        return []
    reach = longest // 10
    # Parts are planned 2 * reach shorter than the limit, so moving both of their cuts cannot exceed
    # it.
    parts = -(-(end - start) // (longest - 2 * reach))
    frame = max(1, round(_QUIET_FRAME_SECONDS * model_sr))
    cuts = []
    for part in range(1, parts):
        ideal = start + (end - start) * part // parts
        low = max(ideal - reach, start + 1)
        high = min(ideal + reach, end - 1)
        energy = np.square(source[low:high], dtype=np.float64)
        n_frames = energy.size // frame
        if n_frames == 0:
            cuts.append(ideal)
            continue
        power = energy[: n_frames * frame].reshape(n_frames, frame).mean(axis=1)
        cuts.append(low + int(power.argmin()) * frame + frame // 2)
    return cuts
