"""`encoder.onnx`: a wave at 16 kHz -> units, for every family of speech encoders.

The graph is the plain pass over one window, as so-vits-svc 4.1 runs its encoders; cutting a long
wave into windows is left to whoever runs it. What the encoders of `svc.speech` do with lengths in
Python is written here with operators that a graph can carry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svc.atomic import atomic_path
from svc.audio.mel import whisper_mel
from svc.config import split_encoders
from svc.config.bundle import EncoderFacts
from svc.errors import ConfigError, import_extra
from svc.export.full_examples import example_wave
from svc.export.full_mel import GraphMel
from svc.export.graph import GraphCheck, GraphInput, GraphOutput, check_graph, export_graph
from svc.speech import SpeechEncoder
from svc.speech.chunks import HOP_LENGTH
from svc.speech.frontend import CONV_STRIDES, ConvLayer, FrontEnd
from svc.speech.fusion import FusedEncoder
from svc.speech.onnx import WINDOW_FRAMES as ONNX_WINDOW_FRAMES
from svc.speech.onnx import OnnxEncoder
from svc.speech.registry import ENCODERS
from svc.speech.wave_encoder import FIELD, WINDOW_FRAMES, Wav2Vec2Encoder
from svc.speech.whisper import WhisperEncoder

CHECKED_SAMPLES = (20_801, 41_283)  # a fusion of both frame counts has to align the second
_RECORDED_SAMPLES = 16_000


class WaveGraph(nn.Module):
    """An encoder of the wav2vec 2.0 family: (1, T) samples -> (1, C, S).

    Args:
        encoder: the loaded encoder, in float32.
    """

    distance_bias: Tensor | None

    def __init__(self, encoder: Wav2Vec2Encoder) -> None:
        super().__init__()
        entry = ENCODERS[encoder.name]
        self.net, self.layer, self.padding = encoder.net, entry.layer, entry.padding
        self.project = encoder.net.final_projection if entry.project else None
        self.front = FrontGraph(encoder.net.frontend)
        self.least_samples = FIELD - 2 * entry.padding
        # The last 319 samples make no further frame.
        self.most_samples = WINDOW_FRAMES * HOP_LENGTH + self.least_samples - 1
        # WavLM's biases by distance, looked up here: the buckets come from a logarithm whose last
        # bit decides at their borders, and every runtime has its own.
        table = None
        if (biases := encoder.net.relative_bias) is not None:
            reach = torch.arange(-biases.max_distance, biases.max_distance + 1)
            table = biases.table(biases.buckets(reach)).T.contiguous()  # (heads, 2 reach + 1)
        self.register_buffer("distance_bias", table)

    def forward(self, wav: Tensor) -> Tensor:
        """Encode one window."""
        if self.net.config.normalize_wave:
            centred = wav - wav.mean(dim=-1, keepdim=True)
            wav = centred / torch.sqrt(centred.square().mean(dim=-1, keepdim=True) + 1e-5)
        if self.padding:
            wav = F.pad(wav, (self.padding, self.padding))
        features = self.front(wav)
        bias = None
        if self.distance_bias is not None:
            reach = self.distance_bias.shape[1] // 2  # farther frames have the bias of the last
            place = torch.arange(features.shape[1])
            index = (place[None] - place[:, None]).clamp(-reach, reach) + reach
            bias = self.distance_bias[:, index]
        hidden = self.net.transform(features, self.layer, position_bias=bias)
        if self.project is not None:
            hidden = self.project(hidden)
        return hidden.transpose(1, 2)


class FrontGraph(nn.Module):
    """The convolutions over the wave as `svc.speech.frontend.FrontEnd` computes them, (1, T) ->
    (1, S, C), written as convolutions.

    Args:
        front: the layers, whose weights are used.
    """

    stretches: Tensor

    def __init__(self, front: FrontEnd) -> None:
        super().__init__()
        self.front = front
        # A convolution with the identity lays the stretches that the first layer hears side by side.
        self.register_buffer("stretches", torch.eye(front.first.kernel_size[0])[:, None])

    def forward(self, wav: Tensor) -> Tensor:
        """Hear (1, T) samples."""
        x = wav[:, None]
        for layer, stride in zip(self.front, CONV_STRIDES, strict=True):
            assert isinstance(layer, ConvLayer)  # noqa: S101 - for the type checker
            if isinstance(layer.norm, nn.GroupNorm):
                x = self._normalised(x, layer, layer.norm, stride)
            else:
                x = F.conv1d(x, layer.conv.weight, layer.conv.bias, stride)
                if layer.norm is not None:
                    x = layer.norm(x.transpose(1, 2)).transpose(1, 2)
            x = F.gelu(x)
        return x.transpose(1, 2)

    def _normalised(self, x: Tensor, layer: ConvLayer, norm: nn.GroupNorm, stride: int) -> Tensor:
        """The first layer of the base models and its norm over time as one product, by the moments
        of the wave (svc.speech.frontend): (1, 1, T) -> (1, C, frames).
        """
        stretches = F.conv1d(x, self.stretches, stride=stride)[0]  # (K, frames)
        exact, kernels = stretches.double(), layer.conv.weight[:, 0].double()  # (C, K)
        second = exact @ exact.T / exact.shape[1]
        mean = kernels @ exact.mean(dim=1)  # (C,)
        power = ((kernels @ second) * kernels).sum(dim=1)
        gain = norm.weight.double() / (power - mean**2).clamp(min=0).add(norm.eps).sqrt()
        shift = norm.bias.double() - mean * gain
        return ((gain[:, None] * kernels).float() @ stretches + shift.float()[:, None])[None]


class WhisperGraph(nn.Module):
    """Whisper's encoder behind its log-mel of 30 s: (1, T) samples -> (1, C, T // 320).

    Args:
        encoder: the loaded encoder, in float32.
    """

    least_samples = HOP_LENGTH

    def __init__(self, encoder: WhisperEncoder) -> None:
        super().__init__()
        self.net = encoder.net
        self.mel = GraphMel(whisper_mel(self.net.config.n_mels))
        self.window_samples = self.net.config.n_positions * HOP_LENGTH
        self.most_samples = self.window_samples + HOP_LENGTH - 1

    def forward(self, wav: Tensor) -> Tensor:
        """Encode one window."""
        n_frames = wav.shape[1] // HOP_LENGTH
        rest = wav.new_zeros(1, self.window_samples)
        padded = torch.cat((wav, rest), dim=1)[:, : self.window_samples]
        units: Tensor = self.net(self.mel(padded), n_frames)
        return units.transpose(1, 2)


class FusedGraph(nn.Module):
    """Several encoders side by side: (1, T) samples -> (1, sum of C, most of S).

    Args:
        parts: their graphs.
    """

    def __init__(self, parts: Sequence[WaveGraph | WhisperGraph]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        # Some make a frame of every full 320 samples, the others need 80 samples more.
        whole = [i for i, part in enumerate(parts) if part.least_samples <= HOP_LENGTH]
        self.longest = whole[0] if whole else None
        self.least_samples = max(part.least_samples for part in parts)
        self.most_samples = min(part.most_samples for part in parts)

    def forward(self, wav: Tensor) -> Tensor:
        """Encode one window."""
        units = [part(wav) for part in self.parts]
        if self.longest is not None:
            units = [_stretch(part, units[self.longest].shape[2]) for part in units]
        return torch.cat(units, dim=1)


def _stretch(units: Tensor, n_frames: int) -> Tensor:
    """(1, C, S) -> (1, C, n_frames), S being that or one less: by the rule "left" of
    svc.audio.frames the first frame comes twice then.
    """
    index = torch.arange(n_frames) - (n_frames - units.shape[2])
    return units[:, :, index.clamp(min=0)]


class Encoding(nn.Module):
    """What the graph is compared with: the encoder as users get it, (1, T) -> (1, C, S)."""

    def __init__(self, encoder: SpeechEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, wav: Tensor) -> Tensor:
        """Encode (1, T) samples."""
        return self.encoder.encode(wav[0])


def check_exportable(name: str) -> None:
    """Refuse an encoder that cannot become one graph: a fusion with a part that is one already.

    Raises:
        ConfigError: it is one, or no encoder.
    """
    parts = split_encoders(name)
    graphs = [part for part in parts if ENCODERS[part].family == "onnx"]
    if graphs and len(parts) > 1:
        raise ConfigError(
            f'the speech encoder "{name}" cannot be exported: {graphs[0]} is an ONNX graph already '
            f"and cannot be joined with another encoder in one; export a voice with "
            f'"{name.replace(graphs[0], graphs[0].removesuffix("-onnx"))}" or one encoder alone'
        )


def encoder_graph(encoder: SpeechEncoder) -> WaveGraph | WhisperGraph | FusedGraph:
    """Make the module to be exported of an encoder on the CPU, in float32."""
    if isinstance(encoder, Wav2Vec2Encoder):
        return WaveGraph(encoder).eval()
    if isinstance(encoder, WhisperEncoder):
        return WhisperGraph(encoder).eval()
    if isinstance(encoder, FusedEncoder):
        graphs = [encoder_graph(part) for part in encoder.parts]
        return FusedGraph([g for g in graphs if not isinstance(g, FusedGraph)]).eval()
    raise ValueError(f"{encoder.name} is a graph already")


def export_encoder(
    encoder: SpeechEncoder, path: Path, *, tolerance: float, metadata: Mapping[str, str]
) -> tuple[EncoderFacts, GraphCheck]:
    """Write `encoder.onnx` and compare it with the encoder.

    Args:
        encoder: on the CPU, in float32; an `OnnxEncoder`'s own graph is taken, its input and output
            turned into those of every other.
        path: where to write.
        tolerance: largest difference of any unit.
        metadata: facts for the graph's `metadata_props`; those of the encoder are added.

    Returns:
        What clients must know, and how close the graph is.

    Raises:
        ExportError: see `svc.export.graph`.
        MissingDependencyError: onnx or onnxruntime is not installed.
    """
    module: Any = None
    if isinstance(encoder, OnnxEncoder):
        least = encoder.field
        most = ONNX_WINDOW_FRAMES * HOP_LENGTH + encoder.field - 1
    else:
        module = encoder_graph(encoder)
        least, most = module.least_samples, module.most_samples
    facts = EncoderFacts(encoder.name, encoder.dim, encoder.usual_seconds, least, most)
    described = {**metadata, **_describe(facts)}
    if isinstance(encoder, OnnxEncoder):
        adapt_graph(encoder.path, path, metadata=described)
    else:
        export_graph(
            module,
            [GraphInput("wav", example_wave(_RECORDED_SAMPLES), {1: "samples"})],
            [GraphOutput("units", {2: "units"})],
            path,
            metadata=described,
        )
    cases = [[example_wave(n, seed=seed)] for seed, n in enumerate(CHECKED_SAMPLES, start=1)]
    return facts, check_graph(path, Encoding(encoder).eval(), cases, tolerance=tolerance)


def _describe(facts: EncoderFacts) -> dict[str, str]:
    return {
        "encoder": facts.id,
        "sampling_rate": str(facts.sampling_rate),
        "hop_length": str(facts.hop_length),
        "units_dim": str(facts.dim),
        "least_samples": str(facts.least_samples),
        "most_samples": str(facts.most_samples),
        "usual_seconds": f"{facts.usual_seconds:g}",
    }


def adapt_graph(source: Path, target: Path, *, metadata: Mapping[str, str]) -> None:
    """Copy the graph of an ONNX encoder, [1, 1, N] -> [1, S, C], with the ports of this profile:
    wav [1, samples] -> units [1, C, units].

    Args:
        source: the graph, in one file.
        target: where to write.
        metadata: replaces its `metadata_props`.
    """
    onnx = import_extra("onnx", "onnx")
    # A prefix, so that none of its own names is one of those added.
    model = onnx.compose.add_prefix(onnx.load(str(source)), "encoder/")
    graph, helper, kinds = model.graph, onnx.helper, onnx.TensorProto
    given, made = graph.input[0].name, graph.output[0].name
    width = graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    graph.initializer.append(helper.make_tensor("shape", kinds.INT64, [3], [1, 1, -1]))
    graph.node.insert(0, helper.make_node("Reshape", ["wav", "shape"], [given]))
    graph.node.append(helper.make_node("Transpose", [made], ["units"], perm=[0, 2, 1]))
    del graph.input[:], graph.output[:]
    graph.input.append(helper.make_tensor_value_info("wav", kinds.FLOAT, [1, "samples"]))
    units = helper.make_tensor_value_info("units", kinds.FLOAT, [1, width or None, "units"])
    graph.output.append(units)
    helper.set_model_props(model, dict(metadata))
    with atomic_path(target) as temporary:
        onnx.save(model, str(temporary))
