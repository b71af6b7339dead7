"""``svc train-vocoder``: train or fine-tune the vocoder of diffusion voices."""

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

NAME = "train-vocoder"
HELP = "train or fine-tune the vocoder of diffusion voices"
_EXIT_CODES = {"SIGHUP": 129, "SIGINT": 130, "SIGTERM": 143}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add_argument(
        parser, "--dataset", type=Path, default=Path("dataset/44k"), metavar="PATH",
        help="clips as svc preprocess leaves them: a folder with one sub-folder per voice, the "
        "folder of one voice, or a file list (default: %(default)s)",
    )  # fmt: skip
    add_argument(
        parser, "-o", "--output", type=Path, default=Path("logs/vocoder"), metavar="FOLDER",
        help="folder of the run; the vocoder to sing with is FOLDER/model (default: %(default)s)",
    )  # fmt: skip
    add_argument(
        parser, "-c", "--config", type=Path, metavar="FILE",
        help="config.json of a vocoder (default: the run's own where it goes on, else that of "
        "--base, else configs/template_vocoder.json)",
    )  # fmt: skip
    add_device(parser)
    add_gpus(parser, "train together, --batch_size crops each")
    add_argument(
        parser, "--precision", choices=("fp32", "bf16", "fp16"),  # svc.devices.PRECISIONS
        help="of the nets; fp16 needs a CUDA device (default: the config's)",
    )  # fmt: skip
    add_threads(parser)
    held = parser.add_argument_group("clips held out, on which each evaluation is made")
    add_argument(
        held, "--validation", type=Path, metavar="PATH",
        help="a list or folder of them, as filelists/val.txt (default: --val_clips of --dataset)",
    )  # fmt: skip
    add_argument(
        held, "--val_clips", type=int, default=2, metavar="N",
        help="how many of --dataset, the last of the list (default: %(default)s)",
    )  # fmt: skip
    add_limits(parser)
    values = add_values(
        parser,
        (
            ("--batch_size", batch_size, "crops per step; auto: found out"),
            ("--segment_frames", int, "frames of a crop"),
            ("--lr", float, "learning rate of both nets"),
            ("--log_interval", int, "steps between log lines"),
            (
                "--eval_interval",
                int,
                "steps between evaluations, each with a checkpoint and an export",
            ),
            ("--keep", int, "newest checkpoints to keep; 0 keeps all"),
        ),
    )
    add_max_bad_steps(values, None)
    add_seed(values, None)
    start = parser.add_argument_group("where to begin")
    add_argument(
        start, "--base", type=Path, metavar="PATH",
        help="fine-tune this vocoder: its folder or weights, as pretrain/nsf_hifigan; not read "
        "where a run goes on",
    )  # fmt: skip
    add_argument(
        start, "--resume", default="auto", metavar="auto|never|PATH",
        help="auto: go on from the newest checkpoint of the run; never: begin again, earlier "
        "checkpoints are moved aside; PATH: go on from this V_<step>.pth (default: %(default)s)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Train; returns 0, or 128 and the number of the signal that ended it (the state is saved too)."""
    from svc.cli.progress import progress_bar
    from svc.training.vocoder import train_vocoder
    from svc.training.vocoder_options import VocoderTrainOptions

    options = VocoderTrainOptions(
        dataset=args.dataset,
        output=args.output,
        config=args.config,
        base=args.base,
        validation=args.validation,
        val_clips=args.val_clips,
        device=args.device,
        precision=args.precision,
        threads=args.threads,
        max_steps=args.max_steps,
        max_minutes=args.max_minutes,
        patience=args.patience,
        epochs=args.epochs,
        seed=args.seed,
        resume=args.resume,
        log_interval=args.log_interval,
        eval_interval=args.eval_interval,
        batch_size=args.batch_size,
        max_bad_steps=args.max_bad_steps,
        segment_frames=args.segment_frames,
        learning_rate=args.lr,
        keep=args.keep,
    )
    with progress_bar("train-vocoder", rate=False) as progress:
        result = train_vocoder(options, progress=progress)
    print(summary(result))
    if result.trouble is not None:
        print(result.trouble)
    if result.generator is not None:
        print(f"newest checkpoint: {result.generator}")
    if result.exported is not None:
        print(f"vocoder to sing with: {result.exported}")
    if result.best is not None and result.best_score is not None:
        best = result.best_score
        print(f"best on held-out clips: {result.best} (step {best.step}, mel {best.mel:.4g})")
    return _EXIT_CODES.get(result.reason, 0)
