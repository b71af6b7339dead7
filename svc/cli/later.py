"""Sub-commands that are part of the plan and not of this version: they say so in one line."""

from __future__ import annotations

import argparse

from svc.errors import SvcError

LATER = {
    "train-diff": "train a diffusion model",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: `main` lets any flag of an old command line through to the honest answer."""


def run(args: argparse.Namespace) -> int:
    """Refuse in one line."""
    raise SvcError(
        f"svc {args.command} ({LATER[args.command]}) is not in this version yet;  svc --help  lists "
        "what is"
    )
