"""`svc encoders`: which content encoders there are, which files are found, and whether they work."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svc.cli.options import add_argument, add_device
from svc.errors import ConfigError, MissingFileError, SvcError

if TYPE_CHECKING:
    import torch

    from svc.pretrained import PretrainedFile

NAME = "encoders"
HELP = "content encoders: which there are and which files are found; --check tries them"

_FUSION = "vec768l12+whisper-ppg-tiny"
_HEADINGS = ("id", "width", "file", "here", "published", "licence")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the sub-command."""
    add_argument(
        parser,
        "--check",
        nargs="*",
        metavar="ID",
        help="compare files with the published checksums, load each encoder and run one second of "
        "sound through it (default: all that are found); two joined by + are a fusion",
    )
    add_argument(
        parser,
        "--encoder_path",
        metavar="PATH",
        help="weights to check instead of the default ones, with one ID: a file or a Hugging Face "
        "folder; for a fusion ID=PATH[,ID=PATH]",
    )
    add_argument(
        parser,
        "--pretrain_dir",
        type=Path,
        metavar="DIR",
        help="folder of the default files (default: pretrain)",
    )
    add_device(parser)
    add_argument(
        parser,
        "--precision",
        "--encoder_precision",
        dest="precision",
        choices=("fp32", "bf16", "fp16"),  # svc.devices.PRECISIONS, which would import torch
        default="fp32",
        help="of the check (default: fp32)",
    )
    add_argument(parser, "--json", action="store_true", help="print one JSON object per line")


def run(args: argparse.Namespace) -> int:
    """Print the table, or check encoders; 1 if one of them fails."""
    from svc.pretrained import PRETRAIN_DIR

    if args.pretrain_dir is not None and not args.pretrain_dir.is_dir():
        raise MissingFileError(f"--pretrain_dir {args.pretrain_dir} is not a folder")
    pretrain_dir = PRETRAIN_DIR if args.pretrain_dir is None else args.pretrain_dir
    rows = _find(pretrain_dir)
    if args.check is not None:
        names = args.check or [row.name for row in rows if row.path is not None]
        return _check(names, args, pretrain_dir)
    if args.encoder_path is not None:
        raise ConfigError("--encoder_path is for a check: add  --check ID")
    for line in _objects(rows) if args.json else _table(rows, pretrain_dir):
        print(line)
    return 0


# ---------------------------------------------------------------------------------------- the list


@dataclass(frozen=True)
class _Row:
    name: str
    width: int
    file: PretrainedFile  # the default one
    path: Path | None  # where weights are; None: nowhere
    bundled: bool  # `path` is that of the installation

    @property
    def here(self) -> str:
        from svc.pretrained import size_text

        if self.path is None:
            return "-"
        size = size_text(self.path.stat().st_size)
        return f"{size}, bundled" if self.bundled else size


def _find(pretrain_dir: Path) -> list[_Row]:
    """Look for the default file of every encoder."""
    from svc.config import SPEECH_ENCODER_DIMS
    from svc.pretrained import WHISPER_TINY_ASSET, file_of, whisper_tiny_asset

    rows = []
    for name, width in SPEECH_ENCODER_DIMS.items():
        file = file_of(name)
        path: Path | None = pretrain_dir / file.name
        bundled = path is not None and not path.is_file() and name in WHISPER_TINY_ASSET.ids
        if bundled:
            path = whisper_tiny_asset()
        elif path is not None and not path.is_file():
            path = None
        rows.append(_Row(name, width, file, path, bundled))
    return rows


def _table(rows: list[_Row], pretrain_dir: Path) -> Iterable[str]:
    from svc.config import encoder_dim

    cells = [_HEADINGS] + [
        (row.name, str(row.width), row.file.name, row.here, row.file.size_text, row.file.licence)
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADINGS))]
    for line in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
    yield ""
    yield f"The files go into {pretrain_dir}/ under these names. What they are, and whose:"
    for file in {row.file.name: row.file for row in rows}.values():
        yield f"  {file.name}: {file.what}; {file.source}"
    yield ""
    yield (
        f"Two encoders can be fused, e.g. --speech_encoder {_FUSION}"
        f" ({encoder_dim(_FUSION)} wide).  svc encoders --check ID  tries one out."
    )


