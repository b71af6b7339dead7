"""A song in a file, read in blocks as often as it is gone through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from svc.audio.io import open_audio
from svc.conversion.channels import ChannelMeter, ChannelMode, LevelImage, LevelMeter, mix_down
from svc.conversion.chunks import FloatArray
from svc.conversion.survey import Survey, Surveyor
from svc.errors import AudioError

BLOCK_SECONDS = 10.0  # as `read_audio`: decoders of mp3 round by where blocks end, in the last bit


@dataclass(frozen=True)
class FileSource:
    """A `svc.conversion.sources.SongSource`.

    Attributes:
        path: the file.
        sr: its rate, Hz.
        n_channels: C.
        n_samples: T; None = not known yet.
        tags: title and others; empty where nobody has asked.
        stamp: size in bytes and time of the last change, ns, when it was looked at.
    """

    path: Path
    sr: int
    n_channels: int
    n_samples: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    stamp: tuple[int, int] | None = None

    @classmethod
    def of(cls, path: Path, *, tags: bool = False) -> FileSource:
        """Look at the head of a file.

        Args:
            path: an audio file.
            tags: read them, too.

        Raises:
            SvcError: as `svc.audio.io.open_audio`.
        """
        with open_audio(path) as song:
            found = song.tags() if tags else {}
            return cls(path, song.sr, song.channels, tags=found, stamp=_stamp(path))

    def blocks(self) -> Iterator[FloatArray]:
        """Yield the mean of its channels, float32 (n,) each.

        Raises:
            AudioError: the file is damaged, or not what it was when it was looked at.
            MissingFileError: it is gone.
        """
        return self._blocks(mono=True)

    def channel_blocks(self) -> Iterator[FloatArray]:
        """Yield its channels, float32 (C, n) each. Raises as `blocks`."""
        return self._blocks(mono=False)

    def check_unchanged(self) -> None:
        """Raise AudioError where the file is not what it was when it was looked at."""
        if self.stamp is not None and _stamp(self.path) != self.stamp:
            raise self._changed()

    def _blocks(self, *, mono: bool) -> Iterator[FloatArray]:
        with open_audio(self.path) as song:
            if (song.sr, song.channels) != (self.sr, self.n_channels):
                raise self._changed()
            done = 0
            for block in song.blocks(BLOCK_SECONDS, mono=mono):
                done += block.shape[-1]
                if self.n_samples is not None and done > self.n_samples:
                    raise self._changed()
                yield block
            if self.n_samples is not None and done < self.n_samples:
                raise self._changed()

    def _changed(self) -> AudioError:
        return AudioError(
            f"{self.path} has changed while it was being read; run the command again when nothing "
            "writes to it"
        )


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class SongFacts:
    """What is known of a song before it is sung.

    Attributes:
        source: where it is.
        survey: its length, and where it is silent.
        mid_rms: RMS of the mean of its channels.
        lost_in_mono: see `svc.conversion.channels.lost_in_mono`, dB.
        image: where the singer stands; None where nobody has asked, or there is one channel.
    """

    source: FileSource
    survey: Survey
    mid_rms: float
    lost_in_mono: float | None
    image: LevelImage | None = None

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.survey.n_samples / self.source.sr

    @classmethod
    def of(cls, source: FileSource, slice_db: float, mode: ChannelMode) -> SongFacts:
        """Go through a song once, with the memory of a block.

        Args:
            source: the song.
            slice_db: softer than this is silence, dBFS.
            mode: what is going to be made of its channels.

        Raises:
            SvcError: see `FileSource.blocks`.
        """
        surveyor = Surveyor(source.sr, slice_db)
        meter = ChannelMeter(source.n_channels)
        levels = None
        if mode == "keep" and source.n_channels > 1:
            levels = LevelMeter(source.n_channels, source.sr)
        for block in source.channel_blocks():
            mid = mix_down(block)
            surveyor.feed(mid)
            meter.feed(block, mid)
            if levels is not None:
                levels.feed(block)
        survey = surveyor.finish()
        return cls(
            replace(source, n_samples=survey.n_samples),
            survey,
            meter.mid.rms,
            meter.lost_in_mono,
            None if levels is None else levels.finish(),
        )
