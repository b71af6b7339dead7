"""Writing an audio file block by block, in any format that libsndfile or ffmpeg knows.

A reader of the target sees the old file or the whole new one. The same samples give the same bytes.

Sixteen and 24 bits are rounded, not dithered: a file that is read and written again keeps every sample,
silence stays exact zeros, and what a voice model sings has noise of its own far above a 16-bit step.
"""

from __future__ import annotations

import io
import logging
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import soundfile

from svc.atomic import atomic_path
from svc.audio.formats import OutputFormat, output_format
from svc.audio.reader import MOST_CHANNELS
from svc.audio.sinks import FLOAT_SUBTYPES, Sink, SinkPlan, SoundSink, open_sink
from svc.audio.tags import Tags, clean_tags
from svc.errors import AudioError

if TYPE_CHECKING:
    from types import TracebackType

logger = logging.getLogger(__name__)

_BYTES = {"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}  # per sample
_WRITE_BLOCK = 1 << 16  # frames; the Vorbis encoder overflows its stack on huge writes
_AUDIBLE_CLIP = 1.001  # a hair more than full scale is rounding
_TRIAL_FRAMES = 4096  # enough for every encoder to begin


class AudioWriter:
    """A recording being written; a context manager. An exception inside leaves the old file.

    Args:
        path: the target; its suffix, one of `svc.audio.formats.OUTPUT_SUFFIXES`, chooses the format.
            Folders are created.
        sr: Hz.
        channels: C, at most 64.
        bit_depth: one of `svc.audio.formats.BIT_DEPTHS`; None = 16, or as the codec does.
        subtype: libsndfile's name instead, such as "PCM_U8" or "DOUBLE".
        tags: title and others of `svc.audio.tags`; those that the format cannot hold are left out.

    Raises:
        AudioError: the format is unknown or cannot have this rate, number of channels or bit depth.
        OutputError: the file cannot be written (from ``with`` on).
    """

    def __init__(
        self,
        path: str | Path,
        sr: int,
        channels: int = 1,
        *,
        bit_depth: str | None = None,
        subtype: str | None = None,
        tags: Tags | None = None,
    ) -> None:
        path = Path(path)
        if not 1 <= channels <= MOST_CHANNELS:
            raise ValueError(f"channels must be from 1 to {MOST_CHANNELS}, not {channels}")
        form = output_format(path)
        codec = _codec(form, path, bit_depth, subtype)
        self._plan = SinkPlan(path, form, codec, int(sr), channels, clean_tags(tags or {}))
        self._stack = ExitStack()
        self._sink: Sink | None = None
        self._rest: npt.NDArray[np.floating] = np.zeros((0, channels))  # less than a block
        self._clipped = self._written = 0
        if why := form.refused_rate(int(sr), codec):
            raise self._plan.failure(why)
        if not form.by_ffmpeg:  # libsndfile tells in a moment what it cannot write
            with SoundSink(io.BytesIO(), None, self._plan):
                pass

    def check(self) -> None:
        """Find out, without touching the target, whether the file can be written at all.

        Raises:
            AudioError: the encoder does not take this rate, number of channels or bit depth, or
                ffmpeg is needed and not there.
        """
        with tempfile.TemporaryDirectory(prefix="svc-") as folder:
            trial = Path(folder) / f"trial{self._plan.path.suffix}"
            with open_sink(trial, self._plan) as sink:
                sink.write(np.zeros((_TRIAL_FRAMES, self._plan.channels), dtype=np.float32))
                sink.finish()

    def __enter__(self) -> AudioWriter:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self._plan.path))
            self._sink = stack.enter_context(open_sink(temporary, self._plan))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        sink, self._sink = self._sink, None
        if error is not None or sink is None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:  # also removes the temporary file where the end cannot be written
            if len(self._rest):
                sink.write(self._rest)
            sink.finish()
        if self._clipped:
            text = "%s: %d samples beyond full scale were clipped"
            # The name alone: its folder may be one where the file waits until it is whole.
            logger.warning(text, self._plan.path.name, self._clipped)

    def write(self, wav: npt.NDArray[np.floating]) -> None:
        """Add samples.

        Args:
            wav: ``(T,)`` where there is one channel, or ``(C, T)``; beyond [-1, 1] they are clipped
                (with one warning at the end) except in float formats.

        Raises:
            AudioError: samples that are not finite, or more than the format can hold.
            OSError: the disk is full; an OutputError outside of the ``with``.
        """
        plan = self._plan
        if self._sink is None:
            raise ValueError(f"{plan.path} is not open: use  with AudioWriter(...) as writer")
        frames = _frames(wav, plan.channels)
        if not np.isfinite(frames).all():
            raise AudioError(f"refused to write {plan.path}: some samples are NaN or infinite")
        self._written += len(frames)
        most = plan.format.most_bytes
        if most is not None and self._written * plan.channels * _BYTES.get(plan.codec, 1) > most:
            raise AudioError(
                f"cannot write {plan.path}: it gets longer than {plan.path.suffix} can be "
                f"({(most + (1 << 20)) >> 30} GB); choose .flac, .caf or .w64"
            )
        if plan.codec not in FLOAT_SUBTYPES:
            self._clipped += int(np.count_nonzero(np.abs(frames) > _AUDIBLE_CLIP))
        self._hand_on(self._sink, frames)

    def _hand_on(self, sink: Sink, frames: npt.NDArray[np.floating]) -> None:
        """Write whole blocks and keep the rest, so that the bytes do not depend on how the song comes
        in: codecs see where blocks end.
        """
        if len(self._rest):
            missing = _WRITE_BLOCK - len(self._rest)
            self._rest = np.concatenate((self._rest, frames[:missing]))
            frames = frames[missing:]
            if len(self._rest) < _WRITE_BLOCK:
                return
            sink.write(self._rest)
        n_whole = len(frames) // _WRITE_BLOCK * _WRITE_BLOCK
        for start in range(0, n_whole, _WRITE_BLOCK):
            sink.write(frames[start : start + _WRITE_BLOCK])
        self._rest = frames[n_whole:].copy()


def _codec(form: OutputFormat, path: Path, bit_depth: str | None, subtype: str | None) -> str:
    if subtype is None:
        return form.codec(path, bit_depth)
    if bit_depth is not None or form.by_ffmpeg:
        raise ValueError("subtype is for the formats of libsndfile, and goes without bit_depth")
    subtype = subtype.upper()
    if not soundfile.check_format(form.container, subtype):
        known = " ".join(sorted(soundfile.available_subtypes(form.container)))
        raise AudioError(
            f'cannot write {path}: {form.container} has no "{subtype}"; use one of {known}'
        )
    return subtype


def _frames(wav: npt.NDArray[np.floating], channels: int) -> npt.NDArray[np.floating]:
    """Return samples as (T, C)."""
    data: npt.NDArray[np.floating] = np.asarray(wav)
    if not np.issubdtype(data.dtype, np.floating):
        raise ValueError(f"wav must hold floats in [-1, 1], not {data.dtype}")
    if data.ndim == 1 and channels == 1:
        return data[:, None]
    if data.ndim != 2 or data.shape[0] != channels:
        raise ValueError(f"wav must be (T,) or (C, T) with {channels} channels, not {data.shape}")
    frames: npt.NDArray[np.floating] = data.T
    return frames
