"""`svc mix-track`: checks a mix of speakers along a song, and shows who sings when."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from svc.cli.options import add_argument
from svc.errors import ConfigError

if TYPE_CHECKING:
    from svc.conversion.speaker_mix import MixSpan, SpeakerMix

NAME = "mix-track"
HELP = "check a mix of speakers along a song, and draw who sings when"

_MAX_ROWS = 40
_MAX_COLUMNS = 8
_NAME_LENGTH = 16
_CELL = 13


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    flag = partial(add_argument, parser)
    text = "a .json or .csv file, an old spkmix.py, or alice=0.7,bob=0.3"
    flag("mix", metavar="MIX", help=text)
    text = (
        "config.json of the voice, to check the speakers' names by (default: they are not checked)"
    )
    flag("-c", "--config", metavar="FILE", type=Path, help=text)
    group = parser.add_mutually_exclusive_group()
    text = "length of the song, to show times and to check that the mix is long enough"
    add_argument(group, "--seconds", metavar="X", type=float, help=text)
    text = "the song itself, for the same: a name under raw/ or a path"
    add_argument(group, "--song", metavar="FILE", help=text)
    text = "the picture, a PNG (default: MIX.mix.png in the working folder)"
    flag("-o", "--output", "--png", metavar="FILE", type=Path, help=text)
    flag("--json", metavar="FILE", type=Path, help="write the mix as JSON")
    flag("--csv", metavar="FILE", type=Path, help="write the mix as CSV, for spreadsheets")


def run(args: argparse.Namespace) -> int:
    """Check, show, draw and write; returns 0."""
    from svc.config import load_config
    from svc.conversion.mix_files import parse_mix, song_seconds, write_mix
    from svc.evaluation.mix_plot import draw_mix

    for name, path in ((".json", args.json), (".csv", args.csv), (".png", args.output)):
        if path is not None and path.suffix.lower() != name:
            raise ConfigError(f'cannot write {path}: end its name with "{name}"')
    speakers = None if args.config is None else load_config(args.config).spk
    mix = parse_mix(args.mix, speakers)
    seconds = _length(args.seconds, args.song, mix, song_seconds)
    shown = mix.as_fractions(seconds)
    for line in _summary(mix, shown, seconds):
        print(line)
    if speakers is None:
        print("note: the names are not checked; give the config.json of the voice with -c")
    picture: Path = args.output or Path(_stem(args.mix) + ".mix.png")
    places, weights = shown.outline()
    draw_mix(places, weights, mix.speakers, picture, seconds=seconds, heading=str(args.mix))
    print(f"picture: {picture}")
    for path in (args.json, args.csv):
        if path is not None:
            write_mix(path, mix)
            print(f"written to {path}")
    return 0


def _length(
    seconds: float | None, song: str | None, mix: SpeakerMix, song_seconds: Callable[[str], float]
) -> float | None:
    """Length of the song that is shown; None = not known, and not needed."""
    if song is not None:
        seconds = song_seconds(song)
    elif seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise ConfigError(f"--seconds is {seconds:g}; give the length of the song, more than 0")
    if seconds is not None or mix.unit == "fraction":
        return seconds
    if mix.seconds is None:
        raise ConfigError(
            f"{mix.what} has its times in seconds and goes on to the song's end; give the song "
            "with --song FILE, or its length with --seconds X"
        )
    return mix.seconds


def _stem(text: str) -> str:
    """What the picture is called after, before ".mix.png"."""
    return "speakers" if "=" in text else Path(text).stem


def _summary(mix: SpeakerMix, shown: SpeakerMix, seconds: float | None) -> list[str]:
    """Lines of the table of who sings when."""
    spans = shown.spans()
    singing = [
        column
        for column in range(len(mix.speakers))
        if any(span.first[column] > 0 or span.last[column] > 0 for span in spans)
    ]
    count = len(singing)
    size = f"{count} speaker{'s' if count > 1 else ''} in {len(spans)} part{'s' if len(spans) > 1 else ''}"
    length = "" if seconds is None else f", a song of {_place(1.0, seconds)}"
    lines = [f"{mix.what}: {size}{length}"]
    if mix.only is not None:
        lines.append(f'only "{mix.speakers[mix.only]}" sings: there is nothing to mix')
    columns = singing[:_MAX_COLUMNS]
    names = [_short(mix.speakers[column] or "?") for column in columns]
    widths = [max(_CELL, len(name)) for name in names]
    head = "  ".join(f"{name:>{width}}" for name, width in zip(names, widths))
    more = f"  and {count - len(columns)} more" if count > len(columns) else ""
    lines.append(f"{'from':>10}  {'to':>10}  {head}{more}")
    for span in spans[:_MAX_ROWS]:
        cells = "  ".join(f"{_share(span, c):>{width}}" for c, width in zip(columns, widths))
        times = f"{_place(span.start, seconds):>10}  {_place(span.end, seconds):>10}"
        lines.append(f"{times}  {cells}{'  nobody: all alike' if span.silent else ''}")
    if len(spans) > _MAX_ROWS:
        lines.append(f"... and {len(spans) - _MAX_ROWS} parts more; the picture shows all")
    return lines


def _place(fraction: float, seconds: float | None) -> str:
    """Write a place in the song: ``1:40.00``, or a fraction."""
    if seconds is None:
        return f"{fraction:.4g}"
    hundredths = round(fraction * seconds * 100)
    return f"{hundredths // 6000}:{hundredths // 100 % 60:02d}.{hundredths % 100:02d}"


def _share(span: MixSpan, column: int) -> str:
    """Write the share of a speaker in a part of the song: ``70 %`` or ``100 -> 0 %``."""
    first, last = (f"{100 * float(x[column]):.0f}" for x in (span.first, span.last))
    return f"{first} %" if first == last else f"{first} -> {last} %"


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"
