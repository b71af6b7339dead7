"""ffmpeg and ffprobe where they are on PATH: files that libsndfile does not know, in and out.

Sound goes through pipes as 32-bit floats, so an hour of it needs no temporary file and no memory.
Programs are called with lists of arguments, never a shell. Names that begin with a dash or look like an
address stay names ("file:"), and neither play lists nor files that refer to others are opened: only
the protocol of files and a list of containers is allowed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from svc.errors import AudioError

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]

# Names of ffmpeg's demuxers. Absent on purpose: hls, dash, concat, image2, lavfi, sdp and others that open
# further files, addresses or devices.
_DEMUXERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,matroska,mov,mp3,"
    "mpc,mpc8,mpeg,mpegts,ogg,rm,shn,tak,truehd,tta,voc,w64,wav,webm,wv"
)
# Those of them that store how long the sound is. Of the others, which are bare frames or streams, ffprobe
# guesses the length from the bit rate of the beginning: wrong by far where that varies.
_TIMED = frozenset({
    "ape", "asf", "au", "aiff", "caf", "dsf", "flac", "mov", "mpc", "mpc8", "ogg", "tak", "tta", "w64",
    "wav", "wv",
})  # fmt: skip
_TIMED_AS_A_WHOLE = frozenset({"flv", "matroska", "webm"})  # one length for all of their streams
_GUESSED = b"Estimating duration from bitrate"
_ENTRIES = "stream=duration:stream_tags:format=format_name,nb_streams,duration:format_tags"
_INPUT = ("-protocol_whitelist", "file", "-format_whitelist", _DEMUXERS)
_LONGEST_HEADER = 1 << 16  # bytes before the samples of a piped WAV; ffmpeg's has some hundred
_PROBE_SECONDS = 60.0


@dataclass(frozen=True)
class Probe:
    """What a file says of its first stream of sound.

    Attributes:
        seconds: its length; None = the container does not store it.
        tags: as they stand in the file, those of the container before those of the stream.
    """

    seconds: float | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


def find_program(name: str) -> str | None:
    """Return the path of "ffmpeg" or "ffprobe", None where it is not on PATH."""
    return shutil.which(name)


def probe(path: Path) -> Probe:
    """Look at a file with ffprobe; nothing is known where that is not on PATH or fails."""
    program = find_program("ffprobe")
    if program is None:
        return Probe()
    command = [program, "-v", "warning", *_INPUT, "-select_streams", "a:0"]
    command += ["-show_entries", _ENTRIES]
    command += ["-of", "json", _as_name(path)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            check=True,
            stdin=subprocess.DEVNULL,
            timeout=_PROBE_SECONDS,
        )
        said = json.loads(done.stdout.decode("utf-8", "replace"))
        streams, container = said.get("streams") or [{}], said.get("format") or {}
        seconds = _stored_seconds(streams[0].get("duration"), container)
        if _GUESSED in done.stderr:  # a container that could have stored it, written to a pipe
            seconds = None
        tags = {**streams[0].get("tags", {}), **container.get("tags", {})}
        return Probe(
            None if seconds is None else float(seconds), {str(k): str(v) for k, v in tags.items()}
        )
    except (OSError, subprocess.SubprocessError, ValueError, AttributeError, TypeError) as error:
        logger.debug("ffprobe says nothing of %s: %s", path, error)
        return Probe()


def _stored_seconds(of_stream: str | None, container: Mapping[str, object]) -> float | None:
    """Return how long a file says its sound is, s; None where ffprobe could only guess.

    Args:
        of_stream: what ffprobe says of the stream of sound.
        container: what it says of the file.
    """
    names = set(str(container.get("format_name", "")).split(","))  # "mov,mp4,m4a,..." is one
    if names & _TIMED:
        return None if of_stream is None else float(of_stream)
    # A film may be longer than its sound. Guesses are given for each stream, too; what is stored is not.
    alone = container.get("nb_streams") == 1 and of_stream is None
    of_file = container.get("duration")
    return float(str(of_file)) if names & _TIMED_AS_A_WHOLE and alone and of_file else None


class Decoder:
    """The first stream of sound of a file, decoded by ffmpeg while it is read; a context manager.

    Args:
        path: an existing file.
        why: why libsndfile did not take it, for the message.

    Attributes:
        sr: Hz.
        channels: C.

    Raises:
        AudioError: ffmpeg is not there, or finds no sound.
    """

    def __init__(self, path: Path, why: str) -> None:
        program = find_program("ffmpeg")
        if program is None:
            raise AudioError(
                f"{path} cannot be read without ffmpeg, which is not on PATH; install ffmpeg, or "
                "convert the file to WAV or FLAC"
            )
        self._path, self._why = path, why
        command = [program, "-nostdin", "-v", "error", *_INPUT, "-i", _as_name(path)]
        command += ["-map", "0:a:0", "-map_metadata", "-1", "-c:a", "pcm_f32le"]
        command += ["-bitexact", "-f", "wav", "pipe:1"]
        self._process, self._words = _start(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        try:
            self.sr, self.channels = self._read_header()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, n_frames: int) -> FloatArray:
        """Return the next frames, float32 (T, C); fewer than asked for at the end only.

        Raises:
            AudioError: ffmpeg gives up.
        """
        size = 4 * self.channels
        raw = self._pipe.read(n_frames * size)
        if len(raw) < n_frames * size and self._process.wait() != 0:
            raise self._unreadable()
        n_whole = len(raw) // size
        samples = np.frombuffer(raw, dtype="<f4", count=n_whole * self.channels)
        return samples.reshape(n_whole, self.channels).astype(np.float32)

    def warn(self) -> None:
        """Tell what ffmpeg had to say of a file that it has read to the end."""
        lines = _lines(self._words)
        if lines:
            logger.warning("%s: ffmpeg reports: %s", self._path, lines[-1])

    def close(self) -> None:
        """End ffmpeg, which may be in the middle of the file."""
        _end(self._process)
        self._words.close()

    @property
    def _pipe(self) -> IO[bytes]:
        if self._process.stdout is None:
            raise ValueError("the decoder was started without a pipe")
        return self._process.stdout

    def _read_header(self) -> tuple[int, int]:
        """Read a WAV header up to the samples: what ffmpeg really decodes, where the container may
        say something else (an AAC stream of half the rate, for one).
        """
        head = self._pipe.read(12)
        if len(head) < 12 or head[:4] not in (b"RIFF", b"RF64"):
            raise self._unreadable()
        found, passed = (0, 0), 0
        while passed < _LONGEST_HEADER:
            chunk = self._pipe.read(8)
            if len(chunk) < 8:
                raise self._unreadable()
            name, size = struct.unpack("<4sI", chunk)
            if name == b"data":
                if min(found) < 1:
                    raise self._unreadable()
                return found
            size += size & 1
            body = self._pipe.read(min(size, _LONGEST_HEADER))
            passed += 8 + size
            if name == b"fmt " and len(body) >= 16:
                channels, sr = struct.unpack("<HI", body[2:8])
                found = sr, channels
        raise self._unreadable()

    def _unreadable(self) -> AudioError:
        self._process.kill()
        code = self._process.wait()
        lines = _lines(self._words)
        detail = lines[-1] if lines else f"exit code {code}"
        return AudioError(
            f"{self._path} is no readable audio file (libsndfile: {self._why}; ffmpeg: {detail}); "
            "export it again as WAV or FLAC"
        )


class Encoder:
    """A file that ffmpeg writes while samples come in; a context manager.

    Args:
        target: the file, overwritten.
        shown: its name for messages.
        sr: Hz.
        channels: C.
        words: arguments that choose codec and container.

    Raises:
        AudioError: ffmpeg is not there.
    """

    def __init__(
        self, target: Path, shown: Path, sr: int, channels: int, words: Sequence[str]
    ) -> None:
        program = find_program("ffmpeg")
        if program is None:
            raise AudioError(
                f"cannot write {shown} without ffmpeg, which is not on PATH; install ffmpeg, or "
                "choose .wav, .flac, .ogg or .mp3"
            )
        self._shown = shown
        command = [program, "-nostdin", "-y", "-v", "error", "-protocol_whitelist", "pipe"]
        command += ["-f", "f32le", "-ar", str(sr), "-ac", str(channels), "-i", "pipe:0"]
        # The exact way leaves the time and ffmpeg's version out of the file.
        command += ["-map_metadata", "-1", "-fflags", "+bitexact", "-flags:a", "+bitexact"]
        command += [*words, _as_name(target)]
        self._process, self._words = _start(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )

    def __enter__(self) -> Encoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End ffmpeg, whether the file is complete or not."""
        _end(self._process)
        self._words.close()

    def write(self, frames: npt.NDArray[np.floating]) -> None:
        """Add frames (T, C) in [-1, 1].

        Raises:
            AudioError: ffmpeg gives up.
            OSError: the disk is full.
        """
        if self._process.stdin is None:
            raise ValueError("the encoder was started without a pipe")
        try:
            self._process.stdin.write(np.ascontiguousarray(frames, dtype="<f4").data)
        except BrokenPipeError:
            self.finish()

    def finish(self) -> None:
        """Let ffmpeg write what is left; errors as of `write`."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        if self._process.wait() == 0:
            return
        lines = _lines(self._words)
        for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            if any(os.strerror(number) in line for line in lines):
                raise OSError(number, os.strerror(number))
        detail = lines[-1] if lines else f"exit code {self._process.returncode}"
        raise AudioError(f"cannot write {self._shown}: ffmpeg: {detail}; write a .wav instead")


def _as_name(path: Path) -> str:
    return f"file:{path.resolve()}"


def _start(
    command: Sequence[str], *, stdin: int, stdout: int
) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """Start a program; what it says on stderr goes to a file: a pipe nobody reads could fill up."""
    words = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
    try:
        return subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=words), words
    except OSError as error:
        words.close()
        raise AudioError(
            f"cannot run {command[0]}: {error.strerror or error}; install ffmpeg again"
        ) from error


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave no process and no open pipe behind."""
    if process.poll() is None:
        process.kill()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    process.wait()


def _lines(words: IO[bytes]) -> list[str]:
    """What a program has said on stderr; of very much only the end."""
    end = words.seek(0, os.SEEK_END)
    words.seek(max(0, end - 10_000))
    return words.read().decode("utf-8", "replace").strip().splitlines()
