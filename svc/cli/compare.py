"""`svc compare`: figures and a picture of a conversion."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from svc.cli.options import add_argument, f0_predictor_help
from svc.errors import MissingFileError

NAME = "compare"
HELP = "measure a conversion: F0, voicing, loudness, distance to both voices; draws a picture"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the sub-command."""
    parser.add_argument(
        "source_file", metavar="SOURCE", type=Path, help="the song that was converted"
    )
    parser.add_argument("output_file", metavar="OUTPUT", type=Path, help="what came out of it")
    add_argument(
        parser,
        "--target",
        dest="target_dir",
        type=Path,
        metavar="DIR",
        help="recordings of the voice it should have (sub-folders included)",
    )
    add_argument(
        parser,
        "--source",
        dest="source_dir",
        type=Path,
        metavar="DIR",
        help="recordings of the source's singer; default: the song itself",
    )
    add_argument(
        parser,
        "-t",
        "--transpose",
        type=float,
        default=0.0,
        metavar="N",
        help="semitones that the conversion added (default: 0)",
    )
    add_argument(
        parser,
        "-f0p",
        "--f0_predictor",
        default="pm",
        metavar="NAME",
        help=f0_predictor_help("pm"),
    )
    add_argument(
        parser,
        "--f0_min",
        type=float,
        default=50.0,
        metavar="HZ",
        help="lowest pitch (default: 50)",
    )
    add_argument(
        parser,
        "--f0_max",
        type=float,
        default=1100.0,
        metavar="HZ",
        help="highest pitch (default: 1100)",
    )
    add_argument(parser, "--png", type=Path, metavar="FILE", help="draw a picture there")
    add_argument(parser, "--json", type=Path, metavar="FILE", help="write the figures there")


def run(args: argparse.Namespace) -> int:
    """Measure, draw, print one line."""
    for path in (args.source_file, args.output_file):
        if not path.is_file():
            raise MissingFileError(f"{path} is not a file; give the song and the converted song")
    from svc.evaluation.figures import analyse
    from svc.evaluation.timbre import clips_of

    comparison = analyse(
        args.source_file,
        args.output_file,
        target_clips=clips_of(args.target_dir) if args.target_dir else [],
        source_clips=clips_of(args.source_dir) if args.source_dir else [],
        transpose=args.transpose,
        f0_predictor=args.f0_predictor,
        f0_min=args.f0_min,
        f0_max=args.f0_max,
    )
    if args.json is not None:
        from svc.atomic import write_text

        write_text(args.json, json.dumps(comparison.figures.as_dict(), indent=2) + "\n")
    if args.png is not None:
        from svc.evaluation.plot import draw

        draw(comparison, args.png)
    print(comparison.figures.summary)
    for what, path in (("picture", args.png), ("figures", args.json)):
        if path is not None:
            print(f"{what}: {path}")
    return 0
