"""Edited pitch curves of songs: which file belongs to which song, read before any model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from svc.audio.pitch import F0Track
from svc.conversion.jobs import Job, Outcome
from svc.conversion.names import Source
from svc.errors import ConfigError, MissingFileError, SvcError
from svc.f0.curve import FrameGrid, find_curve, read_curve
from svc.f0.extract import frames_of_file

CURVE_NAME = "curve"
"""What stands for the F0 predictor in the names of results."""


def attach_curves(
    jobs: Sequence[Job], curves: Path, grid: FrameGrid
) -> tuple[list[Job], list[Outcome]]:
    """Give every job the pitch curve of its song.

    Args:
        jobs: what is to be done.
        curves: a curve, where all jobs are of one song, or a folder of curves named after the songs. That
            of a song in a sub-folder may be in the sub-folder of the same name; it has to be where songs
            of one name are in several.
        grid: the voice's.

    Returns:
        ``(jobs, failures)``: jobs with their curves, and the songs of a folder that have none or
        one that cannot be used.

    Raises:
        ConfigError: one curve for several songs.
        SvcError: that one curve cannot be used.
    """
    songs = dict.fromkeys(job.source for job in jobs)
    folder = curves.is_dir()
    if not folder and not curves.exists():
        raise MissingFileError(f"--f0 {curves} is not there; make it with  svc f0 extract")
    if not folder and len(songs) > 1:
        raise ConfigError(
            f"--f0 {curves} is one curve and there are {len(songs)} songs; give a folder with a "
            "curve for each, named after it"
        )
    tracks: dict[Path, tuple[F0Track, Path]] = {}  # of a song, and the curve's file
    failures: list[Outcome] = []
    places: dict[str, set[Path]] = {}  # sub-folders of the songs of a name
    for song in songs:
        places.setdefault(song.path.stem, set()).add(_place(song))
    for song in songs:
        try:
            path = curves
            if folder:
                path = _curve_of(song, curves, alone=len(places[song.path.stem]) == 1)
            tracks[song.path] = read_curve(path, grid, frames_of_file(song.path, grid)), path
        except (OSError, SvcError) as error:  # such as a name that is too long with its suffix
            if not folder:
                raise
            failures.append(Outcome(song.shown, error=str(error)))
    found = [
        replace(job, curve=tracks[job.source.path][0], curve_file=tracks[job.source.path][1])
        for job in jobs
        if job.source.path in tracks
    ]
    return found, failures


def _place(song: Source) -> Path:
    """Return the sub-folder of a song, as the user sees it."""
    return Path(song.shown).parent


def _curve_of(song: Source, curves: Path, *, alone: bool) -> Path:
    """Find the curve of a song in a folder of curves.

    Args:
        song: the song.
        curves: the folder.
        alone: no other sub-folder holds a song of this name, so that a curve beside the sub-folders can
            only be meant for this one.

    Raises:
        MissingFileError: there is none.
        CurveError: there are several.
    """
    place = _place(song)
    try:
        return find_curve(curves / place, song.path.name)
    except MissingFileError:
        if not alone or place == Path():
            raise
    return find_curve(curves, song.path.name)
