"""`svc demo`: recordings of two synthetic singers and a song, to try everything with."""

from __future__ import annotations

import argparse
from pathlib import Path

from svc.cli.options import add_argument, add_seed
from svc.cli.progress import progress_bar
from svc.errors import ConfigError

NAME = "demo"
HELP = "write a small synthetic data set and song"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the sub-command."""
    parser.add_argument(
        "out_dir",
        metavar="OUT_DIR",
        type=Path,
        help="gets dataset_raw/<singer>/*.wav, song.wav and song_f0.csv (the song's true F0)",
    )
    add_argument(
        parser,
        "--minutes",
        type=float,
        default=1.0,
        metavar="M",
        help="recordings per singer, in minutes (default: 1)",
    )
    add_seed(parser, 0)


def run(args: argparse.Namespace) -> int:
    """Write the demonstration data and say what to do with it."""
    from svc.demo.dataset import write_demo

    if not 0.1 <= args.minutes <= 60:
        raise ConfigError(f"--minutes {args.minutes:g} is out of range; give 0.1 to 60")
    if args.seed < 0:
        raise ConfigError(f"--seed {args.seed} is negative; give 0 or more")
    with progress_bar("demo") as progress:
        files = write_demo(args.out_dir, seed=args.seed, minutes=args.minutes, progress=progress)
    for name, clips in files.clips.items():
        print(f"{name}: {len(clips)} clips in {clips[0].parent}")
    print(f"song: {files.song} (sung by {files.source}; true F0 in {files.truth})")
    print(f"suits it: target {files.target}, {files.transpose:+d} semitones")
    return 0
