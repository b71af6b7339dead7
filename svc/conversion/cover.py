"""A cover: stems in, each sung or kept, and out comes their mix.

Every stem keeps its place to the sample: conversion and change of rate delay nothing, a result is as
long as its stem at the rate of the mix, and all stems start together. What is sung becomes as loud as
what it replaces (ITU-R BS.1770-4, gated). The stems that are written add up to the mix, but for
``lufs`` and the limiter, which work on the sum.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from svc.audio.formats import output_format
from svc.audio.io import AudioWriter, open_audio, read_audio, read_tags
from svc.audio.limiter import limit_true_peak
from svc.audio.mixdown import (
    Mixdown,
    balance,
    db_to_factor,
    fit_length,
    gated_loudness,
    in_channels,
    matching_gain_db,
)
from svc.audio.resample import resample, resampled_length
from svc.conversion.channels import lost_in_mono, mix_down
from svc.conversion.chunks import FloatArray
from svc.conversion.converter import Converter
from svc.conversion.cover_key import share_key
from svc.conversion.cover_plan import Stem
from svc.conversion.files import check_writable
from svc.conversion.manifest import RunFacts
from svc.conversion.placing import Together, check_place, outdated_stems
from svc.conversion.results import ResultOptions, shape_result
from svc.conversion.sources import ArraySource
from svc.errors import AudioError, ConfigError
from svc.progress import Progress, silent

logger = logging.getLogger(__name__)

LOWEST_LUFS, HIGHEST_LUFS = -60.0, 0.0
_MOST_MATCH_DB = (
    24.0  # a voice that is softer by more has failed, and noise is what would be raised
)


@dataclass(frozen=True)
class CoverOptions:
    """How a cover is written.

    Raises:
        ConfigError: a value is out of its range.
    """

    output: Path
    stems_folder: Path | None = None  # of the single stems; None = they are not written
    results: ResultOptions = field(default_factory=lambda: ResultOptions(channels="keep"))
    lufs: float | None = None  # integrated loudness of the mix; None = as the stems add up (--lufs)
    song: Path | None = None  # that was taken apart into the stems, which are not kept

    def __post_init__(self) -> None:
        if self.results.rate == "source":
            raise ConfigError("--rate source: stems may differ in it; give a number of Hz")
        if self.lufs is not None and not LOWEST_LUFS <= self.lufs <= HIGHEST_LUFS:
            raise ConfigError(
                f"--lufs is {self.lufs:g}: give a number from {LOWEST_LUFS:g} to {HIGHEST_LUFS:g}"
            )

    def stem_path(self, stem: Stem) -> Path | None:
        """Return where a single stem is written."""
        if self.stems_folder is None:
            return None
        return self.stems_folder / f"{stem.name}{self.output.suffix}"


@dataclass(frozen=True)
class Layout:
    """What all stems are brought to."""

    rate: int  # Hz
    n_channels: int


@dataclass(frozen=True)
class Part:
    """What became of a stem.

    Attributes:
        stem: as it was sung.
        output: its file; None = it was not written.
        seconds: of audio.
        matched_db: by how much the voice was turned up or down to be as loud as what it replaces.
    """

    stem: Stem
    output: Path | None
    seconds: float
    matched_db: float


@dataclass(frozen=True)
class Cover:
    """A finished cover.

    Attributes:
        output: its file.
        parts: its stems.
        layout: its rate and channels.
        seconds: its length.
        gain_db: applied to the sum for `CoverOptions.lufs`.
        limited_db: by how much the loudest place was turned down, 0 = the limiter had nothing to do.
        limited_seconds: for how long it was.
        loudness: LUFS of the result; minus infinity = silence.
        wall_seconds: time it took.
        manifest: beside the result.
    """

    output: Path
    parts: Sequence[Part]
    layout: Layout
    seconds: float
    gain_db: float
    limited_db: float
    limited_seconds: float
    loudness: float
    wall_seconds: float
    manifest: Path | None = None


def plan_layout(stems: Sequence[Stem], options: CoverOptions) -> Layout:
    """Look at the headers of all stems, and make sure that the cover can be written.

    Args:
        stems: see `svc.conversion.cover_plan.make_stems`.
        options: how it is written.

    Returns:
        The rate of the instrumental unless another is asked for, without one the highest of all
        stems; two channels where a stem has them or is not in the middle.

    Raises:
        ConfigError: a result would be written over a stem.
        SvcError: a stem is not there or no audio, has more than two channels, or the format of the
            output cannot have what is asked for.
    """
    rates: list[int] = []
    kept_rates: list[int] = []
    n_channels = 1
    for stem in stems:
        with open_audio(stem.path) as sound:
            sr, channels = sound.sr, sound.channels
        if channels > 2:
            raise AudioError(f"{stem.path} has {channels} channels; export it as mono or stereo")
        if not stem.sung or options.results.channels != "mono":
            n_channels = max(n_channels, channels)
        if stem.pan:
            n_channels = 2
        rates.append(sr)
        if stem.role == "keep":
            kept_rates.append(sr)
    _spare_the_stems(stems, options)
    rate = options.results.rate
    if not isinstance(rate, int):
        form = output_format(options.output)
        rate = form.natural_rate(max(kept_rates or rates), options.results.bit_depth)
    AudioWriter(options.output, rate, n_channels, bit_depth=options.results.bit_depth).check()
    return Layout(rate, n_channels)


def make_cover(
    converter: Converter,
    stems: Sequence[Stem],
    options: CoverOptions,
    *,
    run: RunFacts | None = None,
    progress: Progress | None = None,
    on_key: Callable[[str], None] | None = None,
) -> Cover:
    """Sing the stems, mix and write them.

    Memory: the mix twice, and one stem at a time.

    Args:
        converter: the voice.
        stems: see `svc.conversion.cover_plan.make_stems`.
        options: how it is written.
        run: facts for the manifest; None = write none.
        progress: called as ``(percent done, 100 * stems, name)``.
        on_key: called with a line about the transposition, where one was chosen.

    Raises:
        SvcError: a stem cannot be read or sung, or a result not written; which one is said. What an
            earlier cover has left stays.
    """
    started = time.perf_counter()
    layout = plan_layout(stems, options)
    for stem in stems:
        if stem.sung:
            try:
                converter.check_options(stem.options, stem.speaker)
            except ConfigError as error:
                raise ConfigError(f"{stem.path}: {error}") from error
    for folder in {options.output.parent, options.stems_folder or options.output.parent}:
        check_writable(folder)
    for result in (options.output, *map(options.stem_path, stems)):
        if result is not None:
            check_place(result)
    tags = {} if options.song is None else read_tags(options.song)  # while it is there
    stems = share_key(converter, stems, on_key)
    with Together() as results:
        cover = _sing(converter, stems, options, layout, results, tags, progress or silent)
        outdated = _outdated(stems, cover, options)
        results.place_all()
        for path in outdated:
            with contextlib.suppress(OSError):
                path.unlink()
    cover = replace(cover, wall_seconds=time.perf_counter() - started)
    return cover if run is None else replace(cover, manifest=_write_manifest(run, cover, options))


def _sing(
    converter: Converter,
    stems: Sequence[Stem],
    options: CoverOptions,
    layout: Layout,
    results: Together,
    tags: Mapping[str, str],
    report: Progress,
) -> Cover:
    """Write the stems and their mix, which are not in their places yet."""
    mix = Mixdown(layout.n_channels)
    parts: list[Part] = []
    for index, stem in enumerate(stems):

        def share(
            done: int, total: int, what: str, first: int = 100 * index, name: str = stem.path.name
        ) -> None:
            del what
            report(first + 100 * done // max(total, 1), 100 * len(stems), name)

        wav, matched_db = _render(converter, stem, layout, options, share)
        target = options.stem_path(stem)
        if target is not None:
            with results.writing(target) as staged:
                options.results.write(staged, wav, layout.rate, {})
        mix.add(wav)
        parts.append(Part(stem, target, wav.shape[1] / layout.rate, matched_db))
        share(1, 1, "")
    wav, gain_db = mix.wav, 0.0
    del mix
    if options.lufs is not None:
        loudness = gated_loudness(wav, layout.rate)
        gain_db = options.lufs - loudness if np.isfinite(loudness) else 0.0
        wav *= np.float32(db_to_factor(gain_db))
    limited = limit_true_peak(wav, layout.rate)
    with results.writing(options.output) as staged:
        options.results.write(staged, limited.wav, layout.rate, tags)
    return Cover(
        options.output,
        parts,
        layout,
        limited.wav.shape[1] / layout.rate,
        gain_db,
        limited.reduction_db,
        limited.seconds,
        gated_loudness(limited.wav, layout.rate),
        0.0,
    )


def _outdated(stems: Sequence[Stem], cover: Cover, options: CoverOptions) -> list[Path]:
    """List stems of the cover that is replaced which this one does not have, and does not sing."""
    if options.stems_folder is None:
        return []
    kept = {part.output.name.casefold() for part in cover.parts if part.output is not None}
    inputs = {stem.path.resolve() for stem in stems}
    return [
        path
        for path in outdated_stems(options.output, options.stems_folder)
        if path.name.casefold() not in kept and path.resolve() not in inputs
    ]


def _render(
    converter: Converter, stem: Stem, layout: Layout, options: CoverOptions, progress: Progress
) -> tuple[FloatArray, float]:
    """Return a stem as it goes into the mix, (C, T) at its rate, and how much the voice was turned up."""
    channels, sr = read_audio(stem.path, mono=False)
    channels = channels[None] if channels.ndim == 1 else channels
    rate, n_channels = layout.rate, layout.n_channels
    gain_db = matched_db = 0.0
    if stem.sung:
        song = mix_down(channels)
        lost = lost_in_mono(channels)
        if lost is not None:
            text = "%s: its channels cancel each other, the voice hears %.0f dB"
            logger.warning(text, stem.path, lost)
        key = converter.fit_key(ArraySource(song, sr), stem.speaker, stem.options)
        if key.warning:
            logger.warning("%s: %s", stem.path, key.warning)
        converted = converter.convert(song, sr, stem.speaker, stem.options, progress=progress)
        made = shape_result(
            converted, converter.sampling_rate, rate, channels, sr, options.results.channels
        )
        del converted
        n_samples = resampled_length(channels.shape[1], sr, rate)
        wav = in_channels(fit_length(made, n_samples), n_channels)
        old = channels if len(channels) <= n_channels else song[None]
        wanted = in_channels(resample(old, sr, rate), n_channels)
        matched_db = matching_gain_db(wav, wanted, rate)
        if abs(matched_db) > _MOST_MATCH_DB:
            logger.warning(
                "%s: the voice is %.0f dB %s than what it replaces; only %.0f dB of that are made up for",
                stem.path,
                abs(matched_db),
                "softer" if matched_db > 0 else "louder",
                _MOST_MATCH_DB,
            )
            matched_db = float(np.clip(matched_db, -_MOST_MATCH_DB, _MOST_MATCH_DB))
        gain_db = matched_db
    else:
        wav = in_channels(resample(channels, sr, rate), n_channels)
    gain_db += stem.gain_db
    if gain_db:
        wav *= np.float32(db_to_factor(gain_db))
    if stem.pan:
        wav *= np.array(balance(stem.pan), dtype=np.float32)[:, None]
    return wav, matched_db


def _spare_the_stems(stems: Sequence[Stem], options: CoverOptions) -> None:
    """Raise ConfigError where a result would be written over a stem, or over another result."""
    sources = {stem.path.resolve() for stem in stems}
    if options.song is not None:
        sources.add(options.song.resolve())
    for result in (options.output, *map(options.stem_path, stems)):
        if result is not None and result.resolve() in sources:
            raise ConfigError(
                f"the result {result} is one of the inputs; choose another place with --output or --stems"
            )
    if options.output.resolve() in {
        path.resolve() for path in map(options.stem_path, stems) if path is not None
    }:
        raise ConfigError(f"--stems: {options.output} is the mix itself; choose another folder")


def _write_manifest(run: RunFacts, cover: Cover, options: CoverOptions) -> Path:
    facts = {
        "cover": {
            "stems": [
                {
                    "name": part.stem.name,
                    "source": part.stem.path if options.song is None else part.stem.path.name,
                    "output": part.output,
                    "role": part.stem.role,
                    "speaker": part.stem.speaker or None,
                    "options": part.stem.options if part.stem.sung else None,
                    "matched_db": part.matched_db,
                    "gain_db": part.stem.gain_db,
                    "pan": part.stem.pan,
                    "seconds": part.seconds,
                }
                for part in cover.parts
            ],
            "lufs": options.lufs,
            "mix_gain_db": cover.gain_db,
            "limited_db": cover.limited_db,
            "limited_seconds": cover.limited_seconds,
            "loudness_lufs": cover.loudness if np.isfinite(cover.loudness) else None,
        },
        "output": options.results,
        "result": {
            "seconds": cover.seconds,
            "sampling_rate": cover.layout.rate,
            "channels": cover.layout.n_channels,
        },
        "timings": {"total": cover.wall_seconds},
    }
    sources = [part.stem.path for part in cover.parts] if options.song is None else [options.song]
    return run.write(cover.output, facts, {"source": sources})
