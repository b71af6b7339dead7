"""Running ONNX graphs, with or without torch.

A graph is data: onnxruntime runs the operators it was built with and no others, and no library of
further ones is ever registered. A graph may name other files to read its weights from; such a graph
is refused, because older versions of onnxruntime follow any path.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from svc.errors import CheckpointError, DeviceError, MissingFileError, import_extra
from svc.threads import cpu_threads

EXTRA = "onnx"


def open_session(
    path: Path,
    name: str,
    device: str = "cpu",
    *,
    again: str = "",
    extra: str = EXTRA,
    installed: bool = False,
) -> Any:
    """Load a graph where it is to be computed.

    Args:
        path: the graph, in one file.
        name: what it is, for messages.
        device: cpu, or cuda with or without a number.
        again: what helps where it cannot be run; "" = to copy or download it again.
        extra: of this project, that brings onnxruntime.
        installed: it is part of an installed package, which is trusted not to name other files.

    Returns:
        The session of onnxruntime.

    Raises:
        MissingDependencyError: onnxruntime or onnx is not installed.
        MissingFileError: no such file.
        CheckpointError: not a graph, or one whose weights lie in other files.
        DeviceError: onnxruntime cannot compute there.
    """
    runtime = import_extra("onnxruntime", extra)
    kind, _, index = device.partition(":")
    provider: Any = "CPUExecutionProvider"
    if kind == "cuda":
        provider = ("CUDAExecutionProvider", {"device_id": int(index or 0)})
        if provider[0] not in runtime.get_available_providers():
            raise DeviceError(
                f"{name} cannot use {device}: the installed onnxruntime is a build without CUDA;"
                " install onnxruntime-gpu in its place, or use --device cpu"
            )
    elif kind != "cpu":
        raise DeviceError(
            f"{name} cannot use {device}: onnxruntime computes on cpu and cuda here; use"
            " --device cpu"
        )
    if not path.is_file():
        raise MissingFileError(f"{path} is not a file: {name} needs an ONNX graph")
    if not installed:
        _refuse_other_files(path, name)
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised
    options.intra_op_num_threads = cpu_threads()
    # A waiting thread that spins keeps the core from the one it waits for (see svc.cli.main).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = runtime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # onnxruntime's errors have no base class but this
        raise CheckpointError(
            f"{path} is not a graph that onnxruntime {runtime.__version__} can run:"
            f" {reason(error)}; {again or 'copy or download it again'}"
        ) from error
    # onnxruntime goes on with the CPU where CUDA does not start.
    if kind == "cuda" and session.get_providers()[0] != provider[0]:
        raise DeviceError(
            f"{name} cannot use {device}: onnxruntime did not start CUDA; its CUDA and cuDNN"
            " libraries are missing or of other versions; use --device cpu"
        )
    return session


def reason(error: Exception) -> str:
    """First sentence of onnxruntime's message, without its code."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line.rpartition(" : ")[2].partition(" Status Message")[0].strip(" .")[:300]


def _refuse_other_files(path: Path, name: str) -> None:
    """Raise CheckpointError for a graph whose weights lie in other files."""
    onnx = import_extra("onnx", EXTRA)
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's errors depend on its implementation
        raise CheckpointError(
            f"{path} is not an ONNX graph ({path.stat().st_size:,} bytes; truncated, damaged or"
            " another format); copy or download it again"
        ) from error
    nodes = (node for function in model.functions for node in function.node)
    for tensor in (*_graph_tensors(model.graph), *_node_tensors(nodes)):
        if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise CheckpointError(
                f"{path} keeps its weights in other files (external data), which is refused: take"
                f" the graph of {name} in one file, or save it as one with onnx.save"
            )


def _graph_tensors(graph: Any) -> Iterator[Any]:
    """Yield every tensor that a graph holds, those of graphs within it included."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Any) -> Iterator[Any]:
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for graph in (attribute.g, *attribute.graphs):
            yield from _graph_tensors(graph)
