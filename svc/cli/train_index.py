"""`svc train-index`: a retrieval index of the units of each speaker."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from svc.cli.options import add_argument, add_device, add_seed
from svc.cli.progress import progress_bar
from svc.cli.report import count, left_out

if TYPE_CHECKING:
    from svc.training.index import IndexReport

NAME = "train-index"
HELP = "build a retrieval index of each speaker's units"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the original's train_index.py (spec_cluster_index 4) and ours."""
    add_argument(
        parser, "--root_dir", type=Path, default=Path("dataset/44k"), metavar="DIR",
        help="one sub-folder per voice of clips with features, as svc preprocess leaves them "
        "(default: %(default)s)",
    )  # fmt: skip
    add_argument(
        parser, "-c", "--config", type=Path, default=Path("configs/config.json"), metavar="FILE",
        help="config of the voice, which lists the speakers (default: %(default)s)",
    )  # fmt: skip
    add_argument(
        parser, "--output_dir", type=Path, default=Path("logs/44k"), metavar="DIR",
        help="the index goes to DIR/feature_index/ (default: %(default)s)",
    )  # fmt: skip
    add_argument(
        parser, "--speakers", nargs="+", metavar="NAME",
        help="build only these; the others of an earlier index stay (default: all of the config)",
    )  # fmt: skip
    add_argument(
        parser, "--legacy", action="store_true",
        help="also write DIR/feature_and_index.pkl for so-vits-svc 4.1",
    )  # fmt: skip
    add_argument(
        parser, "--max_rows", type=int, default=200_000, metavar="N",
        help="a speaker with more frames than this is reduced to 10000 k-means centres, or N where "
        "that is less (default: %(default)s, about an hour)",
    )  # fmt: skip
    add_argument(
        parser, "--nprobe", type=int, default=1, metavar="N",
        help="lists searched per frame unless svc infer is told otherwise: more find nearer "
        "neighbours and take longer (default: %(default)s, as in the original)",
    )  # fmt: skip
    add_device(parser)
    add_seed(parser, None)


def run(args: argparse.Namespace) -> int:
    """Build the index; returns 0."""
    from svc.training.index import IndexOptions, train_index

    options = IndexOptions(
        config=args.config,
        root_dir=args.root_dir,
        output_dir=args.output_dir,
        speakers=tuple(args.speakers) if args.speakers is not None else None,
        seed=args.seed,
        max_rows=args.max_rows,
        nprobe=args.nprobe,
        device=args.device,
        legacy=args.legacy,
    )
    with progress_bar("train-index") as progress:
        report = train_index(options, progress)
    _print_report(report)
    return 0


def _print_report(report: IndexReport) -> None:
    for path in report.without_features:
        print(left_out(path, "no features; run  svc preprocess"))
    for name, entry in report.record.speakers.items():
        frames = f"{count(entry.source_rows, 'frame')}"
        if entry.reduced:
            frames += f", reduced to {count(entry.rows, 'centre')}"
        lists = f"in {count(entry.n_ivf, 'list')}" if entry.n_ivf else "without lists"
        stays = "" if name in report.built else " (as before)"
        print(f"{name}: {frames} {lists}{stays}")
    print(
        f"index of {count(len(report.record.speakers), 'voice')} in {report.folder}, "
        f"{report.n_bytes / 1e6:.1f} MB"
    )
    if report.legacy is not None:
        print(f"for so-vits-svc 4.1: {report.legacy}")
    if report.outdated is not None:
        print(f"note: {report.outdated} is of an earlier index; --legacy writes it anew")
