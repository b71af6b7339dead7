"""Arguments that several sub-commands share."""

from __future__ import annotations

import argparse
from typing import Any

from svc.errors import ConfigError

F0_THRESHOLD_HELP = (
    "confidence below which crepe, rmvpe, fcpe and swift call a frame unvoiced (default: 0.05, of "
    "swift 0.5)"
)


def add_argument(
    parser: argparse._ActionsContainer, *names: str, **options: Any
) -> argparse.Action:
    """Add an argument whose long flags work with hyphens and with underscores.

    The original's scripts spell ``--clean_names``; most tools today spell ``--clean-names``. Both are accepted, and the
    value is stored under the underscore name.

    Args:
        parser: a parser or an argument group.
        names: flags as for `argparse`, long ones spelt with underscores.
        options: passed on to `argparse`.

    Returns:
        The action.
    """
    spellings: list[str] = []
    for name in names:
        spellings.append(name)
        if name.startswith("--") and "_" in name:
            spellings.append("--" + name[2:].replace("_", "-"))
    return parser.add_argument(*spellings, **options)


def add_device(parser: argparse._ActionsContainer) -> None:
    """Add ``-d/--device``."""
    add_argument(
        parser,
        "-d",
        "--device",
        default=None,
        metavar="NAME",
        help="cpu, cuda, cuda:1, mps, xpu; default: the best one there is",
    )


def add_gpus(parser: argparse._ActionsContainer, what: str) -> None:
    """Add ``--gpus``; `what` the processes do goes into its help."""
    add_argument(
        parser,
        "--gpus",
        metavar="N|all",
        help=f"processes that {what}, each on a GPU of its own, or with --device cpu on the CPU "
        "(default: 1); several machines: torchrun",
    )


def add_encoder_precision(parser: argparse._ActionsContainer) -> None:
    """Add ``--encoder_precision``."""
    add_argument(
        parser,
        "--encoder_precision",
        choices=("fp32", "bf16", "fp16"),  # svc.devices.PRECISIONS, which would import torch
        default="fp32",
        help="of the speech encoder; bf16 and fp16 are faster on a GPU and take half its memory, and "
        "move the units by about 1 %% and 0.1 %% (default: fp32)",
    )


def f0_predictor_help(default: str) -> str:
    """Help of ``--f0_predictor``."""
    from svc.config import F0_PREDICTORS  # not at the top: it loads yaml, and --help is instant

    return f"{', '.join(F0_PREDICTORS)}, or ensemble:A+B+C of those (default: {default})"


def f0_predictor(text: str) -> str:
    """Check a value of ``--f0_predictor`` as `argparse` does."""
    from svc.config import check_f0_predictor

    try:
        return check_f0_predictor(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_seed(parser: argparse._ActionsContainer, default: int | None) -> None:
    """Add ``--seed``."""
    text = f"default: {default}" if default is not None else "default: the config's"
    add_argument(
        parser,
        "--seed",
        type=int,
        default=default,
        metavar="N",
        help=f"start of every random draw; the same seed gives the same result ({text})",
    )


class HelpFormatter(argparse.HelpFormatter):
    """Help that lists each flag once: the underscore spelling stands for both."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=100)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        shown = [
            name
            for name in action.option_strings
            if not (
                name.startswith("--")
                and name[2:].replace("-", "_") != name[2:]
                and "--" + name[2:].replace("-", "_") in action.option_strings
            )
        ]
        value = (
            ""
            if action.nargs == 0
            else " " + self._format_args(action, self._get_default_metavar_for_optional(action))
        )
        return ", ".join(shown) + value
