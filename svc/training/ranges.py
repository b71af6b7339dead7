"""Which notes the voices of a run sing: measured once, kept in its checkpoints and its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svc.config import SvcConfig
from svc.dataset.ranges import ranges_of_clips
from svc.errors import SvcError
from svc.f0.range_files import RANGE_FILE, ranges_in, read_ranges, write_ranges
from svc.f0.voice_range import VoiceRange
from svc.training.checks import CheckedList


def measure_ranges(
    config: SvcConfig,
    training: CheckedList,
    run_dir: Path,
    resumed: Mapping[str, Any] | None,
) -> tuple[dict[str, VoiceRange], list[str]]:
    """Measure the voices of a run on its training clips.

    A speaker without clips now keeps what the checkpoint, else the side-car knows of it.

    Args:
        config: names the speakers.
        training: the clips; only their F0 is read.
        run_dir: folder of the run.
        resumed: the checkpoint of G that the run goes on from; None = it begins anew.

    Returns:
        Speaker -> range, in the order of the config, and lines for the log.

    Raises:
        SvcError: an F0 file is damaged.
    """
    known: dict[str, VoiceRange] = {}
    notes = []
    if resumed is not None:
        try:
            known = {**read_ranges(run_dir / RANGE_FILE), **ranges_in(resumed, "the checkpoint")}
        except SvcError as error:
            notes.append(f"earlier ranges of the voices are left out: {error}")
    frame_seconds = config.data.hop_length / config.data.sampling_rate
    known |= ranges_of_clips(training.paths, frame_seconds, training.store)
    ranges = {speaker: known[speaker] for speaker in config.spk if speaker in known}
    for speaker in config.spk:
        what = ranges[speaker].summary() if speaker in ranges else "not known, nothing is voiced"
        notes.append(f"range of {speaker}: {what}")
    return ranges, notes


def publish_ranges(run_dir: Path, ranges: Mapping[str, VoiceRange]) -> None:
    """Write the side-car into the folder of the run. Raises OutputError."""
    write_ranges(run_dir / RANGE_FILE, ranges)
