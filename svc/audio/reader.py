"""Reading an audio file block by block, whatever its format: memory does not grow with its length.

libsndfile (soundfile) reads wav, flac, ogg, opus, mp3, aiff and more; what it does not know goes
through ffmpeg. Files are opened by Python, so names in any script and any characters work everywhere.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import soundfile

from svc.audio import flac_length, mpeg, shortfall
from svc.audio.channel_order import order_when_reading
from svc.audio.ffmpeg import Decoder, Probe, find_program, probe
from svc.audio.formats import SNDFILE_SUFFIXES
from svc.audio.tags import clean_tags, from_ffmpeg
from svc.audio.view import FileView
from svc.errors import AudioError, MissingFileError

if TYPE_CHECKING:
    from types import TracebackType

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]

LOWEST_SR, HIGHEST_SR = 2_000, 768_000  # Hz; what lies outside is a broken header, and no song
MOST_CHANNELS = 64

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
        n_samples: per channel, as the header says; None where only decoding tells (ffmpeg, MPEG layer
            I and II).

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
        self._order: tuple[int, ...] | None = None  # of channels, where the file has another
        self._may_be_cut = False
        self._left = 0  # frames that libsndfile has still to give
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
            float32 ``(T,)``, or ``(C, T)`` where `mono` is false, never empty; channels in the order
            of WAV. Integer formats span [-1, 1); float files and lossy decoders may overshoot and
            are given as they are.

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
        missing = shortfall.shortfall(stream, n_bytes)
        finders = (mpeg.length_edit, flac_length.length_edit, shortfall.length_edit)
        edit = next((edit for find in finders if (edit := find(stream, n_bytes))), None)
        try:
            sound = stack.enter_context(soundfile.SoundFile(FileView(stream, edit)))
        except soundfile.LibsndfileError as error:
            self._open_with_ffmpeg(stack, reason_of(error))
            return
        # soundfile seeks to where it is after each read, and a decoder that is sent about lacks what
        # earlier frames of an MP3 had left for later ones: wrong samples for a while after each block.
        sound.seekable = lambda: False
        self._sound, self._left = sound, int(sound.frames)
        self.sr, self.channels = int(sound.samplerate), int(sound.channels)
        guessed = sound.subtype in ("MPEG_LAYER_I", "MPEG_LAYER_II")  # from the first frames' sizes
        self.n_samples = None if guessed else int(sound.frames)
        self._order = order_when_reading(sound.format, sound.subtype, self.channels, stream)
        seconds = int(sound.frames) / max(self.sr, 1)
        missing_s = missing.n_bytes / max(n_bytes / max(seconds, 1e-9), 1.0)
        if missing_s > _TOLERATED_SHORTFALL_S or missing.is_sure:
            raise AudioError(
                f"{path} is truncated: {missing.n_bytes} bytes that its header promises are not "
                "there; copy or export it again"
            )
        self._may_be_cut = missing.is_open

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
        n_frames = min(n_frames, self._left)  # what follows the sound is for no decoder
        try:
            frames: FloatArray = self._sound.read(n_frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise AudioError(
                f"{self.path} is damaged: {reason_of(error)}; copy or export it again"
            ) from error
        self._left -= len(frames)
        return frames if self._order is None else frames[:, self._order]

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
        if self._may_be_cut:
            text = "%s does not say that it ends where it does, at %.2f s: it may have been cut off"
            logger.warning(text, self.path, found)
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
