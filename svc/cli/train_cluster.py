"""`svc train-cluster`: k-means centres of the units of each speaker."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from svc.cli.options import add_argument, add_device, add_seed
from svc.cli.progress import progress_bar
from svc.cli.report import count, left_out
from svc.errors import ConfigError

if TYPE_CHECKING:
    from svc.training.clusters import ClusterReport

NAME = "train-cluster"
HELP = "compute k-means centres of each speaker's units"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the original's train_cluster.py (spec_cluster_index 2) and ours."""
    add_argument(
        parser, "--dataset", type=Path, default=Path("./dataset/44k"), metavar="DIR",
        help="one sub-folder per voice of clips with features, as svc preprocess leaves them "
        "(default: %(default)s)",
    )  # fmt: skip
    add_argument(
        parser, "--output", type=Path, default=Path("logs/44k"), metavar="DIR",
        help="the centres go to DIR/kmeans_K.pt (default: %(default)s)",
    )  # fmt: skip
    add_argument(
        parser, "-c", "--config", type=Path, default=Path("configs/config.json"), metavar="FILE",
        help="says which encoder made features that do not say so; need not be there "
        "(default: %(default)s)",
    )  # fmt: skip
    add_argument(
        parser, "--speakers", nargs="+", metavar="NAME",
        help="compute only these; the others of an earlier file stay (default: all)",
    )  # fmt: skip
    add_argument(
        parser, "--k", type=int, default=10_000, metavar="K",
        help="centres of a voice, or as many as it has different frames (default: %(default)s)",
    )  # fmt: skip
    add_argument(
        parser, "--full", action="store_true",
        help="move the centres once per pass over all frames, until that brings nothing (Lloyd's "
        "algorithm); up to six times slower, and hardly better",
    )  # fmt: skip
    add_argument(
        parser, "--batch_size", type=int, default=4096, metavar="N",
        help="frames after which centres move, without --full (default: %(default)s)",
    )  # fmt: skip
    add_argument(
        parser, "--max_iter", type=int, metavar="N",
        help="passes over all frames at most (default: 10, with --full 300)",
    )  # fmt: skip
    add_argument(parser, "--gpu", action="store_true", help="the same as --device cuda")
    add_device(parser)
    add_seed(parser, 0)


def run(args: argparse.Namespace) -> int:
    """Compute and write the centres; returns 0."""
    device = args.device
    if args.gpu:
        if device is not None and not device.lower().startswith("cuda"):
            raise ConfigError(
                f"--gpu and --device {device} contradict each other; give one of them"
            )
        device = device or "cuda"

    from svc.training.clusters import ClusterOptions, train_clusters

    options = ClusterOptions(
        dataset=args.dataset,
        output=args.output,
        config=args.config,
        speakers=tuple(args.speakers) if args.speakers is not None else None,
        device=device,
        k=args.k,
        seed=args.seed,
        batch_size=args.batch_size,
        max_iter=args.max_iter,
        full=args.full,
    )
    with progress_bar("train-cluster") as progress:
        report = train_clusters(options, progress)
    _print_report(report, args.k)
    return 0


def _print_report(report: ClusterReport, k: int) -> None:
    facts = report.facts
    for item in report.left_out:
        print(left_out(item.path, item.reason))
    for name in report.built:
        speaker = facts.speakers[name]
        remains = speaker.inertia / speaker.spread if speaker.spread else 0.0
        print(
            f"{name}: {count(speaker.rows, 'frame')}, {count(speaker.k, 'centre')}, inertia "
            f"{speaker.inertia:.6g}, {remains:.1%} of the variance"
        )
        if speaker.k < k:
            print(f"note: {name} has only {count(speaker.k, 'different frame')}, each is a centre")
    if report.kept:
        print(f"as before: {', '.join(report.kept)}")
    if facts.encoder is None:
        print(
            "note: nothing says which encoder made the units, so the centres are only checked for "
            "their width when they are used"
        )
    size = report.path.stat().st_size / 1e6
    voices = count(len(report.built) + len(report.kept), "voice")
    print(f"centres of {voices} in {report.path}, {size:.1f} MB")
