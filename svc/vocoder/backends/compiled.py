"""torch.compile: whether it works here, and a generator that went through it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from typing import Any

import torch
from torch import Tensor, nn

from svc.errors import MissingDependencyError, SvcError
from svc.vocoder.backends.base import GeneratorPart
from svc.vocoder.generator import Generator
from svc.vocoder.source import SourceNoise

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


class CompiledGenerator(nn.Module):
    """A generator that torch.compile makes kernels for when it first sings, one set for all lengths.

    The harmonic source stays outside: its phase is float64.

    Args:
        generator: for inference, on its device, settled.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.hop_length = generator.hop_length
        self.m_source = generator.m_source
        self._net: Any = torch.compile(GeneratorPart(generator, "whole"), dynamic=True)

    def forward(
        self, x: Tensor, f0: Tensor, g: Tensor | None = None, *, random: SourceNoise
    ) -> Tensor:
        """Sing; see `Decoder`."""
        wav: Tensor = self._net(x, self.m_source(f0, random), g)
        return wav
