"""`svc resample`: recordings to level-matched clips at the model's rate."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from svc.cli.options import add_argument
from svc.cli.progress import progress_bar
from svc.cli.report import count, left_out
from svc.errors import ConfigError

if TYPE_CHECKING:
    from svc.dataset.resample import ResampleReport

NAME = "resample"
HELP = "recordings in dataset_raw/ to level-matched clips at the model's rate in dataset/44k/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags (spec_core 6.2)."""
    add_argument(
        parser,
        "--sr2",
        type=int,
        default=44100,
        metavar="HZ",
        help="rate of the clips (default: 44100)",
    )
    add_argument(
        parser,
        "--in_dir",
        type=Path,
        default=Path("dataset_raw"),
        metavar="DIR",
        help="one sub-folder of recordings per voice, any audio format (default: dataset_raw)",
    )
    add_argument(
        parser,
        "--out_dir2",
        type=Path,
        default=Path("dataset/44k"),
        metavar="DIR",
        help="clips go to DIR/VOICE/STEM.wav, mono, 16 bit (default: dataset/44k)",
    )
    add_argument(
        parser,
        "--loudness",
        choices=("peak", "lufs", "none"),
        default=None,
        help="peak: each clip's loudest sample becomes full scale, as in the original; lufs: each "
        "clip gets the same perceived loudness, -18 LUFS, with a limiter; none: levels stay "
        "(default: peak)",
    )
    add_argument(parser, "--skip_loudnorm", action="store_true", help="the same as --loudness none")
    add_argument(
        parser,
        "--jobs",
        type=int,
        default=None,
        metavar="N",
        help="processes; 0 = one per CPU (default: CPUs - 2 where there are more than 4, else 1)",
    )


def run(args: argparse.Namespace) -> int:
    """Resample; returns 0, or 1 when a recording could not be used."""
    from svc.dataset.resample import ResampleOptions, resample_dataset

    if args.skip_loudnorm and args.loudness not in (None, "none"):
        raise ConfigError(f"--skip_loudnorm and --loudness {args.loudness} contradict each other")
    options = ResampleOptions(
        in_dir=args.in_dir,
        out_dir=args.out_dir2,
        sampling_rate=args.sr2,
        loudness="none" if args.skip_loudnorm else args.loudness or "peak",
        jobs=args.jobs,
    )
    with progress_bar("resample") as progress:
        report = resample_dataset(options, progress)
    _print_report(report, options.out_dir)
    return 1 if report.left_out else 0


def _print_report(report: ResampleReport, out_dir: Path) -> None:
    for item in report.left_out:
        print(left_out(item.path, item.reason))
    for note in report.notes:
        print(f"note: {note}")
    for speaker, seconds in report.seconds.items():
        print(f"{speaker}: {seconds / 60:.1f} min")
    print(
        f"{count(len(report.written), 'clip')} of {count(len(report.seconds), 'voice')} in {out_dir}; "
        f"{count(len(report.left_out), 'recording')} left out"
    )
