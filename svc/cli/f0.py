"""`svc f0`: the pitch of songs and clips as files that can be looked at, edited and sung."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from svc.cli.options import (
    F0_THRESHOLD_HELP,
    HelpFormatter,
    add_argument,
    add_device,
    f0_predictor,
    f0_predictor_help,
)
from svc.errors import ConfigError, MissingFileError

if TYPE_CHECKING:
    from svc.f0 import F0Predictor
    from svc.f0.curve import FrameGrid

NAME = "f0"
HELP = "pitch curves of songs and clips: extract, edit, look at, put into a data set"

_PREDICTOR = "pm"
_ACTIONS = {
    "extract": "write the pitch of songs as CSV or MIDI, to edit it and sing it with  svc infer --f0",
    "apply": "make a curve the F0 of a clip of a data set; svc preprocess keeps it",
    "plot": "draw pitch predictors and curves on the spectrogram of a song",
    "convert": "turn a curve from CSV into MIDI or back",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their flags."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    made = {}
    for name, text in _ACTIONS.items():
        made[name] = actions.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )
    _add_extract(made["extract"])
    _add_apply(made["apply"])
    _add_plot(made["plot"])
    _add_convert(made["convert"])


def _add_extract(parser: argparse.ArgumentParser) -> None:
    flag = partial(add_argument, parser)
    text = "names under raw/, paths of audio files, or folders"
    flag("songs", metavar="SONG", nargs="+", help=text)
    text = (
        "a .csv or .mid file for one song, or a folder; CSV has the columns time_s, f0_hz, voiced "
        "and confidence (default: SONG.f0.csv beside each song)"
    )
    flag("-o", "--output", metavar="PATH", type=Path, help=text)
    text, default = f0_predictor_help(_PREDICTOR), _PREDICTOR
    flag("-f0p", "--f0_predictor", metavar="NAME", type=f0_predictor, default=default, help=text)
    flag("--overwrite", action="store_true", help="write over curves that are there")
    _add_predictor(parser)
    _add_grid(parser)
    _add_bend(parser, "of a MIDI file written (default: 12)")


def _add_apply(parser: argparse.ArgumentParser) -> None:
    flag = partial(add_argument, parser)
    flag("curve", metavar="CURVE", type=Path, help="CSV or MIDI")
    flag("clip", metavar="CLIP", type=Path, help="a clip in dataset/44k/<voice>/")
    text = "of the data set (default: configs/config.json)"
    default = Path("configs/config.json")
    flag("-c", "--config", metavar="FILE", type=Path, default=default, help=text)
    _add_midi(parser)


def _add_plot(parser: argparse.ArgumentParser) -> None:
    flag = partial(add_argument, parser)
    flag("song", metavar="SONG", help="a name under raw/, or the path of an audio file")
    flag("curves", metavar="CURVE", type=Path, nargs="*", help="CSV or MIDI files of that song")
    text = f0_predictor_help(f"{_PREDICTOR} where no curve is given, else none")
    flag("-f0p", "--f0_predictor", metavar="NAME", type=f0_predictor, nargs="+", help=text)
    text = "the picture, a PNG (default: SONG.f0.png in the working folder)"
    flag("-o", "--output", "--png", metavar="FILE", type=Path, help=text)
    flag("--start", metavar="SECONDS", type=float, default=0.0, help="where the picture begins")
    flag("--end", metavar="SECONDS", type=float, help="where it ends (default: the song's end)")
    _add_predictor(parser)
    _add_grid(parser)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    flag = partial(add_argument, parser)
    flag("curve", metavar="FROM", type=Path, help="CSV or MIDI")
    flag("target", metavar="TO", type=Path, help="a .csv or .mid file")
    text = "make the curve as long as this song (default: as long as FROM)"
    flag("--song", metavar="FILE", type=Path, help=text)
    flag("--overwrite", action="store_true", help="write over a curve that is there")
    _add_grid(parser)
    _add_midi(parser)


def _add_predictor(parser: argparse.ArgumentParser) -> None:
    flag = partial(add_argument, parser.add_argument_group("pitch predictor"))
    text = "lowest pitch looked for (default: 50)"
    flag("--f0_min", metavar="HZ", type=float, default=50.0, help=text)
    text = "highest pitch looked for (default: 1100)"
    flag("--f0_max", metavar="HZ", type=float, default=1100.0, help=text)
    flag("-ft", "--f0_filter_threshold", metavar="X", type=float, help=F0_THRESHOLD_HELP)
    add_device(parser)


def _add_grid(parser: argparse.ArgumentParser) -> None:
    flag = partial(add_argument, parser.add_argument_group("frames"))
    text = "take rate and hop from this config.json of a voice"
    flag("-c", "--config", metavar="FILE", type=Path, help=text)
    text = "of the voice, Hz (default: 44100)"
    flag("--sampling_rate", metavar="HZ", type=int, help=text)
    flag("--hop_length", metavar="N", type=int, help="samples per frame (default: 512)")


def _add_midi(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("MIDI")
    text = "track to take, its number or name (default: the one with most notes)"
    add_argument(group, "--track", metavar="TRACK", help=text)
    _add_bend(group, "of a file written (default: 12), or read that does not say (default: 2)")


def _add_bend(group: argparse._ActionsContainer, text: str) -> None:
    text = f"semitones of a full pitch bend {text}"
    add_argument(group, "--bend_range", metavar="N", type=int, help=text)


def run(args: argparse.Namespace) -> int:
    """Do what was asked for; returns 0."""
    if getattr(args, "bend_range", None) is not None and not 1 <= args.bend_range <= 24:
        raise ConfigError(f"--bend_range is {args.bend_range}: give 1 to 24 semitones")
    actions = {"extract": _extract, "apply": _apply, "plot": _plot, "convert": _convert}
    actions[args.action](args)
    return 0


def _extract(args: argparse.Namespace) -> None:
    from svc.conversion.names import find_sources
    from svc.f0.curve import check_suffix, curve_name, describe, write_curve
    from svc.f0.extract import curve_from_file

    paths = dict.fromkeys(source.path for name in args.songs for source in find_sources(name))
    output: Path | None = args.output
    folder = output is not None and (output.is_dir() or not output.suffix)
    if output is not None and not folder:
        if len(paths) > 1:
            raise ConfigError(
                f"-o {output} is one file and there are {len(paths)} songs; give a folder"
            )
        check_suffix(output)
    targets: dict[Path, Path] = {}
    for path in paths:
        target = path.parent / curve_name(path.name) if output is None else output
        if output is not None and folder:
            target = output / curve_name(path.name)
        if target in targets.values():
            raise ConfigError(f"two songs have the curve {target}; extract them one by one with -o")
        _keep(target, args.overwrite)
        targets[path] = target
    grid = _grid(args)
    predictor = _predictor(args, args.f0_predictor, grid)
    for path, target in targets.items():
        track = curve_from_file(path, predictor, grid)
        write_curve(target, track, grid, bend_range=args.bend_range)
        print(f"{path} -> {target}  ({describe(track, grid)})", flush=True)


def _keep(target: Path, overwrite: bool) -> None:
    """Raise ConfigError rather than write over a curve that somebody may have edited."""
    if target.exists() and not overwrite:
        raise ConfigError(
            f"{target} is there already and may hold edits; give another name, or --overwrite"
        )


def _apply(args: argparse.Namespace) -> None:
    from svc.config import load_config
    from svc.dataset.edited_f0 import apply_curve
    from svc.f0.curve import FrameGrid, describe

    config = load_config(args.config)
    done = apply_curve(
        args.curve, args.clip, config, midi_track=args.track, bend_range=args.bend_range
    )
    grid = FrameGrid(config.data.sampling_rate, config.data.hop_length)
    print(f"{args.clip} has the F0 of {args.curve} now  ({describe(done.track, grid)})")
    if done.absent:
        print(f"its {' and '.join(done.absent)} are not there yet: run  svc preprocess")
    elif done.pack is not None:
        print(f"{done.pack} is older now: run  svc preprocess --stage pack  before training")


def _plot(args: argparse.Namespace) -> None:
    from svc.conversion.names import find_sources
    from svc.evaluation.f0_plot import NamedCurve, difference, draw_curves, read_song
    from svc.f0.curve import describe, read_curve
    from svc.f0.wave import F0Wave

    sources = find_sources(args.song)
    if len(sources) != 1:
        raise ConfigError(f"{args.song} is a folder; give one song")
    song = sources[0].path
    target: Path = args.output or Path(f"{song.stem}.f0.png")
    if target.suffix.lower() != ".png":
        raise ConfigError(f'-o {target}: the picture is a PNG; end its name with ".png"')
    for path in args.curves:
        if not path.is_file():
            raise MissingFileError(f"the pitch curve {path} is not there; check the path")
    grid = _grid(args)
    names = args.f0_predictor
    if names is None:
        names = [] if args.curves else [_PREDICTOR]
    predictors = [_predictor(args, name, grid) for name in names]
    wav = read_song(song, grid)
    wave = F0Wave(wav, grid.sampling_rate)  # what one resamples serves the others
    n_frames = len(wav) // grid.hop_length
    curves = [NamedCurve(path.name, read_curve(path, grid, n_frames)) for path in args.curves]
    curves += [NamedCurve(one, listen(wave)) for one, listen in zip(names, predictors)]
    draw_curves(wav, curves, grid, target, heading=song.name, start=args.start, end=args.end)
    for i, curve in enumerate(curves):
        line = f"{curve.name}: {describe(curve.track, grid)}"
        apart = difference(curve.track, curves[0].track) if i else None
        if apart is not None:
            line += (
                f"; from {curves[0].name}: median {apart[0]:.0f} cents, {100 * apart[1]:.1f} % "
                f"within 50 cents, voicing alike in {100 * apart[2]:.1f} %"
            )
        print(line)
    print(f"picture: {target}")


def _convert(args: argparse.Namespace) -> None:
    from svc.f0.curve import check_suffix, describe, read_curve, write_curve
    from svc.f0.extract import frames_of_file

    check_suffix(args.target)
    _keep(args.target, args.overwrite)
    grid = _grid(args)
    n_frames = None if args.song is None else frames_of_file(args.song, grid)
    track = read_curve(
        args.curve, grid, n_frames, midi_track=args.track, bend_range=args.bend_range
    )
    write_curve(args.target, track, grid, bend_range=args.bend_range)
    print(f"{args.curve} -> {args.target}  ({describe(track, grid)})")


def _grid(args: argparse.Namespace) -> FrameGrid:
    from svc.f0.curve import FrameGrid

    if args.config is not None:
        if args.sampling_rate is not None or args.hop_length is not None:
            raise ConfigError("-c/--config says rate and hop; leave --sampling_rate, --hop_length")
        from svc.config import load_config

        data = load_config(args.config).data
        return FrameGrid(data.sampling_rate, data.hop_length)
    rate = 44100 if args.sampling_rate is None else args.sampling_rate
    hop = 512 if args.hop_length is None else args.hop_length
    if rate <= 0 or hop <= 0:
        raise ConfigError(f"--sampling_rate {rate} and --hop_length {hop} must be above 0")
    return FrameGrid(rate, hop)


def _predictor(args: argparse.Namespace, name: str, grid: FrameGrid) -> F0Predictor:
    from svc.devices import resolve_device
    from svc.f0 import build_f0_predictor

    return build_f0_predictor(
        name,
        sampling_rate=grid.sampling_rate,
        hop_length=grid.hop_length,
        f0_min=args.f0_min,
        f0_max=args.f0_max,
        threshold=args.f0_filter_threshold,
        device=resolve_device(args.device),
    )
