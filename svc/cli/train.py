"""``svc train``: train a voice."""

from __future__ import annotations

import argparse
from pathlib import Path

from svc.cli.options import add_argument, add_device, add_seed
from svc.cli.training_flags import add_limits, add_threads, add_values, summary

NAME = "train"
HELP = "train a voice"
_EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the original's train.py and ours."""
    add_argument(
        parser, "-c", "--config", type=Path, default=Path("./configs/config.json"), metavar="FILE",
        help="config of the voice, as svc preprocess writes it (default: %(default)s)",
    )  # fmt: skip
    add_argument(
        parser, "-m", "--model", required=True, metavar="NAME",
        help="name of the run: checkpoints and logs go to logs/NAME; a base model lies there as "
        "G_0.pth, D_0.pth",
    )  # fmt: skip
    add_device(parser)
    add_threads(parser, "; 1 suits the quick template")
    add_limits(parser)
    values = add_values(
        parser,
        (
            ("--batch_size", int, "clips per step"),
            ("--learning_rate", float, "of both nets"),
            ("--log_interval", int, "steps between log lines"),
            ("--eval_interval", int, "steps between evaluations, each with a checkpoint"),
        ),
    )
    add_seed(values, None)
    start = parser.add_argument_group("where to begin")
    add_argument(
        start, "--resume", default="auto", metavar="auto|never|PATH",
        help="auto: go on from the newest checkpoint of the run; never: begin again, earlier "
        "checkpoints are "
        "moved aside; PATH: go on from this G_<step>.pth (default: %(default)s)",
    )  # fmt: skip
    add_argument(
        start, "--force", action="store_true",
        help="go on although checkpoint and config differ; what does not fit begins new",
    )  # fmt: skip
    add_argument(
        start, "--run_root", type=Path, default=Path("logs"), metavar="FOLDER",
        help="folder of all runs (default: %(default)s)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Train; returns 0, or 130 or 143 when SIGINT or SIGTERM ended it (the state is saved too)."""
    from svc.cli.progress import progress_bar
    from svc.training.options import TrainOptions
    from svc.training.synthesizer import train

    options = TrainOptions(
        model=args.model,
        config=args.config,
        device=args.device,
        threads=args.threads,
        max_steps=args.max_steps,
        max_minutes=args.max_minutes,
        epochs=args.epochs,
        seed=args.seed,
        resume=args.resume,
        log_interval=args.log_interval,
        eval_interval=args.eval_interval,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        force=args.force,
        run_root=args.run_root,
    )
    with progress_bar("train") as progress:
        result = train(options, progress=progress)
    print(summary(result))
    if result.generator is not None:
        print(f"newest checkpoint: {result.generator}")
    return _EXIT_CODES.get(result.reason, 0)
