"""Nets as ONNX graphs: write one, and prove that it computes what the net does.

Every graph of every profile goes through `export_graph` and `check_graph`. The exporter is torch's
older one, which records a run: it needs no package besides onnx and exists in every torch from 2.6
on. The newer one (torch 2.13, onnxscript) writes the same net twenty times as slowly and only from
opset 18 on: asked for 16, as MoeVoiceStudio wants it, it cannot convert Pad and leaves 18. What the
older one cannot follow is a length that passes through Python; a net that does that
(`Tensor.unflatten` is such a case) computes something else on other lengths, which is why a check
takes at least two.
"""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from svc import __version__
from svc.atomic import atomic_path
from svc.errors import CheckpointError, ConfigError, ExportError, import_extra
from svc.onnx_runtime import EXTRA, open_session, reason

_LIMIT = 2**31 - 2**24  # bytes of weights; one protobuf file ends at 2 GiB, and the nodes need some


@dataclass(frozen=True)
class GraphInput:
    """One input of a graph."""

    name: str
    example: Tensor  # what the net is recorded with; its dtype and fixed sizes are the graph's
    dynamic: Mapping[int, str] = field(default_factory=dict)  # axis -> name of its size


@dataclass(frozen=True)
class GraphOutput:
    """One output of a graph."""

    name: str
    dynamic: Mapping[int, str] = field(default_factory=dict)  # axis -> name of its size


@dataclass(frozen=True)
class GraphCheck:
    """How a graph compares with its net."""

    max_abs_error: float  # over all outputs of all cases
    tolerance: float
    lengths: tuple[int, ...]  # of the cases: last variable axis of the first input that has one


