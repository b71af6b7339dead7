"""The original's own way of cutting and joining a song, sample for sample: the parity switch of
`Converter`.

so-vits-svc 4.1 behaviour, spec_core 8.5, with what spec_core 10 marks as faults: zeros instead of
context (and no fades), audio up to a frame short and centred by zeros (I4), cross-fade lengths
counted in input samples (I5), a length that may drift from the input's. Two things are not
reproduced: the detour of every chunk through a 16-bit WAV (I8), which only adds quantisation noise,
and the empty result of pad_seconds = 0 (I3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from svc.audio.overlap import crossfade_append
from svc.audio.resample import resampled_length
from svc.audio.slicer import Segment
from svc.conversion.chunks import FloatArray
from svc.conversion.options import InferOptions

Render = Callable[[FloatArray, int], FloatArray]
"""``render(wav (n,) at the input's rate, first frame) -> wav (frames * hop,) at the model's rate``.
"""


@dataclass(frozen=True)
class Call:
    """One call of the model, or one silent chunk.

    Attributes:
        start: first input sample.
        end: one past the last input sample.
        first_frame: the original's running frame counter before this call.
        silent: nothing is rendered, zeros are written.
        overlapped: cross-faded with the call before it.
        pad: zeros added on both sides, input samples.
    """

    start: int
    end: int
    first_frame: int
    silent: bool = False
    overlapped: bool = False
    pad: int = 0

    @property
    def input_length(self) -> int:
        """Samples passed to the model, padding included."""
        return self.end - self.start + 2 * self.pad


def plan_calls(
    segments: Sequence[Segment], sr: int, model_sr: int, hop_length: int, options: InferOptions
) -> list[Call]:
    """Plan the calls for one song.

    Args:
        segments: voiced and silent parts, input samples.
        sr: rate of the input, Hz.
        model_sr: rate of the model, Hz.
        hop_length: samples per frame at the model's rate.
        options: clip_seconds, crossfade_seconds and pad_seconds are used.

    Returns:
        The calls in order; their input lengths and first frames are the original's.
    """
    per = int(options.clip_seconds * sr)
    overlap = int(options.crossfade_seconds * sr)
    pad = int(options.pad_seconds * sr)
    calls: list[Call] = []
    frame = 0
    for segment in segments:
        length = segment.end - segment.start
        if length <= 0:
            continue
        if segment.silent:
            calls.append(Call(segment.start, segment.end, frame, silent=True))
            frame += resampled_length(length, sr, model_sr) // hop_length
            continue
        for offset in range(0, length, per or length):
            early = overlap if per and offset >= overlap else 0
            call = Call(
                start=segment.start + offset - (early if offset else 0),
                end=segment.start + min(offset + (per or length), length),
                first_frame=frame,
                overlapped=bool(per and overlap and offset),
                pad=pad,
            )
            calls.append(call)
            frame += resampled_length(call.input_length, sr, model_sr) // hop_length
    return calls


def render_calls(
    wav: FloatArray,
    calls: Sequence[Call],
    render: Render,
    sr: int,
    model_sr: int,
    options: InferOptions,
) -> FloatArray:
    """Render and join the calls as the original does.

    Args:
        wav: the song, float32 (T,) at `sr`.
        calls: the plan of `plan_calls`.
        render: the model.
        sr: rate of the input, Hz.
        model_sr: rate of the model, Hz.
        options: crossfade_seconds, crossfade_retain and pad_seconds are used.

    Returns:
        float32, about ``T * model_sr / sr`` samples.
    """
    overlap = int(options.crossfade_seconds * sr)
    fade = int(overlap * options.crossfade_retain)
    before = (overlap - fade) // 2
    after = overlap - fade - before
    cut = int(model_sr * options.pad_seconds)
    parts: list[FloatArray] = []
    for call in calls:
        length = resampled_length(call.end - call.start, sr, model_sr)
        if call.silent:
            parts.append(np.zeros(length, dtype=np.float32))
            continue
        padded = np.pad(wav[call.start : call.end], call.pad).astype(np.float32)
        rendered = render(padded, call.first_frame)
        rendered = rendered[cut : rendered.shape[0] - cut]
        missing = length - rendered.shape[0]
        if missing > 0:
            rendered = np.pad(rendered, (missing // 2, missing - missing // 2))
        if call.overlapped:
            previous = parts.pop()
            kept = previous[: previous.shape[0] - after]
            rendered = crossfade_append(kept, rendered[before:], fade).astype(np.float32)
        parts.append(rendered)
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
