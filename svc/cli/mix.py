"""`svc mix`: make one new voice out of several."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from svc.cli.options import add_argument
from svc.cli.progress import progress_bar

NAME = "mix"
HELP = "make one new voice out of several weight files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    flag = partial(add_argument, parser)
    text = "weight files of voices, two or more, trained from one base model or in one run"
    flag("files", metavar="FILE", nargs="+", type=Path, help=text)
    text = "the new voice; its config.json goes beside it"
    flag("-o", "--output", metavar="FILE", type=Path, required=True, help=text)
    text = "percent of each file, in their order (default: 100 each)"
    flag("-w", "--weights", metavar="P", nargs="+", type=float, help=text)
    text = (
        "normalized: the percents, divided by their sum; linear and convex are so-vits-svc 4.1's: the "
        "percents as they are, and a softmax, which makes 0.60 and 0.40 of 70 and 30 "
        "(default: normalized)"
    )
    modes = ("normalized", "linear", "convex")  # svc.export.mix.MODES, which would import torch
    flag("--mode", choices=modes, default="normalized", help=text)
    text = "config of all the files (default: config.json beside each file, else the one inside it)"
    flag("-c", "--config", metavar="FILE", type=Path, help=text)
    text = "what the speakers of the mix are called, in the order of their ids (default: as in the files)"
    flag("--speakers", metavar="NAME", nargs="+", help=text)
    text = "write .safetensors, which holds no pickle"
    flag("--safetensors", action="store_true", help=text)
    text = "write half precision, where all files are"
    flag("--half", action="store_true", help=text)
    text = "replace an output that is there, and another voice's config.json beside it"
    flag("--force", action="store_true", help=text)


def run(args: argparse.Namespace) -> int:
    """Mix; returns 0."""
    from svc.export.mix import MixOptions, mix

    options = MixOptions(
        inputs=tuple(args.files),
        output=args.output,
        percents=None if args.weights is None else tuple(args.weights),
        mode=args.mode,
        config=args.config,
        speakers=None if args.speakers is None else tuple(args.speakers),
        safetensors=args.safetensors,
        half=args.half,
        force=args.force,
    )
    with progress_bar("mix") as progress:
        mixed = mix(options, progress)
    for path, weight in zip(options.inputs, mixed.weights, strict=True):
        print(f"{weight:.4f} of {path}")
    for note in mixed.notes:
        print(f"note: {note}")
    for speaker, voice in mixed.ranges.items():
        print(f"{speaker} sings {voice.summary()}")
    print(f"mix: {mixed.output}, config: {mixed.config}")
    return 0
