"""`svc voice-range`: which notes a voice sings, for `svc infer --transpose auto`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from svc.cli.options import add_argument, add_device, f0_predictor_help
from svc.cli.progress import progress_bar
from svc.errors import ConfigError

NAME = "voice-range"
HELP = "measure which notes a voice sings, for  svc infer -t auto  with a model of another program"

_OUTPUT = Path("logs/44k/voice_range.json")
_ENOUGH_SECONDS = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    flag = partial(add_argument, parser)
    text = (
        "recordings of the voice, files or folders; without -s a folder with one sub-folder of "
        "recordings per voice, like dataset/44k"
    )
    flag("recordings", metavar="PATH", nargs="*", type=Path, help=text)
    flag("-s", "--speaker", metavar="NAME", help="the voice, as the model's config calls it")
    text = "no recordings: the lowest and the highest note the voice can sing, like A2 E4; needs -s"
    flag("--notes", metavar=("LOW", "HIGH"), nargs=2, help=text)
    text = f"written beside the model; other voices in it stay (default: {_OUTPUT})"
    flag("-o", "--output", metavar="FILE", type=Path, default=_OUTPUT, help=text)
    flag("-f0p", "--f0_predictor", metavar="NAME", default="pm", help=f0_predictor_help("pm"))
    text = "lowest pitch looked for (default: 50)"
    flag("--f0_min", metavar="HZ", type=float, default=50.0, help=text)
    text = "highest pitch looked for (default: 1100)"
    flag("--f0_max", metavar="HZ", type=float, default=1100.0, help=text)
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and write; returns 0."""
    if args.notes is not None and (args.speaker is None or args.recordings):
        raise ConfigError("--notes takes the place of recordings and needs -s NAME")
    if args.notes is None and not args.recordings:
        raise ConfigError("give recordings of the voice, or its notes with --notes LOW HIGH")

    from svc.dataset.ranges import (
        add_ranges,
        range_of_notes,
        ranges_of_recordings,
        recordings_of,
    )

    if args.notes is not None:
        ranges = {args.speaker: range_of_notes(*args.notes)}
    else:
        with progress_bar("voice-range") as progress:
            ranges = ranges_of_recordings(
                recordings_of(args.recordings, args.speaker),
                f0_predictor=args.f0_predictor,
                f0_min=args.f0_min,
                f0_max=args.f0_max,
                device=args.device,
                progress=progress,
            )
    overruled = add_ranges(args.output, ranges)
    for speaker, voice in ranges.items():
        print(f"{speaker}: {voice.summary()}")
        if 0 < voice.seconds < _ENOUGH_SECONDS:
            print(f"note: that is little sound to know the range of {speaker} by")
        if speaker in overruled:
            print(
                f"note: the newest checkpoint beside it knows the range of {speaker}; that counts"
            )
    print(f"written to {args.output}")
    return 0
