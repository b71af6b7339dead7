"""The generator on OpenVINO, on the CPU.

In half precision the net is two graphs: the last stages, which would hiss, are a float32 one. Lengths
are free: a compiled graph takes any, and is as fast on it as one that was compiled for it.
Only the runtime of the package is used: its converter would report what it does to its makers.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from svc.errors import DeviceError, SvcError, import_extra
from svc.threads import cpu_threads
from svc.vocoder.backends.base import FloatArray, GraphGenerator, Part
from svc.vocoder.backends.recording import record_generator
from svc.vocoder.generator import Generator

EXTRA = "openvino"

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_CAPABILITIES = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16"}


class OpenvinoGenerator(GraphGenerator):
    """A generator that OpenVINO runs.

    Args:
        generator: for inference, on the CPU, weight norm folded and not settled.
        precision: of all but its last stages, a name of `svc.devices.PRECISIONS`.

    Raises:
        MissingDependencyError: openvino or onnx is not installed.
        DeviceError: this CPU cannot compute in that precision.
        ExportError: this version of torch cannot record the net.
        SvcError: OpenVINO cannot run it.
    """

    def __init__(self, generator: Generator, precision: str = "fp32") -> None:
        super().__init__(generator)
        core = open_core(precision)
        parts: tuple[Part, ...] = ("whole",) if precision == "fp32" else ("begin", "finish")
        self._requests = [
            _compile(
                core,
                record_generator(generator, part, extra=EXTRA),
                "f32" if part == "finish" else _HINTS[precision],
            )
            for part in parts
        ]
        self._lock = threading.Lock()  # a request serves one caller at a time

    def run(self, feed: dict[str, FloatArray]) -> FloatArray:
        """Compute; see `GraphGenerator.run`. Raises SvcError."""
        first, *others = self._requests
        with self._lock:
            try:
                first.infer(feed, share_inputs=True)
                last = first
                for request in others:
                    told = {"x": last.get_output_tensor(0), "excitation": feed["excitation"]}
                    request.infer(told, share_inputs=True)
                    last = request
                return np.array(last.get_output_tensor(0).data, dtype=np.float32)
            except Exception as error:  # OpenVINO's errors have no base class but this
                raise SvcError(
                    f"OpenVINO stopped: {_reason(error)}; use --backend torch"
                ) from error


def open_core(precision: str) -> Any:
    """Start OpenVINO, and see that this CPU has a precision, which would be left out in silence.

    Args:
        precision: a name of `svc.devices.PRECISIONS`.

    Raises:
        MissingDependencyError: openvino is not installed.
        DeviceError: this CPU cannot compute in that precision.
    """
    core = import_extra("openvino", EXTRA).Core()
    if _CAPABILITIES[precision] not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise DeviceError(
            f"--precision {precision} and --backend openvino: this CPU has no units for it; use "
            "--precision fp32"
        )
    return core


def _compile(core: Any, graph: bytes, hint: str) -> Any:
    options = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": cpu_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # other work may own the core that it would choose
    }
    try:
        return core.compile_model(core.read_model(graph), "CPU", options).create_infer_request()
    except Exception as error:  # OpenVINO's errors have no base class but this
        raise SvcError(
            f"OpenVINO cannot run the generator ({_reason(error)}); use --backend torch"
        ) from error


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300].strip(" .")
