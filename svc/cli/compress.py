"""`svc compress`: strip a checkpoint to what singing needs."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from svc.cli.options import add_argument

if TYPE_CHECKING:
    from svc.export.compress import CompressReport, Difference

NAME = "compress"
HELP = "strip a checkpoint to what singing needs: a quarter of its size, an eighth with --half"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the original's compress_model.py (spec_core 8.8) and ours."""
    flag = partial(add_argument, parser)
    text = "the checkpoint, G_<step>.pth"
    flag("-i", "--input", metavar="FILE", type=Path, required=True, help=text)
    text = "default: <input>_release.pth, with --half <input>_release_half.pth"
    flag("-o", "--output", metavar="FILE", type=Path, help=text)
    text = (
        "config of the voice (default: config.json beside the input, else the one inside it, else "
        "configs/config.json)"
    )
    flag("-c", "--config", metavar="FILE", type=Path, help=text)
    flag("-hf", "--half", action="store_true", help="store half precision")
    text = "write .safetensors, which holds no pickle"
    flag("--safetensors", action="store_true", help=text)
    text = "do not let both files sing to measure the difference"
    flag("--no_check", action="store_true", help=text)
    flag("--force", action="store_true", help="replace an output that is there")


def run(args: argparse.Namespace) -> int:
    """Compress; returns 0."""
    from svc.export.compress import CompressOptions, compress

    options = CompressOptions(
        input=args.input,
        output=args.output,
        config=args.config,
        half=args.half,
        safetensors=args.safetensors,
        check=not args.no_check,
        force=args.force,
    )
    report = compress(options)
    before, after = report.bytes_before / 1e6, report.bytes_after / 1e6
    print(f"{args.input} -> {report.output}: {before:.1f} MB -> {after:.1f} MB{_form(report)}")
    if report.was_released:
        print("note: it was compressed already, without posterior encoder")
    if report.difference is not None:
        print(f"check: {_words(report.difference)}")
    print(f"note: svc train does not go on from {report.output.name}; keep the full checkpoint")
    return 0


def _form(report: CompressReport) -> str:
    left_out = f"{report.dropped} tensors of the posterior encoder left out"
    parts = [*(["half precision"] if report.half else []), *([left_out] if report.dropped else [])]
    return f" ({', '.join(parts)})" if parts else ""


def _words(difference: Difference) -> str:
    song = f"{difference.seconds:.0f} s of a made-up song"
    if difference.max_abs == 0:
        return f"{song} sound the same from both, to the last bit"
    return (
        f"{song} differ by at most {difference.max_abs:.2g} of full scale, "
        f"SNR {difference.snr_db:.1f} dB"
    )
