"""`svc onnx-export`: a voice as ONNX graphs, for other programs or for machines without torch."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from svc.cli.options import add_argument
from svc.cli.progress import progress_bar
from svc.errors import ConfigError

NAME = "onnx-export"
HELP = "export a voice to ONNX, each graph compared with its net"

CHECKPOINTS = Path("checkpoints")
_CONFIG, _MODEL = "config.json", "model.pth"

_COMPARED = "each graph was compared with its net on two lengths"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flag of the original's onnx_export.py (spec_onnx 1) and ours."""
    flag = partial(add_argument, parser.add_argument_group("voice"))
    text = (
        f"as so-vits-svc 4.1: {CHECKPOINTS}/NAME/{_CONFIG} and {_MODEL} become "
        f"{CHECKPOINTS}/NAME/NAME_SoVits.onnx and {CHECKPOINTS}/NAME.json"
    )
    flag("-n", "--name", metavar="NAME", help=text)
    flag("-m", "--model_path", metavar="FILE", type=Path, help="checkpoint of the voice")
    text = "its config (default: config.json beside it)"
    flag("-c", "--config_path", metavar="FILE", type=Path, help=text)

    flag = partial(add_argument, parser.add_argument_group("result"))
    text = (
        "moevs: graphs for MoeVoiceStudio and its relatives; full: everything from wave to wave, "
        "which svc infer runs without torch (default: moevs with -n, else full)"
    )
    flag("--profile", choices=("moevs", "full"), help=text)
    text = "folder of the graphs; the exported voice is called after it"
    flag("-o", "--output", metavar="FOLDER", type=Path, help=text)
    text = "largest difference from torch of any sample or mel value (default: 1e-4)"
    flag("--tolerance", metavar="X", type=float, help=text)
    flag("--force", action="store_true", help="replace files that are there")

    flag = partial(add_argument, parser.add_argument_group("what goes with it"))
    text = "diffusion voice that refines it; with moevs also alone"
    names = ("-dm", "--diffusion", "--diffusion_model_path")
    flag(*names, dest="diffusion", metavar="FILE", type=Path, help=text)
    text = "its config (default: config.yaml beside it)"
    flag("-dc", "--diffusion_config_path", metavar="FILE", type=Path, help=text)
    text = "weights of an NSF-HiFiGAN vocoder, config.json beside them; with moevs also alone"
    flag("--vocoder", metavar="FILE", type=Path, help=text)
    text = "retrieval index, feature_index/ or feature_and_index.pkl; moevs only"
    flag("--index", metavar="PATH", type=Path, help=text)
    text = "F0 predictors that go into the folder, rmvpe and fcpe; full only (default: none)"
    flag("--f0", metavar="NAME", nargs="+", default=[], help=text)
    text = "weights of the speech encoder, as in svc infer; full only"
    flag("--encoder_path", metavar="PATH", help=text)


def run(args: argparse.Namespace) -> int:
    """Export; returns 0."""
    if args.name is not None and args.model_path is not None:
        raise ConfigError("-n and -m both name a voice: use one of them")
    _fill_in_names(args)
    profile = args.profile or ("full" if args.name is None else "moevs")
    if args.output is None:
        raise ConfigError("-o FOLDER is missing: say where the graphs shall go")
    if profile == "moevs":
        _moevs(args)
    else:
        _full(args)
    return 0


def _fill_in_names(args: argparse.Namespace) -> None:
    """Turn -n into the paths that it stands for."""
    if args.name is None:
        return
    name = args.name.rstrip("/")  # as a shell completes it
    if name in ("", "..") or Path(name).name != name or "\\" in name:
        raise ConfigError(
            f"-n {args.name}: the name of a folder in {CHECKPOINTS}/ is wanted, not a path; "
            "for files elsewhere use -m, -c and -o"
        )
    folder = CHECKPOINTS / name
    args.model_path = folder / _MODEL
    args.config_path = args.config_path or folder / _CONFIG
    if args.output is None and args.profile != "full":
        args.output = folder


def _moevs(args: argparse.Namespace) -> None:
    _refuse("moevs", "full", {"--f0": args.f0, "--encoder_path": args.encoder_path})
    from svc.export.moevs import TOLERANCE, MoevsOptions, export_moevs

    options = MoevsOptions(
        folder=args.output,
        model=args.model_path,
        config=args.config_path,
        diffusion=args.diffusion,
        diffusion_config=args.diffusion_config_path,
        vocoder=args.vocoder,
        index=args.index,
        tolerance=TOLERANCE if args.tolerance is None else args.tolerance,
        force=args.force,
    )
    with progress_bar("onnx-export") as progress:
        files = export_moevs(options, progress)
    for file in files:
        if file.check is None:
            print(file.path)
        else:
            found = file.check
            line = _line(
                str(file.path), file.bytes, found.max_abs_error, found.tolerance, file.seconds
            )
            print(line)
    print(_COMPARED)


def _full(args: argparse.Namespace) -> None:
    _refuse("full", "moevs", {"--index": args.index})
    if args.model_path is None:
        raise ConfigError(
            "say which voice to export with -m FILE; a diffusion voice or a vocoder alone is "
            "exported with --profile moevs"
        )
    from svc.export.full import TOLERANCE, export_full

    with progress_bar("onnx-export") as progress:
        report = export_full(
            args.model_path,
            args.config_path,
            output=args.output,
            encoder_path=args.encoder_path,
            f0=args.f0,
            diffusion=args.diffusion,
            diffusion_config=args.diffusion_config_path,
            vocoder=args.vocoder,
            tolerance=TOLERANCE if args.tolerance is None else args.tolerance,
            progress=progress,
            force=args.force,
        )
    for graph in report.graphs:
        path = str(report.folder / graph.name)
        print(_line(path, graph.bytes, graph.max_abs_error, graph.tolerance, graph.seconds))
    print(_COMPARED)


def _refuse(profile: str, other: str, given: dict[str, object]) -> None:
    """Raise ConfigError for a flag that this profile does not have."""
    for flag, value in given.items():
        if value:
            raise ConfigError(
                f"{flag} is a flag of --profile {other}, this is {profile}: leave it out, or choose "
                "that profile"
            )


def _line(path: str, size: int, error: float, tolerance: float, seconds: float) -> str:
    differs = f"differs by {error:.1e} at most (limit {tolerance:g})"
    return f"{path}  {size / 1e6:.1f} MB, {differs}, {seconds:.0f} s"
