"""Reading an audio file block by block, whatever its format: memory does not grow with its length.

libsndfile (soundfile) reads wav, flac, ogg, opus, mp3, aiff and more; what it does not know goes
through ffmpeg. Files are opened by Python, so names in any script and any characters work everywhere.
"""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import soundfile

from svc.audio.ffmpeg import Decoder, Probe, find_program, probe
from svc.audio.formats import SNDFILE_SUFFIXES
from svc.audio.tags import clean_tags, from_ffmpeg
from svc.errors import AudioError, MissingFileError

if TYPE_CHECKING:
    from types import TracebackType

FloatArray = npt.NDArray[np.float32]

LOWEST_SR, HIGHEST_SR = 2_000, 768_000  # Hz; what lies outside is a broken header, and no song
MOST_CHANNELS = 64

_STREAMED_SIZES = frozenset({0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF})
_TOLERATED_SHORTFALL_S = 0.05  # some writers count their header, or a decoder's delay, as sound
_TOLERATED_OF_FFMPEG_S = 0.5  # lengths in containers are rounded, and may count cut-off ends


class AudioReader:
    """An open recording; a context manager.

    Args:
        path: an audio file: 8 to 32 bits, float, any rate from 2 to 768 kHz, up to 64 channels.

    Attributes:
        path: the file.
        sr: Hz.
        channels: C.
        n_samples: per channel, as the header says; None where only decoding tells (ffmpeg).

    Raises:
        MissingFileError: there is no such file.
        AudioError: the file is empty, no audio, truncated, or needs an ffmpeg that is not there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.n_samples: int | None = None
        self._decoder: Decoder | None = None
        self._sound: soundfile.SoundFile | None = None
        self._probed: Probe | None = None
        self._begun = False
        with ExitStack() as stack:
            self._open(stack)
            self._check_facts()
            self._stack = stack.pop_all()

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Closing twice is fine."""
        self._stack.close()

    def blocks(self, block_seconds: float = 10.0, *, mono: bool = True) -> Iterator[FloatArray]:
        """Go through the recording once.

        Args:
            block_seconds: length of the blocks, above 0; the last one may be shorter.
            mono: average the channels; else keep them.

        Yields:
            float32 ``(T,)``, or ``(C, T)`` where `mono` is false, never empty. Integer formats span
            [-1, 1); float files and lossy decoders may overshoot and are given as they are.

        Raises:
            AudioError: damaged or truncated, holds NaN or infinite samples, or no samples at all.
            ValueError: it has been gone through before.
        """
        if not block_seconds > 0:
            raise ValueError(f"block_seconds must be above 0, not {block_seconds}")
        if self._begun:
            raise ValueError(f"{self.path} has been read; open it again")
        self._begun = True
        n_block = max(1, round(block_seconds * self.sr))
        done = 0
        while True:
            frames = self._next(n_block)
            if len(frames) == 0:
                break
            self._check_finite(frames, done)
            done += len(frames)
            yield _channels(frames, mono=mono)
        self._check_whole(done)

    def count(self) -> int:
        """Return the number of samples per channel; decodes the file where the header does not say."""
        if self.n_samples is not None:
            return self.n_samples
        return sum(block.shape[-1] for block in self.blocks(mono=False))

    def tags(self) -> dict[str, str]:
        """Return what the file says of itself: title, artist and others of `svc.audio.tags`."""
        if self._sound is not None:
            return clean_tags(self._sound.copy_metadata())
        return from_ffmpeg(self._probe().tags)

    # ---------------------------------------------------------------- opening

    def _open(self, stack: ExitStack) -> None:
        path = self.path
        if path.is_dir():
            raise AudioError(f"{path} is a folder; give an audio file")
        if path.exists() and not path.is_file():
            raise AudioError(f"{path} is no ordinary file; give an audio file on a disk")
        try:
            stream = stack.enter_context(path.open("rb"))
        except FileNotFoundError as error:
            raise MissingFileError(f"the audio file {path} is not there; check the path") from error
        except OSError as error:
            raise AudioError(f"cannot open {path}: {error.strerror}") from error
        n_bytes = stream.seek(0, io.SEEK_END)
        if n_bytes == 0:
            raise AudioError(f"{path} is empty (0 bytes); copy or export it again")
        missing = _missing_bytes(stream, n_bytes)
        stream.seek(0)
        try:
            sound = stack.enter_context(soundfile.SoundFile(stream))
        except soundfile.LibsndfileError as error:
            self._open_with_ffmpeg(stack, reason_of(error))
            return
        self._sound = sound
        self.sr, self.channels = int(sound.samplerate), int(sound.channels)
        self.n_samples = int(sound.frames)
        seconds = self.n_samples / max(self.sr, 1)
        if missing / max(n_bytes / max(seconds, 1e-9), 1.0) > _TOLERATED_SHORTFALL_S:
            raise AudioError(
                f"{path} is truncated: {missing} bytes that its header promises are not there; "
                "copy or export it again"
            )

    def _open_with_ffmpeg(self, stack: ExitStack, why: str) -> None:
        if self.path.suffix.lower() in SNDFILE_SUFFIXES and find_program("ffmpeg") is None:
            raise AudioError(
                f"{self.path} is no readable audio file ({why}); export it again as WAV or FLAC"
            )
        self._decoder = stack.enter_context(Decoder(self.path, why))
        self.sr, self.channels = self._decoder.sr, self._decoder.channels

    def _check_facts(self) -> None:
        """Refuse headers that cannot be true before anything is computed with them."""
        if self.n_samples == 0:
            raise self._no_samples()
        if not LOWEST_SR <= self.sr <= HIGHEST_SR:
            raise AudioError(
                f"{self.path} says it has {self.sr} samples per second, which is no rate of a "
                f"recording ({LOWEST_SR} to {HIGHEST_SR} Hz); export it again"
            )
        if not 1 <= self.channels <= MOST_CHANNELS:
            raise AudioError(
                f"{self.path} says it has {self.channels} channels; up to {MOST_CHANNELS} are read: "
                "export it with fewer"
            )

    # ---------------------------------------------------------------- reading

    def _next(self, n_frames: int) -> FloatArray:
        if self._decoder is not None:
            return self._decoder.read(n_frames)
        if self._sound is None:
            raise ValueError(f"{self.path} is closed")
        try:
            frames: FloatArray = self._sound.read(n_frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise AudioError(
                f"{self.path} is damaged: {reason_of(error)}; copy or export it again"
            ) from error
        return frames

    def _check_finite(self, frames: FloatArray, before: int) -> None:
        finite = np.isfinite(frames)
        if not finite.all():
            n_bad = int(finite.size - np.count_nonzero(finite))
            first = before + int(np.argmin(finite.all(axis=1)))
            raise AudioError(
                f"{self.path} holds {n_bad} samples that are NaN or infinite, the first at "
                f"{first / self.sr:.3f} s; export it again"
            )

    def _check_whole(self, done: int) -> None:
        if done == 0:
            raise self._no_samples()
        if self._decoder is not None:
            self._decoder.warn()
            expected, tolerated = self._probe().seconds, _TOLERATED_OF_FFMPEG_S
        else:
            expected, tolerated = (self.n_samples or 0) / self.sr, _TOLERATED_SHORTFALL_S
        found = done / self.sr
        if expected is not None and expected - found > tolerated:
            raise AudioError(
                f"{self.path} is truncated: {found:.2f} s of {expected:.2f} s can be read; "
                "copy or export it again"
            )

    def _probe(self) -> Probe:
        if self._probed is None:
            self._probed = probe(self.path)
        return self._probed

    def _no_samples(self) -> AudioError:
        return AudioError(f"{self.path} holds no samples; remove it or export it again")


def open_audio(path: str | Path) -> AudioReader:
    """Open a recording to read it in blocks; see `AudioReader`."""
    return AudioReader(path)


def read_blocks(
    path: str | Path, block_seconds: float = 10.0, *, mono: bool = True
) -> Iterator[FloatArray]:
    """Go through a recording of any length with the memory of one block.

    ``open_audio`` does the same for those who need the rate as well, or several looks at the header.

    Args:
        path: an audio file.
        block_seconds: length of the blocks, above 0; the last one may be shorter.
        mono: average the channels; else keep them.

    Yields:
        float32 ``(T,)``, or ``(C, T)`` where `mono` is false, at the file's own rate.

    Raises:
        MissingFileError: there is no such file.
        AudioError: as `AudioReader` and its `blocks`.
    """
    with contextlib.closing(open_audio(path)) as reader:
        yield from reader.blocks(block_seconds, mono=mono)


def reason_of(error: soundfile.LibsndfileError) -> str:
    """What libsndfile says, without a final stop."""
    return str(error.error_string).strip().rstrip(".")


def _channels(frames: FloatArray, *, mono: bool) -> FloatArray:
    if not mono:
        return np.ascontiguousarray(frames.T)
    if frames.shape[1] == 1:
        return np.ascontiguousarray(frames[:, 0])
    mixed: FloatArray = frames.mean(axis=1, dtype=np.float32)
    return mixed


def _missing_bytes(stream: io.BufferedReader, n_bytes: int) -> int:
    """Bytes of sound that a WAV or AIFF header promises beyond the end of the file; else 0.

    libsndfile reads such files without a word. Sizes that streaming writers leave as place-holders
    do not count.
    """
    stream.seek(0)
    head = stream.read(12)
    if len(head) == 12 and (head[:4], head[8:]) == (b"RIFF", b"WAVE"):
        layout, sound_chunk = "<4sI", b"data"
    elif len(head) == 12 and head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        layout, sound_chunk = ">4sI", b"SSND"
    else:
        return 0
    position = 12
    while position + 8 <= n_bytes:
        stream.seek(position)
        name, size = struct.unpack(layout, stream.read(8))
        position += 8
        if name == sound_chunk:
            return 0 if size in _STREAMED_SIZES else max(0, position + size - n_bytes)
        position += size + (size & 1)
    return 0
