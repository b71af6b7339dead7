"""``svc train``: train a voice."""

from __future__ import annotations

import argparse
from pathlib import Path

from svc.cli.options import add_argument, add_device, add_gpus, add_seed
from svc.cli.training_flags import (
    add_limits,
    add_max_bad_steps,
    add_precision,
    add_threads,
    add_values,
    batch_size,
    summary,
)

NAME = "train"
HELP = "train a voice"
_EXIT_CODES = {"SIGHUP": 129, "SIGINT": 130, "SIGTERM": 143}


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
    add_gpus(parser, "train together, --batch_size clips each")
    add_threads(parser, "; 1 suits the quick template")
    add_limits(parser)
    values = add_values(
        parser,
        (
            ("--batch_size", batch_size, "clips per step; auto: found out"),
            ("--learning_rate", float, "of both nets"),
            ("--log_interval", int, "steps between log lines"),
            ("--eval_interval", int, "steps between evaluations, each with a checkpoint"),
            ("--keep", int, "newest checkpoints to keep; 0 keeps all"),
        ),
    )
    add_max_bad_steps(values, None)
    add_seed(values, None)
    add_argument(
        values, "--no_ema", action="store_true",
        help="keep no average of the weights: validations and G_best.pth are of the plain ones",
    )  # fmt: skip
    add_precision(values)
    add_argument(
        values, "--compile", action="store_true",
        help="compile decoder and discriminator: faster steps after minutes at the start; needs a "
        "C++ compiler",
    )  # fmt: skip
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
    """Train; returns 0, or 128 and the number of the signal that ended it (the state is saved too)."""
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
        max_bad_steps=args.max_bad_steps,
        learning_rate=args.learning_rate,
        keep=args.keep,
        patience=args.patience,
        ema=not args.no_ema,
        precision=args.precision,
        compile=args.compile,
        force=args.force,
        run_root=args.run_root,
    )
    with progress_bar("train", rate=False) as progress:
        result = train(options, progress=progress)
    print(summary(result))
    if result.trouble is not None:
        print(result.trouble)
    if result.generator is not None:
        print(f"newest checkpoint: {result.generator}")
    if result.best is not None and result.record is not None:
        record = result.record
        print(f"best on held-out clips: {result.best} (step {record.step}, mel {record.score:.4g})")
    return _EXIT_CODES.get(result.reason, 0)
