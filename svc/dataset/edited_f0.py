"""An edited pitch curve for a clip of a data set (`svc f0 apply`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from svc.audio.pitch import F0Track
from svc.config import SvcConfig
from svc.dataset.clips import read_clip
from svc.dataset.features import FeatureCache, FeaturePaths
from svc.dataset.pack import pack_path
from svc.errors import DatasetError
from svc.f0.curve import FrameGrid, read_curve


@dataclass(frozen=True)
class Applied:
    """What `apply_curve` did."""

    track: F0Track  # the clip's F0 now
    absent: tuple[str, ...]  # parts that training needs and that are not there yet
    pack: Path | None = None  # of the data set: it is older than the clip's F0 now


def apply_curve(
    curve: Path,
    clip: Path,
    config: SvcConfig,
    *,
    midi_track: str | None = None,
    bend_range: float | None = None,
) -> Applied:
    """Make a curve the F0 of a clip; training uses it and `svc preprocess` keeps it.

    Args:
        curve: CSV or MIDI.
        clip: a clip of the data set, at the config's rate.
        config: of the voice; its rate and hop count.
        midi_track: number or name of a MIDI track; None = the one with most notes.
        bend_range: semitones of a full pitch bend where a MIDI file does not say; None = 2.

    Raises:
        CurveError: the curve cannot be read or is not as long as the clip.
        SvcError: the clip cannot be used, or its files cannot be written.
    """
    grid = FrameGrid(config.data.sampling_rate, config.data.hop_length)
    try:
        wav = read_clip(clip, grid.sampling_rate)
    except DatasetError as error:
        raise DatasetError(f"{clip}: {error}") from error
    track = read_curve(
        curve, grid, len(wav) // grid.hop_length, midi_track=midi_track, bend_range=bend_range
    )
    FeatureCache.from_config(config).save_edited_f0(clip, track, curve.name)
    paths = FeaturePaths.of(clip)
    parts = (("units", paths.units), ("volume", paths.volume))
    absent = tuple(part for part, path in parts if not path.is_file())
    pack = pack_path(clip)
    return Applied(track, absent, pack if pack.is_file() else None)
