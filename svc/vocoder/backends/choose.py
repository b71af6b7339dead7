"""Which engine computes a generator.

Measured on one AVX-512 core with AMX (torch 2.13, OpenVINO 2026.4, onnxruntime 1.31), default generator,
5 s of audio, all in turns, times as fast as the net as it is trained (weight norm, conv1d, float32):

| | speed | error below the voice |
|---|---:|---:|
| torch, weight norm folded | 1.1 | |
| torch, settled (`svc.vocoder.settle`), fp32 | 1.4 | 117-128 dB |
| OpenVINO, fp32 | 1.2 | 115-126 dB |
| onnxruntime, fp32 | 0.9 | |
| torch, settled, bf16 | 3.2 | 35-45 dB |
| OpenVINO, bf16, its last stages fp32 | 2.1 | 45-55 dB |
| OpenVINO, bf16 throughout | 2.4 | 23-34 dB |

So torch is what "auto" takes, everywhere. OpenVINO compiled for one length is as fast as for any. These
are times of a length that was met before; windows of a song seldom are, hence `svc.vocoder.backends.blocks`.
torch.compile for all lengths makes the settled net slower on this CPU (0.8 times), after two minutes of
compiling: it is meant for GPUs. To record the graph of a snake generator takes half a minute. The error
is that of a trained voice on real singing (see `svc.conversion.precision`).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from svc.devices import PRECISIONS, inference_dtype, precision_dtype
from svc.errors import ConfigError, import_extra
from svc.vocoder.backends.base import Decoder, GeneratorPart, GraphGenerator
from svc.vocoder.backends.blocks import BlockGenerator, Sing
from svc.vocoder.generator import Generator
from svc.vocoder.settle import settle_generator

GENERATOR_BACKENDS = ("torch", "onnx", "openvino")


def choose_backend(wanted: str, device: torch.device) -> str:
    """Return one of `GENERATOR_BACKENDS` for what was asked for.

    Args:
        wanted: one of them, or "auto".
        device: where the voice's nets are.

    Raises:
        ConfigError: an unknown name, or an engine that does not compute on that device.
    """
    if wanted == "auto":
        return "torch"
    if wanted not in GENERATOR_BACKENDS:
        raise ConfigError(
            f'--backend "{wanted}" is unknown: choose auto, {", ".join(GENERATOR_BACKENDS)}'
        )
    if wanted != "torch" and device.type != "cpu":
        raise ConfigError(
            f"--backend {wanted} sings a checkpoint on the CPU only, and this runs on {device}: use "
            "--device cpu, or --backend torch"
        )
    return wanted


def check_backend(backend: str, precision: str, device: torch.device) -> None:
    """See that an engine is there and computes in a precision, before anything is loaded.

    Args:
        backend: one of `GENERATOR_BACKENDS`.
        precision: a name of `svc.devices.PRECISIONS`.
        device: where the voice's nets are.

    Raises:
        MissingDependencyError: a package is not installed; says how to.
        ConfigError: the engine or the device cannot do it.
        DeviceError: the CPU has no units for it.
    """
    precision_dtype(precision)
    if backend == "torch":
        inference_dtype(precision, device, flag="--precision")
    elif backend == "openvino":
        from svc.vocoder.backends.openvino import EXTRA, open_core

        open_core(precision)
        import_extra("onnx", EXTRA)
    else:
        if precision != PRECISIONS[0]:
            raise ConfigError(
                f"--precision {precision} and --backend onnx: onnxruntime computes in fp32; use "
                "--precision fp32, or another back end"
            )
        from svc.onnx_runtime import EXTRA as ONNX

        import_extra("onnx", ONNX)
        import_extra("onnxruntime", ONNX)


def make_decoder(
    generator: Generator,
    backend: str,
    precision: str,
    *,
    compiled: bool = False,
    reach: int | None = None,
) -> Decoder:
    """Give a generator to an engine.

    Args:
        generator: for inference, on its device, weight norm folded. With torch it is changed in
            place; another engine copies what it needs.
        backend: one of `GENERATOR_BACKENDS`, checked.
        precision: of all but the harmonic source, the first convolution and the last stages.
        compiled: let torch.compile make kernels for it.
        reach: frames to each side that it hears; where they are given, it sings in blocks on a CPU.

    Returns:
        What sings in its place.

    Raises:
        SvcError: the engine cannot run it.
    """
    sing: Sing
    if backend == "torch":
        settle_generator(generator, precision_dtype(precision))
        if compiled:
            from svc.vocoder.backends.compiled import CompiledGenerator

            return cast("Decoder", CompiledGenerator(generator))
        decoder: nn.Module = generator
        sing = GeneratorPart(generator, "whole")
    else:
        decoder = engine = _engine(generator, backend, precision)
        sing = engine.sing
    if reach is None or next(generator.parameters()).device.type != "cpu":
        return cast("Decoder", decoder)
    return BlockGenerator(sing, generator.m_source, hop_length=generator.hop_length, reach=reach)


def _engine(generator: Generator, backend: str, precision: str) -> GraphGenerator:
    if backend == "onnx":
        from svc.vocoder.backends.onnx import OnnxGenerator

        return OnnxGenerator(generator)
    from svc.vocoder.backends.openvino import OpenvinoGenerator

    return OpenvinoGenerator(generator, precision)
