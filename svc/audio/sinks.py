"""Where encoded sound goes: libsndfile or ffmpeg, writing one file from beginning to end."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import soundfile

from svc.audio.channel_order import order_when_writing
from svc.audio.ffmpeg import Encoder
from svc.audio.formats import OutputFormat
from svc.audio.reader import reason_of
from svc.audio.steady import remove_chance
from svc.audio.tags import Tags, id3_tag, to_ffmpeg
from svc.errors import AudioError

if TYPE_CHECKING:
    from types import TracebackType

FLOAT_SUBTYPES = frozenset({"FLOAT", "DOUBLE"})
_BITS = {"PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
_SPOILT = frozenset({("AIFF", "software")})  # libsndfile puts other bytes behind it
_ALAC_BITS = {"s16p": 16, "s32p": 24}


@dataclass(frozen=True)
class SinkPlan:
    """What is to be written.

    Attributes:
        path: the file the user asked for, for messages.
        format: of its suffix.
        codec: libsndfile's name of the sample format, or ffmpeg's words for the codec.
        sr: Hz.
        channels: C.
        tags: clean ones.
    """

    path: Path
    format: OutputFormat
    codec: str
    sr: int
    channels: int
    tags: Tags

    def failure(self, why: str) -> AudioError:
        """Return the error for an encoder that refuses."""
        return AudioError(
            f"cannot write {self.path} as {self.format.container}/{self.codec.split()[0]} at "
            f"{self.sr} Hz with {self.channels} channels: {why}; write a .wav instead"
        )


class Sink(Protocol):
    """Takes samples of a file; a context manager that lets go of the file in any case."""

    def __enter__(self) -> Sink:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of the file, finished or not."""

    def write(self, frames: npt.NDArray[np.floating]) -> None:
        """Add frames (T, C). Raises AudioError, OSError."""

    def finish(self) -> None:
        """Complete the file. Raises AudioError, OSError."""


def open_sink(target: Path, plan: SinkPlan) -> Sink:
    """Start writing a file.

    Args:
        target: where, usually a temporary file.
        plan: what.

    Raises:
        AudioError: the encoder refuses.
        OSError: the file cannot be written.
    """
    if plan.format.by_ffmpeg:
        return FfmpegSink(target, plan)
    return SoundSink(target.open("w+b"), target, plan)


class SoundSink:
    """libsndfile, writing to an open file.

    Args:
        stream: the file.
        target: its path; None = it has none.
        plan: what is written.
    """

    def __init__(self, stream: IO[bytes], target: Path | None, plan: SinkPlan) -> None:
        self._target, self._plan = target, plan
        form = plan.format.container
        self._order = order_when_writing(form, plan.codec, plan.channels)
        mp3 = form == "MP3"
        # libsndfile would write them as Latin-1.
        self._disk = _Disk(stream, id3_tag(plan.tags) if mp3 else b"")
        try:
            self._sound = soundfile.SoundFile(
                self._disk, "w", plan.sr, plan.channels, subtype=plan.codec, format=form
            )
        except soundfile.LibsndfileError as error:
            self._disk.close()
            self._disk.complain()
            raise plan.failure(reason_of(error)) from error
        for name, text in plan.tags.items():
            if mp3 or (form, name) in _SPOILT:
                continue
            # Formats that have no place for a tag say so: it is left out.
            with contextlib.suppress(soundfile.LibsndfileError):
                setattr(self._sound, name, text)

    def __enter__(self) -> SoundSink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(soundfile.LibsndfileError):
            self._sound.close()
        self._disk.close()

    def write(self, frames: npt.NDArray[np.floating]) -> None:
        """Add frames (T, C), channels in the order of WAV."""
        if self._order is not None:
            frames = frames[:, self._order]
        try:
            self._sound.write(_quantise(frames, self._plan.codec))
        except (soundfile.LibsndfileError, AssertionError) as error:  # its own check of the count
            self._disk.complain()
            raise self._plan.failure(str(error)) from error
        self._disk.complain()

    def finish(self) -> None:
        """Complete the file."""
        try:
            self._sound.close()
        except soundfile.LibsndfileError as error:
            self._disk.complain()
            raise self._plan.failure(reason_of(error)) from error
        self._disk.close()
        self._disk.complain()
        if self._target is not None:
            remove_chance(self._target, self._plan.format.container)