def export_graph(
    module: nn.Module,
    inputs: Sequence[GraphInput],
    outputs: Sequence[GraphOutput],
    path: str | Path,
    *,
    opset: int = 17,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a net as one ONNX file, weights included; a file of that name is replaced at once.

    Args:
        module: in evaluation mode, on the CPU; called with the examples in order, it returns a
            tensor or a tuple of tensors.
        inputs: names, examples and variable axes, in the order of the graph's inputs.
        outputs: the same for what `module` returns.
        path: where to write.
        opset: version of the operators.
        metadata: facts about the graph, for whoever opens it (`metadata_props`).

    Raises:
        MissingDependencyError: onnx is not installed.
        ConfigError: the weights do not fit into one file.
        ExportError: this version of torch cannot record the net, or the graph is not valid.
        OutputError: the file cannot be written.
    """
    onnx = import_extra("onnx", EXTRA)
    if module.training:
        raise ValueError("export a net in evaluation mode")
    _check_size(module, Path(path))
    examples = tuple(item.example for item in inputs)
    with torch.no_grad():
        results = _as_tuple(module(*examples))
    if len(results) != len(outputs):
        raise ValueError(f"the net returns {len(results)} tensors, {len(outputs)} are named")
    with atomic_path(path) as temporary:
        try:
            _record(module, inputs, outputs, temporary, opset)
            model = onnx.load(str(temporary))
            onnx.checker.check_model(model, full_check=True)
        except OSError:
            raise
        except Exception as error:  # exporter and checker raise whatever their parts do
            raise ExportError(
                f"torch {torch.__version__} cannot export {Path(path).name}: {_first_line(error)}"
            ) from error
        _name_sizes(model.graph.input, inputs, examples)
        _name_sizes(model.graph.output, outputs, results)
        model.producer_name, model.producer_version = "svc", __version__
        model.graph.name = Path(path).stem
        onnx.helper.set_model_props(model, dict(metadata or {}))
        onnx.save(model, str(temporary))


def check_graph(
    path: str | Path,
    module: nn.Module,
    cases: Sequence[Sequence[Tensor]],
    *,
    tolerance: float,
    edit: Callable[[Any], None] | None = None,
) -> GraphCheck:
    """Run a graph and its net on the same inputs; a graph that differs is removed.

    Args:
        path: written by `export_graph`.
        module: the net.
        cases: inputs in the graph's order; of two different lengths at least, and of others than
            the net was recorded with.
        tolerance: largest difference of any number of any output.
        edit: change the loaded graph before it runs (in memory only), for instance to silence its
            random numbers.

    Returns:
        What was found.

    Raises:
        MissingDependencyError: onnx or onnxruntime is not installed.
        ExportError: the graph does not run, or differs; the file is gone.
    """
    file = Path(path)
    try:
        return _compare(file, module, cases, tolerance, edit)
    except ExportError:
        file.unlink(missing_ok=True)
        raise


def _compare(
    file: Path,
    module: nn.Module,
    cases: Sequence[Sequence[Tensor]],
    tolerance: float,
    edit: Callable[[Any], None] | None,
) -> GraphCheck:
    session = _open(file, edit)
    ports = session.get_inputs()
    lengths = tuple(_length(ports, case) for case in cases)
    variable = any(isinstance(size, str) for port in ports for size in port.shape)
    if not cases or (variable and len(set(lengths)) < 2):
        raise ValueError(f"{file.name}: a graph is checked on two lengths at least, not {lengths}")
    worst = 0.0
    for case, length in zip(cases, lengths):
        feed = {port.name: x.numpy() for port, x in zip(ports, case, strict=True)}
        try:
            found = session.run(None, feed)
        except Exception as error:  # onnxruntime's errors have no base class but this
            raise ExportError(
                f"{file.name} does not run on length {length}: {reason(error)}; it was removed"
            ) from error
        with torch.no_grad():
            wanted = _as_tuple(module(*case))
        for ours, theirs in zip(wanted, map(torch.from_numpy, found), strict=True):
            apart = _difference(ours, theirs)
            if not apart <= tolerance:  # NaN is over it too
                raise ExportError(
                    f"{file.name} differs from the net by {apart:.3g} on length {length}, more "
                    f"than the tolerance of {tolerance:g}; it was removed. Try another version of "
                    "torch or onnxruntime, or allow more with --tolerance"
                )
            worst = max(worst, apart)
    return GraphCheck(worst, tolerance, lengths)


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference; infinite for another shape, NaN where a number is not finite."""
    if ours.shape != theirs.shape:
        return math.inf
    if not bool(torch.isfinite(ours).all() and torch.isfinite(theirs).all()):
        return math.nan
    return float((ours.double() - theirs.double()).abs().max()) if ours.numel() else 0.0


def _length(ports: Sequence[Any], case: Sequence[Tensor]) -> int:
    for port, x in zip(ports, case, strict=True):
        axes = [axis for axis, size in enumerate(port.shape) if isinstance(size, str)]
        if axes:
            return int(x.shape[axes[-1]])
    return 0


def _open(file: Path, edit: Callable[[Any], None] | None) -> Any:
    name = file.name
    try:
        if edit is None:
            return open_session(file, name)
        model = import_extra("onnx", EXTRA).load(str(file))
        edit(model)
        with tempfile.TemporaryDirectory() as folder:
            edited = Path(folder) / name
            edited.write_bytes(model.SerializeToString())
            return open_session(edited, name)
    except CheckpointError as error:
        raise ExportError(f"{error}; it was removed") from error


def _record(
    module: nn.Module,
    inputs: Sequence[GraphInput],
    outputs: Sequence[GraphOutput],
    path: Path,
    opset: int,
) -> None:
    """Run torch's exporter on the examples."""
    named: list[GraphInput | GraphOutput] = [*inputs, *outputs]
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            module,
            tuple(item.example for item in inputs),
            str(path),
            input_names=[item.name for item in inputs],
            output_names=[item.name for item in outputs],
            dynamic_axes={item.name: dict(item.dynamic) for item in named if item.dynamic},
            opset_version=opset,
            dynamo=False,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the user what the exporter has to say about its own age and about every branch that
    it meets: whether the graph is right is found by `check_graph`.
    """
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _name_sizes(
    ports: Sequence[Any], named: Sequence[GraphInput | GraphOutput], values: Sequence[Tensor]
) -> None:
    """Give every axis its name or its size: the exporter invents names for outputs."""
    names = [item.name for item in named]
    if [port.name for port in ports] != names:
        raise ValueError(f"the graph has {[port.name for port in ports]}, wanted {names}")
    for port, item, value in zip(ports, named, values):
        shape = port.type.tensor_type.shape
        del shape.dim[:]
        for axis, size in enumerate(value.shape):
            dim = shape.dim.add()
            if axis in item.dynamic:
                dim.dim_param = item.dynamic[axis]
            else:
                dim.dim_value = size


def _check_size(module: nn.Module, path: Path) -> None:
    tensors = {id(x): x for x in (*module.parameters(), *module.buffers())}
    size = sum(x.numel() * x.element_size() for x in tensors.values())
    if size > _LIMIT:
        raise ConfigError(
            f"{path.name} would be {size / 1e9:.1f} GB: one ONNX file holds 2 GB at most, and the "
            "programs that use these graphs refuse weights in further files; export a smaller model"
        )


def _as_tuple(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line[:300].strip(" .")
