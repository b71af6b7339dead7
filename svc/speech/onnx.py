"""Encoders that are ONNX graphs, run by onnxruntime (spec_encoders 10.2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from svc.devices import precision_dtype
from svc.errors import CheckpointError, ConfigError
from svc.onnx_runtime import open_session, reason
from svc.speech.chunks import HOP_LENGTH, SAMPLING_RATE, encode_in_windows, prepare_wave

WINDOW_FRAMES = 1499  # 30 s; up to here a wave is encoded in one piece, as the original does
USUAL_SECONDS = 30.0

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
        self._session = open_session(path, name, str(self.device))
        self._input = self._check_ports()
        self._field = self._probe()

    @property
    def path(self) -> Path:
        """The graph."""
        return self._path

    @property
    def field(self) -> int:
        """Samples that the first frame hears, and the shortest wave that gives one."""
        return self._field

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
                f" exported for another length: {reason(error)}. {self._advice()}"
            ) from error
        return torch.from_numpy(found).float()

    def _advice(self) -> str:
        return f"Give it the graph of {self.name} as published"
