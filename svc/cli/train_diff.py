"""``svc train-diff``: train a diffusion model."""

from __future__ import annotations

import argparse
from pathlib import Path

from svc.cli.options import add_argument, add_device, add_gpus, add_seed
from svc.cli.training_flags import (
    add_limits,
    add_max_bad_steps,
    add_threads,
    add_values,
    batch_size,
    summary,
)

NAME = "train-diff"
HELP = "train a diffusion model"
_EXIT_CODES = {"SIGHUP": 129, "SIGINT": 130, "SIGTERM": 143}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flag of the original's train_diff.py and ours."""
    add_argument(
        parser, "-c", "--config", type=Path, default=Path("configs/diffusion.yaml"), metavar="FILE",
        help="config of the diffusion model, as svc preprocess writes it (default: %(default)s)",
    )  # fmt: skip
    add_argument(
        parser, "--expdir", type=Path, metavar="FOLDER",
        help="folder of the run; a base model lies there as model_0.pt (default: the config's "
        "env.expdir)",
    )  # fmt: skip
    add_device(parser)
    add_gpus(parser, "train together, --batch_size clips each")
    add_threads(parser)
    add_argument(
        parser, "--num_workers", type=int, metavar="N",
        help="loader processes (default: the config's, where they are of use)",
    )  # fmt: skip
    add_limits(parser)
    values = add_values(
        parser,
        (
            ("--batch_size", batch_size, "clips per step; auto: found out"),
            ("--learning_rate", float, "before it decays"),
            ("--log_interval", int, "steps between log lines"),
            ("--eval_interval", int, "steps between validations, each with a save"),
        ),
    )
    add_max_bad_steps(values, 10)
    add_seed(values, 1234)
    saves = parser.add_argument_group("saves and validations")
    add_argument(
        saves, "--keep", type=int, default=1, metavar="N",
        help="newest saves to keep besides every train.interval_force_save steps and the best one; "
        "0 keeps all (default: %(default)s)",
    )  # fmt: skip
    add_argument(
        saves, "--val_samples", type=int, default=4, metavar="N",
        help="held-out clips that are sung and drawn at each validation (default: %(default)s)",
    )  # fmt: skip
    start = parser.add_argument_group("where to begin")
    add_argument(
        start, "--resume", default="auto", metavar="auto|never|PATH",
        help="auto: go on from the newest model of the run; never: begin again, earlier models are "
        "moved aside; PATH: go on from this model_<step>.pt (default: %(default)s)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Train; returns 0, or 128 and the number of the signal that ended it (the state is saved too)."""
    from svc.cli.progress import progress_bar
    from svc.training.diffusion import train
    from svc.training.diffusion_options import DiffusionTrainOptions

    options = DiffusionTrainOptions(
        config=args.config,
        expdir=args.expdir,
        device=args.device,
        threads=args.threads,
        max_steps=args.max_steps,
        max_minutes=args.max_minutes,
        patience=args.patience,
        epochs=args.epochs,
        seed=args.seed,
        resume=args.resume,
        num_workers=args.num_workers,
        batch_size=args.batch_size,
        max_bad_steps=args.max_bad_steps,
        learning_rate=args.learning_rate,
        log_interval=args.log_interval,
        eval_interval=args.eval_interval,
        keep=args.keep,
        val_samples=args.val_samples,
    )
    with progress_bar("load") as loading, progress_bar("train-diff", rate=False) as progress:
        result = train(options, progress=progress, loading=loading)
    print(summary(result, "; "))
    if result.trouble is not None:
        print(result.trouble)
    if result.model is not None:
        print(f"newest model: {result.model}")
    if result.best is not None:
        print(f"best on held-out clips: {result.best}")
    return _EXIT_CODES.get(result.reason, 0)