def _objects(rows: list[_Row]) -> Iterable[str]:
    for row in rows:
        usual = row.file.published[0] if row.file.published else None
        yield json.dumps(
            {
                "id": row.name,
                "width": row.width,
                "file": row.file.name,
                "found": row.path is not None,
                "bundled": row.bundled,
                "path": None if row.path is None else str(row.path),
                "bytes": None if row.path is None else row.path.stat().st_size,
                "published_bytes": None if usual is None else usual.size,
                "sha256": [form.sha256 for form in row.file.published],
                "what": row.file.what,
                "source": row.file.source,
                "licence": row.file.licence,
            }
        )


# --------------------------------------------------------------------------------------- the check


def _check(names: list[str], args: argparse.Namespace, pretrain_dir: Path) -> int:
    from svc.config import encoder_paths
    from svc.devices import resolve_device
    from svc.speech.locate import locate_encoder

    if args.encoder_path is not None and len(args.check) != 1:
        raise ConfigError("--encoder_path goes with one encoder: add  --check ID")
    own = encoder_paths(names[0], args.encoder_path) if args.encoder_path is not None else {}
    # All are looked for before the first is read.
    files = {name: locate_encoder(name, own, pretrain_dir) for name in names}
    device = resolve_device(args.device)
    checksums: dict[Path, str] = {}
    good = True
    for name, paths in files.items():
        report: dict[str, Any] = {"id": name, "ok": True, "device": str(device)}
        report["precision"] = args.precision
        report["paths"] = {part: str(path) for part, path in paths.items()}
        try:
            report["checksum"] = _compare(paths, own, checksums)
            report |= _try(name, paths, device, args.precision)
        except SvcError as error:
            report |= {"ok": False, "error": " ".join(str(error).split())}
        good = good and report["ok"]
        print(json.dumps(report) if args.json else _words(report), flush=True)
    return 0 if good else 1


def _compare(
    paths: Mapping[str, Path], own: Mapping[str, Path], known: dict[Path, str]
) -> dict[str, str]:
    """Say of each part's file whether it is as published; `known` saves reading one twice.

    Raises CheckpointError for a default file that is not.
    """
    from svc.errors import CheckpointError
    from svc.pretrained import WHISPER_TINY_ASSET, file_of, verify

    found = {}
    for part, path in paths.items():
        bundled = path.name == WHISPER_TINY_ASSET.name
        file = WHISPER_TINY_ASSET if bundled else file_of(part)
        if path not in known:
            comparable = path.is_file() and file.published
            difference = verify(path, file) if comparable else "nothing to compare with"
            if comparable and difference is not None and part not in own:
                raise CheckpointError(
                    f"{path} is not as published: {difference}; copy or download it again, or name"
                    f" a file of your own with --encoder_path {path}"
                )
            known[path] = "as published" if difference is None else "no published checksum"
        found[part] = known[path]
    return found


def _try(
    name: str, paths: Mapping[str, Path], device: torch.device, precision: str
) -> dict[str, Any]:
    """Load one encoder and run it."""
    from svc.speech import build_speech_encoder
    from svc.speech.trial import try_encoder

    begin = time.perf_counter()
    encoder = build_speech_encoder(name, device=device, path=paths, precision=precision)
    loading = time.perf_counter() - begin
    trial = try_encoder(encoder)
    return {
        "width": trial.width,
        "frames": trial.frames,
        "seconds": round(trial.seconds, 4),
        "load_seconds": round(loading, 3),
    }


def _words(report: Mapping[str, Any]) -> str:
    if not report["ok"]:
        return f"{report['id']}: FAILED: {report['error']}"
    files = ", ".join(
        f"{Path(report['paths'][part]).name} {state}" for part, state in report["checksum"].items()
    )
    return (
        f"{report['id']}: ok: {report['width']} wide, {report['frames']} frames of one second in"
        f" {report['seconds']:.2f} s on {report['device']} ({report['precision']}), loaded in"
        f" {report['load_seconds']:.1f} s; {files}"
    )
