"""A mel vocoder with the inputs that MoeVoiceStudio gives it (spec_onnx 4, O8; spec_vocoder 3)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from svc.export import moevs_examples as examples
from svc.export.graph import GraphCheck, GraphInput, GraphOutput, check_graph, export_graph
from svc.export.moevs_random import SourceDraw, fix_random_nodes
from svc.vocoder.generator import Generator

OPSET = 16
_LEVEL, _SPREAD = -5.0, 2.0  # of a natural-log mel of music


class MoevsVocoder(nn.Module):
    """Mel and pitch -> waveform.

    Args:
        generator: of the vocoder, weight norm folded. It hears mels as it was trained on them: of
            a vocoder of type nsf-hifigan-log10 that is the common logarithm, which the graph `after`
            of its diffusion voice makes.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator
        self.random = SourceDraw(generator.m_source)

    def forward(self, mel: Tensor, f0: Tensor) -> Tensor:
        """Vocode mel (1, M, N) and f0 (1, N) Hz, 0 = unvoiced; returns (1, 1, N · hop)."""
        wav: Tensor = self.generator(mel, f0, random=self.random(f0.shape[1]))
        return wav


def export_vocoder(
    generator: Generator,
    n_mels: int,
    path: Path,
    *,
    tolerance: float,
    metadata: Mapping[str, str],
) -> GraphCheck:
    """Write the graph and compare it with the net.

    Args:
        generator: on the CPU, in evaluation mode, weight norm folded.
        n_mels: bands of its mel.
        path: where to write.
        tolerance: largest difference of any sample, full scale = 1.
        metadata: facts for `metadata_props`.

    Returns:
        How close the graph is, both with the same numbers in place of the random ones.

    Raises:
        ExportError: see `svc.export.graph`.
    """
    module = MoevsVocoder(generator).eval()
    recorded, *cases = (
        [
            _LEVEL + _SPREAD * examples.noise((1, n_mels, n_frames), 7),
            examples.pitch(n_frames)[0],
        ]
        for n_frames in (examples.RECORDED_FRAMES, *examples.CHECKED_FRAMES)
    )
    inputs = [
        GraphInput("mel", recorded[0], {2: "frames"}),
        GraphInput("f0", recorded[1], {1: "frames"}),
    ]
    outputs = [GraphOutput("audio", {2: "samples"})]
    export_graph(module, inputs, outputs, path, opset=OPSET, metadata=metadata)
    module.random.draw = False
    return check_graph(path, module, cases, tolerance=tolerance, edit=fix_random_nodes)
