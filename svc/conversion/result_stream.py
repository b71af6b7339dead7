"""From what a voice sings, part by part, to the file of its result: rate, length, channels.

Nothing is kept in memory but a few blocks. A result with several channels is turned down as a whole
where one of them gets too loud, which is known at the end only: until then the samples wait on the
disk. A result with one channel goes straight into its file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svc.audio.io import AudioWriter
from svc.audio.resample import resampled_length
from svc.audio.resample_stream import ResampleStream
from svc.conversion.channels import Power, side_factor, side_of, with_side
from svc.conversion.chunks import FloatArray
from svc.conversion.file_source import FileSource, SongFacts
from svc.conversion.results import ResultOptions, gain_of
from svc.conversion.spool import Spool

_BLOCK = 1 << 16  # samples that are placed at once

Place = Callable[[FloatArray, int], FloatArray]
"""``place(rows (R, n), first sample) -> channels (C, n)``."""


@dataclass(frozen=True)
class Written:
    """What a result has become."""

    n_samples: int  # per channel
    n_channels: int
    sr: int  # Hz


def write_result(
    path: Path,
    parts: Iterable[FloatArray],
    voice_sr: int,
    sr: int,
    song: SongFacts,
    results: ResultOptions,
    *,
    n_converted: int,
) -> Written:
    """Write what a voice sings while it sings.

    Bit for bit what `svc.conversion.results.shape_result` makes of the whole song, whatever the parts
    are; but for ``mid-side``, whose factor of the side may differ in its last bit (float32), because
    its sums are added up in another order.

    Args:
        path: the result; its suffix is the format.
        parts: consecutive parts, float32 (n,) each, at `voice_sr`.
        voice_sr: Hz.
        sr: rate of the result, Hz.
        song: what was sung.
        results: how it is written.
        n_converted: samples of all parts together.

    Returns:
        How long it is.

    Raises:
        AudioError: the voice's samples are not finite, or the song has changed meanwhile.
        OutputError: the disk is full, or another fault of it. An old result is still there then.
    """
    source = song.source
    n_channels = results.channels_of(source.n_channels)
    n_wanted = resampled_length(n_converted, voice_sr, sr)
    if n_converted == resampled_length(song.survey.n_samples, source.sr, voice_sr):
        # There and back again is up to a sample longer than where it began.
        n_wanted = min(n_wanted, resampled_length(song.survey.n_samples, source.sr, sr))
    wav = _first(_at_rate(parts, voice_sr, sr), n_wanted)
    with AudioWriter(
        path, sr, n_channels, bit_depth=results.bit_depth, tags=results.tags_of(source.tags)
    ) as writer:
        if n_channels == 1:
            blocks = (block[None] for block in wav)
            return Written(_write(writer, blocks), n_channels, sr)
        with_sides = results.channels == "mid-side"
        with Spool(path, 2 if with_sides else 1, n_wanted) as spool:
            place, most = (_side if with_sides else _image)(wav, spool, song, sr)
            gain = gain_of(_peak(_placed(spool, place)), most)
            blocks = (block if gain is None else block * gain for block in _placed(spool, place))
            return Written(_write(writer, blocks), n_channels, sr)


def _image(
    wav: Iterable[FloatArray], spool: Spool, song: SongFacts, sr: int
) -> tuple[Place, float]:
    """Spool a song for ``keep``; return how it is placed, and its peak."""
    image, most = song.image, 0.0
    if image is None:
        raise ValueError("the song was not looked at for --channels keep")
    for block in wav:
        most = max(most, _peak([block]))
        spool.write(block[None])
    return lambda rows, start: image.apply(rows[0], sr, start=start), most


def _side(wav: Iterable[FloatArray], spool: Spool, song: SongFacts, sr: int) -> tuple[Place, float]:
    """Spool a song and the side of its source for ``mid-side``; return how they are placed, and the
    peak of the song.
    """
    new, most = Power(), 0.0
    with contextlib.closing(_side_blocks(song.source, sr)) as blocks:
        side = _Queue(blocks)
        for block in wav:
            new.feed(block)
            most = max(most, _peak([block]))
            spool.write(np.stack((block, side.take(block.size))))
        side.drain()  # to the end, or a file that has changed would not be noticed
    factor = side_factor(song.mid_rms, new.rms)
    return lambda rows, start: with_side(rows[0], rows[1], factor), most


def _side_blocks(source: FileSource, sr: int) -> Generator[FloatArray, None, None]:
    return _at_rate((side_of(block) for block in source.channel_blocks()), source.sr, sr)


class _Queue:
    """Samples that come in blocks and are taken in others; zeros when there are no more."""

    def __init__(self, blocks: Iterator[FloatArray]) -> None:
        self._blocks = blocks
        self._rest = np.zeros(0, dtype=np.float32)

    def take(self, n: int) -> FloatArray:
        parts, found = [self._rest], self._rest.size
        while found < n:
            block = next(self._blocks, None)
            if block is None:
                block = np.zeros(n - found, dtype=np.float32)
            parts.append(block)
            found += block.size
        whole = np.concatenate(parts)
        self._rest = whole[n:].copy()
        return whole[:n]

    def drain(self) -> None:
        for _ in self._blocks:
            pass


def _at_rate(
    parts: Iterable[FloatArray], orig_sr: int, new_sr: int
) -> Generator[FloatArray, None, None]:
    """Resample parts of a song; blocks of `_BLOCK` samples at most, none of them empty."""
    stream = ResampleStream(orig_sr, new_sr)
    for part in parts:
        for start in range(0, part.size, _BLOCK):
            yield from _blocks_of(stream.feed(part[start : start + _BLOCK]))
    yield from _blocks_of(stream.finish())


def _blocks_of(wav: FloatArray) -> Iterator[FloatArray]:
    for start in range(0, wav.size, _BLOCK):
        yield wav[start : start + _BLOCK]


def _first(blocks: Iterable[FloatArray], n: int) -> Iterator[FloatArray]:
    """Yield the first n samples."""
    for block in blocks:
        kept = block[:n]
        n -= kept.size
        if kept.size:
            yield kept


def _placed(spool: Spool, place: Place) -> Iterator[FloatArray]:
    start = 0
    for rows in spool.blocks():
        yield place(rows, start)
        start += rows.shape[1]


def _peak(blocks: Iterable[FloatArray]) -> float:
    return max((float(np.abs(block).max(initial=0.0)) for block in blocks), default=0.0)


def _write(writer: AudioWriter, blocks: Iterable[FloatArray]) -> int:
    n_samples = 0
    for block in blocks:
        writer.write(block)
        n_samples += block.shape[-1]
    return n_samples
