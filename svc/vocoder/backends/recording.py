"""A generator as an ONNX graph in memory, whole or in two parts, for the engines that run one.

All axes that vary are free: batch, frames, and the frames of the speaker, 1 or as many as there are.
"""

from __future__ import annotations

import io
import logging
import warnings

import torch

from svc.errors import ExportError, import_extra
from svc.vocoder.backends.base import GeneratorPart, Part
from svc.vocoder.generator import Generator

OPSET = 17
_FRAMES = 24  # of the run that is recorded


def record_generator(generator: Generator, part: Part = "whole", *, extra: str) -> bytes:
    """Record a generator.

    Args:
        generator: for inference, on the CPU, weight norm folded and not settled.
        part: which part of it; "begin" and "finish" after each other are the whole.
        extra: of this project, that brings what is needed.

    Returns:
        The graph in ONNX's format. Inputs `x` (B, C, T), `excitation` (B, 1, N · hop) and, but for
        "finish", `g` (B, G, 1 or N); output `result`.

    Raises:
        MissingDependencyError: onnx is not installed.
        ExportError: this version of torch cannot record the net.
    """
    import_extra("onnx", extra)
    weight = generator.conv_pre.bias
    x = torch.zeros(1, generator.conv_pre.plain_weight().shape[1], _FRAMES, dtype=weight.dtype)
    excitation = torch.zeros(1, 1, _FRAMES * generator.hop_length, dtype=weight.dtype)
    inputs = {"x": x, "excitation": excitation}
    if generator.cond is not None:
        inputs["g"] = torch.zeros(1, generator.cond.in_channels, 1, dtype=weight.dtype)
    if part == "finish":
        with torch.no_grad():
            inputs = {"x": generator.begin(*inputs.values()), "excitation": excitation}
    axes = {name: {0: "batch", 2: f"{name}_length"} for name in (*inputs, "result")}
    graph = io.BytesIO()
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.CRITICAL)  # the recorder tells of its age
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                GeneratorPart(generator, part).eval(),
                tuple(inputs.values()),
                graph,  # type: ignore[arg-type]
                input_names=list(inputs),
                output_names=["result"],
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,
            )
    except Exception as error:  # the recorder raises whatever its parts do
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(
            f"torch {torch.__version__} cannot record the generator as a graph: {line[:300]}; use "
            "--backend torch"
        ) from error
    finally:
        log.setLevel(level)
    return graph.getvalue()
