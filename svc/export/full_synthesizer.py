"""`synthesizer.onnx` and `f0_decoder.onnx`: the voice itself, with all random numbers as inputs.

No second model: the wrappers turn the inputs of the graphs into the arguments of
`Synthesizer.synthesize`, which is what is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from svc.audio.pitch import f0_to_lf0, lf0_to_f0, normalize_lf0
from svc.errors import ConfigError
from svc.export.full_examples import example_noise, example_pitch
from svc.export.graph import GraphCheck, GraphInput, GraphOutput, check_graph, export_graph
from svc.synthesizer import Synthesizer
from svc.synthesizer.output import InferenceNoise
from svc.vocoder.source import SourceNoise

CHECKED_FRAMES = (43, 77)
HZ_PER_TOLERANCE = 100.0
"""A pitch of 200 Hz has the 24 bits of its float32 where a number near 1 has them, 200 times higher
up; it may be off by a hundred tolerances, in Hz."""
_RECORDED_FRAMES = 60

_AXES: dict[str, dict[int, str]] = {
    "units": {2: "frames"},
    "f0": {1: "frames"},
    "uv": {1: "frames"},
    "noise": {2: "frames"},
    "noise_scale": {},
    "source_phase": {},
    "source_noise": {1: "samples"},
    "speaker_mix": {0: "mix_frames"},
    "volume": {1: "frames"},
}


class SynthesizerGraph(nn.Module):
    """Units, pitch and random numbers -> the voice, (1, 1, samples).

    Args:
        net: for inference, on the CPU.
    """

    names = tuple(_AXES)

    def __init__(self, net: Synthesizer) -> None:
        super().__init__()
        self.net = net

    def forward(
        self,
        units: Tensor,
        f0: Tensor,
        uv: Tensor,
        noise: Tensor,
        noise_scale: Tensor,
        source_phase: Tensor,
        source_noise: Tensor,
        speaker_mix: Tensor,
        volume: Tensor | None = None,
    ) -> Tensor:
        """Sing.

        Args:
            units: (1, U, N).
            f0: (1, N) Hz, 0 = unvoiced.
            uv: (1, N) 1 = voiced.
            noise: (1, C, N) N(0, 1).
            noise_scale: (1,) what it is multiplied by.
            source_phase: (1, H) start of each harmonic, turns in [0, 1); the fundamental's is 0.
            source_noise: (1, N · hop, H) N(0, 1).
            speaker_mix: (N, S), or (1, S) for all frames: weights of the speakers, column = id.
            volume: (1, N) linear RMS, for nets with a volume embedding.

        Returns:
            (1, 1, N · hop).
        """
        g = self.net.speaker_condition(None, speaker_mix)
        random = InferenceNoise(noise, SourceNoise(source_phase, source_noise))
        wav, _ = self.net.synthesize(
            units, f0, uv, g, random, noise_scale=noise_scale, predict_f0=False, volume=volume
        )
        return wav


class F0DecoderGraph(nn.Module):
    """The pitch a voice would choose itself: units and the heard pitch -> (1, N) Hz.

    Args:
        net: a voice with an F0 decoder, on the CPU.
    """

    names = ("units", "f0", "uv", "speaker_mix", "volume")

    def __init__(self, net: Synthesizer) -> None:
        super().__init__()
        self.net = net

    def forward(
        self,
        units: Tensor,
        f0: Tensor,
        uv: Tensor,
        speaker_mix: Tensor,
        volume: Tensor | None = None,
    ) -> Tensor:
        """Predict; inputs as those of `SynthesizerGraph`, whose f0 this becomes."""
        net = self.net
        if net.f0_decoder is None:
            raise ValueError("this voice cannot predict F0")
        g = net.speaker_condition(None, speaker_mix)
        mask = torch.ones_like(f0)[:, None]
        x = net._content(units, uv, volume, mask)
        norm_lf0 = normalize_lf0(f0_to_lf0(f0)[:, None], uv, mask)
        return lf0_to_f0(net.f0_decoder(x, norm_lf0, mask, g))[:, 0]


class PredictedF0(nn.Module):
    """What `F0DecoderGraph` is compared with: the pitch that `Synthesizer.synthesize` uses.

    Args:
        net: a voice with an F0 decoder, on the CPU.
    """

    def __init__(self, net: Synthesizer) -> None:
        super().__init__()
        self.net = net

    def forward(
        self,
        units: Tensor,
        f0: Tensor,
        uv: Tensor,
        speaker_mix: Tensor,
        volume: Tensor | None = None,
    ) -> Tensor:
        """Predict, as `F0DecoderGraph`."""
        net = self.net
        g = net.speaker_condition(None, speaker_mix)
        noise = net.draw_noise(1, f0.shape[1], seed=0, device=f0.device)
        _, predicted = net.synthesize(
            units, f0, uv, g, noise, noise_scale=0.0, predict_f0=True, volume=volume
        )
        return predicted


def example_inputs(
    net: Synthesizer, n_speakers: int, n_frames: int, *, mix_frames: int = 1
) -> dict[str, Tensor]:
    """Make inputs of the synthesizer's graph by name.

    Args:
        net: the voice.
        n_speakers: S.
        n_frames: N, above 0.
        mix_frames: rows of `speaker_mix`: 1 or N.
    """
    source, config = net.dec.m_source, net.config
    f0, uv = example_pitch(n_frames, net.hop_length / net.sampling_rate, seed=n_frames)
    phase = torch.linspace(0.0, 0.9, source.n_harmonics)[None]
    weights = example_noise((mix_frames, n_speakers), seed=1).abs() + 0.1
    inputs = {
        "units": 0.5 * example_noise((1, config.ssl_dim, n_frames), seed=2),
        "f0": f0,
        "uv": uv,
        "noise": example_noise((1, config.inter_channels, n_frames), seed=3),
        "noise_scale": torch.tensor([0.35]),
        "source_phase": phase,
        "source_noise": example_noise((1, n_frames * net.hop_length, source.n_harmonics), seed=4),
        "speaker_mix": weights / weights.sum(dim=1, keepdim=True),
    }
    if net.has_volume:
        inputs["volume"] = 0.1 * example_noise((1, n_frames), seed=5).abs()
    return inputs


def export_synthesizer(
    net: Synthesizer,
    n_speakers: int,
    path: Path,
    *,
    tolerance: float,
    metadata: Mapping[str, str],
) -> GraphCheck:
    """Write `synthesizer.onnx` and compare it with the net.

    Args:
        net: for inference, on the CPU, weight norm folded.
        n_speakers: S, columns of `speaker_mix`: ids 0 ... S - 1.
        path: where to write.
        tolerance: largest difference of any sample.
        metadata: facts for the graph's `metadata_props`.

    Returns:
        How close the graph is.

    Raises:
        ConfigError: the net has fewer speakers.
        ExportError: see `svc.export.graph`.
        MissingDependencyError: onnx or onnxruntime is not installed.
    """
    rows = net.emb_g.weight.shape[0]
    if n_speakers > rows:
        raise ConfigError(
            f'"spk" names the id {n_speakers - 1}, but the net has {rows} speakers, 0 to {rows - 1}; '
            "use the config saved beside the checkpoint"
        )
    graph, output = SynthesizerGraph(net).eval(), GraphOutput("wav", {2: "samples"})
    _write(graph, graph.names, output, net, n_speakers, path, metadata)
    cases = _cases(graph.names, net, n_speakers)
    return check_graph(path, graph, cases, tolerance=tolerance)


def export_f0_decoder(
    net: Synthesizer,
    n_speakers: int,
    path: Path,
    *,
    tolerance: float,
    metadata: Mapping[str, str],
) -> GraphCheck:
    """Write `f0_decoder.onnx` and compare it with the net; arguments and errors as
    `export_synthesizer`, but for the tolerance: `HZ_PER_TOLERANCE` times it, in Hz.
    """
    graph, output = F0DecoderGraph(net).eval(), GraphOutput("f0_predicted", {1: "frames"})
    _write(graph, graph.names, output, net, n_speakers, path, metadata)
    cases = _cases(graph.names, net, n_speakers)
    wanted = PredictedF0(net).eval()
    return check_graph(path, wanted, cases, tolerance=tolerance * HZ_PER_TOLERANCE)


def _write(
    graph: nn.Module,
    names: tuple[str, ...],
    output: GraphOutput,
    net: Synthesizer,
    n_speakers: int,
    path: Path,
    metadata: Mapping[str, str],
) -> None:
    examples = example_inputs(net, n_speakers, _RECORDED_FRAMES, mix_frames=_RECORDED_FRAMES)
    inputs = [GraphInput(n, examples[n], _AXES[n]) for n in names if n in examples]
    export_graph(graph, inputs, [output], path, metadata=metadata)


def _cases(names: tuple[str, ...], net: Synthesizer, n_speakers: int) -> list[list[Tensor]]:
    """One voice for all frames in the first case, a mix that changes in the second."""
    cases = []
    for n_frames, mix_frames in zip(CHECKED_FRAMES, (1, CHECKED_FRAMES[1]), strict=True):
        inputs = example_inputs(net, n_speakers, n_frames, mix_frames=mix_frames)
        cases.append([inputs[name] for name in names if name in inputs])
    return cases
