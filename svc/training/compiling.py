"""Training with compiled nets: what ``svc train --compile`` does.

torch.compile joins the small operations between convolutions into few kernels. Only what always sees
one shape is compiled, the decoder and the discriminator, which are given windows: the encoders and
the flow are given clips of every length. State dicts, random draws and what a step computes (but for
rounding) stay as they are.

The compiler keeps what it has made in a folder of its own (TORCHINDUCTOR_CACHE_DIR), so a run that
goes on starts faster.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from svc.errors import MissingDependencyError, SvcError
from svc.synthesizer.model import Synthesizer
from svc.vocoder.discriminator import Discriminator

_WITHOUT = "or leave out --compile"


def check_compiler(device: torch.device) -> None:
    """Compile something small, so that what is missing is found before the nets are built.

    Args:
        device: where the nets will be.

    Raises:
        MissingDependencyError: there is no compiler; says which is needed.
        SvcError: it does not work.
    """
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise MissingDependencyError(
                f"--compile on {device} needs the Python package triton: install it, {_WITHOUT}"
            )
        _require("CC", "gcc", "clang", "cc", what="a C compiler")
    else:
        names = {"win32": ("cl",), "darwin": ("clang++",)}.get(sys.platform, ("g++",))
        _require("CXX", *names, what="a C++ compiler")
    try:
        torch.compile(_trial)(torch.ones(8, device=device))
    except Exception as error:  # the compiler's own, and those of the programs it starts
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise SvcError(
            f"--compile does not work here ({lines[0]}): repair the compiler, {_WITHOUT}"
        ) from error


def _trial(x: Tensor) -> Tensor:
    return torch.sin(x) + 1


def _require(variable: str, *names: str, what: str) -> None:
    """Look for a program: the one that an environment variable names, or one of `names`."""
    told = os.environ.get(variable, "").split()
    wanted = told[:1] or list(names)
    if not any(shutil.which(name) for name in wanted):
        raise MissingDependencyError(
            f"--compile needs {what} and there is no {' or '.join(wanted)} on the PATH: install "
            f"one, set {variable} to it, {_WITHOUT}"
        )


def compile_nets(generator: Synthesizer, discriminator: Discriminator) -> str:
    """Have decoder and discriminator compiled when they are first called, in place.

    Args:
        generator: of a voice; every size of batch is compiled for itself.
        discriminator: its own step and the generator's are compiled each for itself. Real and fake
            are joined and parted outside: inside, torch 2.13 makes NaN of their gradients on a CPU
            in bfloat16.

    Returns:
        A line for the log.
    """
    generator.dec.compile(dynamic=False)
    discriminator.discriminators.compile(dynamic=False)
    return "decoder and discriminator are compiled in the first steps, which takes minutes"


def uncompiled(generator: Synthesizer) -> AbstractContextManager[object]:
    """Return the context in which a net runs as it is written: for songs, which have any length."""
    if generator.dec._compiled_call_impl is None:
        return nullcontext()
    context: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return context
