"""`svc slice`: long recordings to clips, cut at silences."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from svc.cli.options import add_argument
from svc.cli.progress import progress_bar
from svc.cli.report import count, left_out

if TYPE_CHECKING:
    from svc.dataset.slicing import SlicedFile, SliceReport

NAME = "slice"
HELP = "cut long recordings into clips at silences"
_MAX_LISTED = 5  # dropped parts named per recording
_WORTH_TELLING_S = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add_argument(
        parser,
        "--in_dir",
        type=Path,
        default=Path("dataset_raw_long"),
        metavar="DIR",
        help="one sub-folder of recordings per voice, or loose recordings and --speaker "
        "(default: dataset_raw_long)",
    )
    add_argument(
        parser,
        "--out_dir",
        type=Path,
        default=Path("dataset_raw"),
        metavar="DIR",
        help="clips go to DIR/VOICE/STEM_001.wav, mono, at their own rate, 16 or 24 bit as the "
        "recording (default: dataset_raw)",
    )
    add_argument(
        parser, "--speaker", metavar="NAME", help="voice of the recordings directly in --in_dir"
    )
    add_argument(
        parser,
        "--slice_db",
        type=float,
        default=-40.0,
        metavar="DB",
        help="what is quieter is silence, dBFS; noisy recordings: -30, breaths to keep: -50 "
        "(default: -40)",
    )
    add_argument(
        parser,
        "--min_seconds",
        type=float,
        default=5.0,
        metavar="S",
        help="shortest clip (default: 5)",
    )
    add_argument(
        parser,
        "--max_seconds",
        type=float,
        default=15.0,
        metavar="S",
        help="longest clip; a phrase without a pause is cut at its quietest moment (default: 15)",
    )
    add_argument(
        parser,
        "--min_interval",
        type=int,
        nargs="+",
        default=[300, 100, 50],
        metavar="MS",
        help="shortest silence to cut at; the next one is tried where clips stay too long "
        "(default: 300 100 50)",
    )
    add_argument(
        parser,
        "--hop_ms",
        type=int,
        default=10,
        metavar="MS",
        help="step of the loudness curve (default: 10)",
    )
    add_argument(
        parser,
        "--max_silence_kept",
        type=int,
        default=500,
        metavar="MS",
        help="silence left at the ends of a clip (default: 500)",
    )


def run(args: argparse.Namespace) -> int:
    """Cut; returns 0, or 1 when a recording could not be used."""
    from svc.dataset.slicing import SliceOptions, slice_dataset

    options = SliceOptions(
        in_dir=args.in_dir,
        out_dir=args.out_dir,
        speaker=args.speaker,
        threshold_db=args.slice_db,
        min_seconds=args.min_seconds,
        max_seconds=args.max_seconds,
        min_interval_ms=tuple(args.min_interval),
        hop_ms=args.hop_ms,
        max_silence_ms=args.max_silence_kept,
    )
    with progress_bar("slice") as progress:
        report = slice_dataset(options, progress)
    _print_report(report, options.out_dir)
    return 1 if report.left_out else 0


def _print_report(report: SliceReport, out_dir: Path) -> None:
    for file in report.files:
        print(
            f"{file.source}: {count(len(file.clips), 'clip')}, {file.kept_s:.1f} s{_dropped(file)}"
        )
    for item in report.left_out:
        print(left_out(item.path, item.reason))
    for note in report.notes:
        print(f"note: {note}")
    seconds = sum(file.kept_s for file in report.files)
    dropped = sum(part.end_s - part.start_s for file in report.files for part in file.dropped)
    print(
        f"{count(report.clip_count, 'clip')} ({seconds / 60:.1f} min) of "
        f"{count(len(report.files), 'recording')} in {out_dir}; {dropped:.1f} s dropped, "
        f"{count(len(report.left_out), 'recording')} left out"
    )


def _dropped(file: SlicedFile) -> str:
    """Say what was dropped: silences as a sum, the rest with its place, for it may be voice."""
    silent = [part for part in file.dropped if part.reason == "silent"]
    other = [part for part in file.dropped if part.reason != "silent"]
    text = ""
    seconds = sum(part.end_s - part.start_s for part in silent)
    if seconds >= _WORTH_TELLING_S:
        text += f"; dropped {seconds:.1f} s of silence"
    for part in other[:_MAX_LISTED]:
        text += f"; dropped {part.start_s:.1f}-{part.end_s:.1f} s: {part.reason}"
    if len(other) > _MAX_LISTED:
        rest = sum(part.end_s - part.start_s for part in other[_MAX_LISTED:])
        text += f"; and {len(other) - _MAX_LISTED} more parts, {rest:.1f} s"
    return text
