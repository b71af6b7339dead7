"""The generator on onnxruntime, in float32."""

from __future__ import annotations

import tempfile
from pathlib import Path

from svc.errors import SvcError
from svc.onnx_runtime import EXTRA, open_session, reason
from svc.vocoder.backends.base import FloatArray, GraphGenerator
from svc.vocoder.backends.recording import record_generator
from svc.vocoder.generator import Generator


class OnnxGenerator(GraphGenerator):
    """A generator that onnxruntime runs.

    Args:
        generator: for inference, on the CPU, weight norm folded and not settled.

    Raises:
        MissingDependencyError: onnx or onnxruntime is not installed.
        ExportError: this version of torch cannot record the net.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__(generator)
        graph = record_generator(generator, extra=EXTRA)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "generator.onnx"
            path.write_bytes(graph)
            self._session = open_session(path, "the generator", again="use --backend torch")

    def run(self, feed: dict[str, FloatArray]) -> FloatArray:
        """Compute; see `GraphGenerator.run`. Raises SvcError."""
        try:
            made: FloatArray = self._session.run(None, feed)[0]
        except Exception as error:  # onnxruntime's errors have no base class but this
            raise SvcError(f"onnxruntime stopped: {reason(error)}; use --backend torch") from error
        return made
