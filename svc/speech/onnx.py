"""Encoders that are ONNX graphs, run by onnxruntime (spec_encoders 10.2).

A graph is data: onnxruntime runs the operators it was built with and no others, and this module
never registers a library of further ones. A graph may name other files to read its weights from;
such a graph is refused, because older versions of onnxruntime follow any path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svc.devices import precision_dtype
from svc.errors import CheckpointError, ConfigError, DeviceError, MissingFileError, import_extra
from svc.speech.chunks import HOP_LENGTH, SAMPLING_RATE, encode_in_windows, prepare_wave

WINDOW_FRAMES = 1499  # 30 s; up to here a wave is encoded in one piece, as the original does
USUAL_SECONDS = 30.0

_EXTRA = "onnx"
# Samples that the first frame hears, by the frames a graph makes of one second: 400 without padding
# (formula A of spec_encoders 1), 320 where the graph pads by 40 on either side (formula B).
_FIELDS = {49: 400, 50: 320}


class OnnxEncoder:
    """Units of a graph: float32 (1, 1, N) samples under the first input's name -> the first output
    (1, S, C).

    Args:
        path: the graph, in one file.
        name: id of the encoder.
        dim: C, width of the units that the id stands for.
        device: cpu or cuda.
        precision: "fp32"; the graph computes as it was exported.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        MissingFileError: no such file.
        CheckpointError: not a graph, not one of such an encoder, one of another width, or one whose
            weights lie in other files.
        ConfigError: another precision.
        DeviceError: onnxruntime cannot compute there.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        dim: int,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
    ) -> None:
        if precision_dtype(precision) != torch.float32:
            raise ConfigError(
                f"{name} computes in the precision of its graph, {precision} cannot be asked of it:"
                " use fp32"
            )
        self.name = name
        self.dim = dim
        self.device = torch.device(device)
        self.usual_seconds = USUAL_SECONDS
        self._path = path
        self._session = _open(path, name, self.device)
        self._input = self._check_ports()
        self._field = self._probe()

    def encode(self, wav16k: Tensor) -> Tensor:
        """Encode a wave of any length.

        Args:
            wav16k: (T,) samples at 16 kHz in [-1, 1]; shorter than one frame it is zero-padded.

        Returns:
            (1, C, S) float32 on the encoder's device, S = floor((T - 400) / 320) + 1, or
            floor(T / 320) for graphs that pad, at least 1. Up to 30 s in one pass, longer in
            overlapping windows (svc.speech.chunks); a graph normalises each of them for itself.

        Raises:
            AudioError: NaN or infinite samples.
        """
        wav = prepare_wave(wav16k, self._field)
        n_frames = self._frames(len(wav))
        if n_frames <= WINDOW_FRAMES:
            return self._run(wav[None])
        # Windows are longer by what is left over at the end, which makes no frame of its own but is
        # heard by the last one where the graph pads.
        rest = (len(wav) - self._field) % HOP_LENGTH
        return encode_in_windows(
            wav, n_frames, self._run, window=WINDOW_FRAMES, field=self._field + rest
        )

    def encode_batch(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        """Encode several waves one after the other: the graphs take one at a time."""
        return [self.encode(wav) for wav in wavs]

    def _frames(self, n_samples: int) -> int:
        return (n_samples - self._field) // HOP_LENGTH + 1

    def _check_ports(self) -> str:
        """Return the name of the first input; raise CheckpointError where the graph says that it is
        another kind of net.
        """
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        first = inputs[0]
        if len(inputs) != 1 or first.type != "tensor(float)" or len(first.shape) != 3:
            given = ", ".join(f"{port.name} {port.type}{port.shape}" for port in inputs)
            raise CheckpointError(
                f"{self._path} is not the graph of a speech encoder: it takes {given}, where"
                f" {self.name} takes one wave, float32 [1, 1, N]. {self._advice()}"
            )
        width = outputs[0].shape[-1] if outputs[0].shape else None
        if isinstance(width, int):
            self._check_width(width)
        return str(first.name)

    def _check_width(self, width: int) -> None:
        if width != self.dim:
            raise CheckpointError(
                f"{self._path} gives units {width} wide, {self.name} is {self.dim} wide."
                f" {self._advice()}"
            )

    def _probe(self) -> int:
        """Run one second of silence; return how many samples the first frame hears."""
        units = self._infer(torch.zeros(1, SAMPLING_RATE))
        if units.dim() != 3 or units.shape[0] != 1 or units.shape[1] not in _FIELDS:
            raise CheckpointError(
                f"{self._path} makes {list(units.shape)} of one second, where {self.name} gives"
                f" [1, 49 or 50 frames, {self.dim}]. {self._advice()}"
            )
        self._check_width(units.shape[2])
        return _FIELDS[units.shape[1]]

    def _run(self, wavs: Tensor) -> Tensor:
        """(1, T) -> (1, C, S) on the device."""
        units = self._infer(wavs)
        wanted = self._frames(wavs.shape[1])
        if units.shape[1] != wanted:
            raise CheckpointError(
                f"{self._path} makes {units.shape[1]} frames of {wavs.shape[1]} samples, expected"
                f" {wanted}: it was exported for one length only. {self._advice()}"
            )
        return units.transpose(1, 2).to(self.device)

    def _infer(self, wavs: Tensor) -> Tensor:
        """(1, T) -> (1, S, C) float32 on the CPU."""
        feed = {self._input: wavs[:, None].cpu().numpy()}
        try:
            found = self._session.run(None, feed)[0]
        except Exception as error:  # onnxruntime's errors have no base class but this
            raise CheckpointError(
                f"{self._path} cannot encode {wavs.shape[1]} samples, perhaps because it was"
                f" exported for another length: {_reason(error)}. {self._advice()}"
            ) from error
        return torch.from_numpy(found).float()

    def _advice(self) -> str:
        return f"Give it the graph of {self.name} as published"


def _open(path: Path, name: str, device: torch.device) -> Any:
    """Load the graph where it is to be computed."""
    runtime = import_extra("onnxruntime", _EXTRA)
    provider: Any = "CPUExecutionProvider"
    if device.type == "cuda":
        provider = ("CUDAExecutionProvider", {"device_id": device.index or 0})
        if provider[0] not in runtime.get_available_providers():
            raise DeviceError(
                f"{name} cannot use {device}: the installed onnxruntime is a build without CUDA;"
                " install onnxruntime-gpu in its place, or use --device cpu"
            )
    elif device.type != "cpu":
        raise DeviceError(
            f"{name} cannot use {device}: onnxruntime computes on cpu and cuda here; use"
            " --device cpu"
        )
    if not path.is_file():
        raise MissingFileError(f"{path} is not a file: {name} needs an ONNX graph")
    _refuse_other_files(path, name)
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised
    options.intra_op_num_threads = torch.get_num_threads()
    # A waiting thread that spins keeps the core from the one it waits for (see svc.cli.main).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = runtime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # onnxruntime's errors have no base class but this
        raise CheckpointError(
            f"{path} is not a graph that onnxruntime {runtime.__version__} can run:"
            f" {_reason(error)}; copy or download it again"
        ) from error
    # onnxruntime goes on with the CPU where CUDA does not start.
    if device.type == "cuda" and session.get_providers()[0] != provider[0]:
        raise DeviceError(
            f"{name} cannot use {device}: onnxruntime did not start CUDA; its CUDA and cuDNN"
            " libraries are missing or of other versions; use --device cpu"
        )
    return session


def _reason(error: Exception) -> str:
    """First sentence of onnxruntime's message, without its code."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line.rpartition(" : ")[2].partition(" Status Message")[0].strip(" .")[:300]


def _refuse_other_files(path: Path, name: str) -> None:
    """Raise CheckpointError for a graph whose weights lie in other files."""
    onnx = import_extra("onnx", _EXTRA)
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
