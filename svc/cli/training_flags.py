"""What the commands that train have in common: flags, and the line at the end."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from svc.cli.options import add_argument


class Result(Protocol):
    """What a call of a trainer has done."""

    @property
    def steps_run(self) -> int:
        """Steps of this call."""

    @property
    def seconds(self) -> float:
        """Time it took."""

    @property
    def reason(self) -> str:
        """Why it ended."""

    @property
    def step(self) -> int:
        """Steps in all."""

    @property
    def epoch(self) -> int:
        """Epochs in all."""

    @property
    def losses(self) -> Mapping[str, float]:
        """The last ones, by name."""


def add_threads(parser: argparse._ActionsContainer, advice: str = "") -> None:
    """Add ``--threads``; `advice` goes into its help."""
    text = f"threads on the CPU{advice} (default: one per core)"
    add_argument(parser, "--threads", type=int, metavar="N", help=text)


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add ``--max_steps``, ``--max_minutes``, ``--epochs`` and ``--patience``."""
    limits = parser.add_argument_group("limits (the state is saved at the end, as with Ctrl-C)")
    text = "steps to reach, earlier calls included"
    add_argument(limits, "--max_steps", type=int, metavar="N", help=text)
    add_argument(limits, "--max_minutes", type=float, metavar="M", help="time this call may take")
    text = "last epoch (default: the config's)"
    add_argument(limits, "--epochs", type=int, metavar="N", help=text)
    text = "evaluations without a better score on held-out clips (default: no limit)"
    add_argument(limits, "--patience", type=int, metavar="N", help=text)


def add_values(
    parser: argparse.ArgumentParser, values: Iterable[tuple[str, Callable[[str], object], str]]
) -> argparse._ArgumentGroup:
    """Add flags ``(name, type, help)`` that stand for values of the config; return their group."""
    group = parser.add_argument_group("instead of the config's values")
    for name, kind, text in values:
        add_argument(group, name, type=kind, metavar="N", help=text)
    return group


def batch_size(text: str) -> int | str:
    """Read ``--batch_size``: a number or ``auto``."""
    return text if text == "auto" else int(text)


def add_max_bad_steps(parser: argparse._ActionsContainer, default: int | None) -> None:
    """Add ``--max_bad_steps``; a default of None is the config's."""
    text = (
        "steps in a row without a finite loss, all of them skipped, after which the run goes back"
    )
    shown = "the config's, or 10" if default is None else default
    add_argument(
        parser, "--max_bad_steps", type=int, metavar="N", default=default,
        help=f"{text} to its newest checkpoint (default: {shown})",
    )  # fmt: skip


def add_precision(parser: argparse._ActionsContainer) -> None:
    """Add ``--precision``."""
    add_argument(
        parser, "--precision", choices=("auto", "fp32", "bf16", "fp16"),
        help="of the nets' arithmetic; auto: bf16 where the GPU or CPU has matrix units for it, "
        "else fp32 (default: the config's)",
    )  # fmt: skip


def summary(result: Result, losses: str = "; losses: ") -> str:
    """Say in a line what a call of a trainer has done; `losses` stands before them."""
    speed = f", {result.steps_run / result.seconds:.2f} steps/s" if result.steps_run else ""
    last = ", ".join(f"{name} {value:.4g}" for name, value in result.losses.items())
    return (
        f"{result.steps_run} steps in {result.seconds:.0f} s{speed}; ended by {result.reason} at "
        f"step {result.step}, epoch {result.epoch}" + (f"{losses}{last}" if last else "")
    )
