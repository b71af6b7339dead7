"""`vocoder.onnx`: a natural-log mel and its pitch -> a waveform, with all random numbers as inputs; and
`mel.onnx`, which measures that mel, for clients that refine what a voice has sung.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from svc.config.bundle import MEL, VOCODER, VocoderFacts
from svc.export.full_examples import example_noise, example_pitch, example_wave
from svc.export.full_mel import GraphMel
from svc.export.graph import GraphCheck, GraphInput, GraphOutput, check_graph, export_graph
from svc.vocoder.nsf_hifigan import NsfHifigan
from svc.vocoder.source import SourceNoise

CHECKED_FRAMES = (43, 77)
_RECORDED_FRAMES = 60
_MEL_TOLERANCES = 10.0
_LEVEL, _SPREAD = -5.0, 2.0  # of a natural-log mel of music

_AXES: dict[str, dict[int, str]] = {
    "mel": {2: "frames"},
    "f0": {1: "frames"},
    "source_phase": {},
    "source_noise": {1: "samples"},
}


class VocoderGraph(nn.Module):
    """Mel, pitch and random numbers -> (1, 1, samples).

    Args:
        vocoder: for inference, on the CPU.
    """

    def __init__(self, vocoder: NsfHifigan) -> None:
        super().__init__()
        self.vocoder = vocoder

    def forward(
        self,
        mel: Tensor,
        f0: Tensor,
        source_phase: Tensor | None = None,
        source_noise: Tensor | None = None,
    ) -> Tensor:
        """Sing a mel.

        Args:
            mel: (1, M, N) natural log.
            f0: (1, N) Hz, 0 = unvoiced.
            source_phase: (1, H) start of each harmonic, turns in [0, 1); the fundamental's is 0.
                None for a mini-NSF vocoder, as the next: nothing in it is random.
            source_noise: (1, N · hop, H) N(0, 1).

        Returns:
            (1, 1, N · hop).
        """
        random = None
        if source_phase is not None and source_noise is not None:
            random = SourceNoise(source_phase, source_noise)
        wav: Tensor = self.vocoder(mel, f0, random=random)
        return wav[:, None]


def vocoder_facts(vocoder: NsfHifigan) -> VocoderFacts:
    """Return what a client must know of a vocoder."""
    config = vocoder.config
    return VocoderFacts(
        sampling_rate=config.sampling_rate,
        hop_length=config.hop_size,
        n_mels=config.num_mels,
        n_fft=config.n_fft,
        win_length=config.win_size,
        fmin=config.fmin,
        fmax=config.fmax,
        n_harmonics=0 if config.mini_nsf else int(vocoder.generator.m_source.n_harmonics),
    )


def example_inputs(facts: VocoderFacts, n_frames: int) -> dict[str, Tensor]:
    """Make inputs of the graph by name, N = n_frames."""
    harmonics = facts.n_harmonics
    f0, _ = example_pitch(n_frames, facts.hop_length / facts.sampling_rate, seed=n_frames)
    inputs = {"mel": _LEVEL + _SPREAD * example_noise((1, facts.n_mels, n_frames), 6), "f0": f0}
    if harmonics:
        samples = n_frames * facts.hop_length
        inputs["source_phase"] = torch.linspace(0.0, 0.9, harmonics)[None]
        inputs["source_noise"] = example_noise((1, samples, harmonics), seed=7)
    return inputs


class _MeasuredMel(nn.Module):
    """What `mel.onnx` is compared with: the vocoder's own mel."""

    def __init__(self, vocoder: NsfHifigan) -> None:
        super().__init__()
        self.vocoder = vocoder

    def forward(self, wav: Tensor) -> Tensor:
        return self.vocoder.mel(wav)


def export_vocoder(
    vocoder: NsfHifigan,
    facts: VocoderFacts,
    folder: Path,
    *,
    tolerance: float,
    metadata: Mapping[str, str],
) -> dict[str, GraphCheck]:
    """Write both graphs and compare them with the vocoder.

    Args:
        vocoder: for inference, on the CPU, weight norm folded.
        facts: from `vocoder_facts`.
        folder: where to write.
        tolerance: largest difference of any sample; ten times it of a mel, a logarithm that shows
            the rounding of the quietest bands.
        metadata: facts for the graphs' `metadata_props`; those of the vocoder are added.

    Returns:
        How close each graph is, by file name.

    Raises:
        ExportError: see `svc.export.graph`.
        MissingDependencyError: onnx or onnxruntime is not installed.
    """
    described = {**metadata, **_describe(facts)}
    return {
        MEL: _export_mel(vocoder, facts, folder / MEL, tolerance * _MEL_TOLERANCES, described),
        VOCODER: _export_net(vocoder, facts, folder / VOCODER, tolerance, described),
    }


def _export_mel(
    vocoder: NsfHifigan, facts: VocoderFacts, path: Path, tolerance: float, metadata: dict[str, str]
) -> GraphCheck:
    def wave(n_frames: int) -> Tensor:
        n_samples = n_frames * facts.hop_length + facts.hop_length // 3
        return example_wave(n_samples, facts.sampling_rate, seed=n_frames)

    graph = GraphMel(vocoder.log_mel).eval()
    inputs = [GraphInput("wav", wave(_RECORDED_FRAMES), {1: "samples"})]
    export_graph(graph, inputs, [GraphOutput("mel", {2: "frames"})], path, metadata=metadata)
    cases = [[wave(n_frames)] for n_frames in CHECKED_FRAMES]
    return check_graph(path, _MeasuredMel(vocoder).eval(), cases, tolerance=tolerance)


def _export_net(
    vocoder: NsfHifigan, facts: VocoderFacts, path: Path, tolerance: float, metadata: dict[str, str]
) -> GraphCheck:
    graph = VocoderGraph(vocoder).eval()
    examples = example_inputs(facts, _RECORDED_FRAMES)
    inputs = [GraphInput(name, x, _AXES[name]) for name, x in examples.items()]
    export_graph(graph, inputs, [GraphOutput("wav", {2: "samples"})], path, metadata=metadata)
    cases = [list(example_inputs(facts, n).values()) for n in CHECKED_FRAMES]
    return check_graph(path, graph, cases, tolerance=tolerance)


def _describe(facts: VocoderFacts) -> dict[str, str]:
    top = facts.sampling_rate / 2 if facts.fmax is None else facts.fmax
    return {
        "sampling_rate": str(facts.sampling_rate),
        "hop_length": str(facts.hop_length),
        "mel_bands": str(facts.n_mels),
        "mel_window": f"{facts.n_fft} points, Hann of {facts.win_length}",
        "mel_hz": f"{facts.fmin:g} to {top:g}",
        "mel_log": "natural",
    }