class FfmpegSink:
    """ffmpeg, writing to a path of its own.

    Args:
        target: the path.
        plan: what is written.
    """

    def __init__(self, target: Path, plan: SinkPlan) -> None:
        words = ["-c:a", *plan.codec.split()]
        self._bits = next((bits for word, bits in _ALAC_BITS.items() if word in words), None)
        if self._bits is None:
            words += ["-b:a", f"{plan.format.kbits * plan.channels}k"]
        words += [*to_ffmpeg(plan.tags), "-f", plan.format.container]
        self._encoder = Encoder(target, plan.path, plan.sr, plan.channels, words)

    def __enter__(self) -> FfmpegSink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._encoder.close()

    def write(self, frames: npt.NDArray[np.floating]) -> None:
        """Add frames (T, C)."""
        if self._bits is None:
            self._encoder.write(np.clip(frames, -1.0, 1.0))
        else:  # rounded here, so that ffmpeg has nothing left to round
            self._encoder.write(_levels(frames, self._bits) / (1 << (self._bits - 1)))

    def finish(self) -> None:
        """Complete the file."""
        self._encoder.finish()


class _Disk:
    """An open file whose errors are kept: libsndfile would turn a full disk into a half-told codec
    error. What is written begins behind `head`.
    """

    def __init__(self, stream: IO[bytes], head: bytes = b"") -> None:
        self._stream, self._offset = stream, len(head)
        self._error: OSError | None = None
        self.write(head)

    def complain(self) -> None:
        """Raise the first OSError there was."""
        if self._error is not None:
            raise self._error

    def write(self, data: bytes) -> int:
        try:
            return self._stream.write(data)
        except OSError as error:
            self._error = self._error or error
            return 0

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        try:
            if whence == io.SEEK_SET:
                position += self._offset
            return self._stream.seek(position, whence) - self._offset
        except OSError as error:  # what is buffered is written first
            self._error = self._error or error
            return self.tell()

    def tell(self) -> int:
        return self._stream.tell() - self._offset

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._error = self._error or error

    def close(self) -> None:
        try:
            self._stream.close()
        except OSError as error:
            self._error = self._error or error


def _quantise(frames: npt.NDArray[np.floating], subtype: str) -> npt.NDArray[Any]:
    """Samples in the type libsndfile stores unchanged. (T, C) in, (T, C) out.

    libsndfile reads integers as v / 2^(bits-1) but writes x * (2^(bits-1) - 1), so its own
    conversion moves samples on every copy; rounding here by the reader's factor makes copies exact.
    """
    if subtype == "DOUBLE":
        return frames.astype(np.float64)
    if subtype == "FLOAT":
        return frames.astype(np.float32)
    bits = _BITS.get(subtype)
    if bits is None:
        return np.clip(frames.astype(np.float32), -1.0, 1.0)
    levels = _levels(frames, bits)
    # libsndfile takes 24 bits from the upper end of 32.
    return levels.astype(np.int16) if bits == 16 else levels.astype(np.int32) * (1 << (32 - bits))


def _levels(frames: npt.NDArray[np.floating], bits: int) -> npt.NDArray[np.float64]:
    """Whole numbers from -2^(bits-1) to 2^(bits-1) - 1."""
    full = 1 << (bits - 1)
    levels: npt.NDArray[np.float64] = np.rint(frames.astype(np.float64) * full)
    return np.clip(levels, -full, full - 1)
