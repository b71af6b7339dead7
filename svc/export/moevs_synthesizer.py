"""`<folder>_SoVits.onnx`: a voice with the inputs that MoeVoiceStudio gives it (spec_onnx 1).

No second model: the wrapper turns those inputs into the arguments of `Synthesizer.synthesize`,
which is what is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from svc.errors import ConfigError
from svc.export import moevs_examples as examples
from svc.export.graph import GraphCheck, GraphInput, GraphOutput, check_graph, export_graph
from svc.export.moevs_random import SourceDraw, fix_random_nodes
from svc.synthesizer import Synthesizer
from svc.synthesizer.output import InferenceNoise

OPSET = 16


class MoevsSynthesizer(nn.Module):
    """Units at the encoder's rate -> waveform.

    Args:
        net: for inference, on the CPU.
        ids: rows of the speakers, in the order of the config. With two or more, `sid` is a table of
            weights with a column for each, in that order.

    Raises:
        ConfigError: the net has no such row.
    """

    table: Tensor

    def __init__(self, net: Synthesizer, ids: Sequence[int]) -> None:
        super().__init__()
        rows = net.emb_g.weight.shape[0]
        if max(ids) >= rows:
            raise ConfigError(
                f'"spk" has the id {max(ids)}, the net {rows} speakers, 0 to {rows - 1}; use the '
                "config saved beside the checkpoint"
            )
        self.net = net
        self.n_speakers = len(ids)
        self.random = SourceDraw(net.dec.m_source)
        self.register_buffer("table", net.emb_g.weight[list(ids)].clone())

    def forward(
        self,
        c: Tensor,
        f0: Tensor,
        mel2ph: Tensor,
        uv: Tensor,
        noise: Tensor,
        sid: Tensor,
        vol: Tensor | None = None,
    ) -> Tensor:
        """Sing.

        Args:
            c: (1, S, U) units at the encoder's rate.
            f0: (1, N) Hz.
            mel2ph: (1, N) int64, the unit of each frame: 1 ... S, or 0 for a vector of zeros.
            uv: (1, N) 1 = voiced.
            noise: (1, C, N), already multiplied by the noise scale.
            sid: (1,) int64 id; of several speakers float32 (N, speakers) weights.
            vol: (1, N) linear RMS, for nets with a volume embedding.

        Returns:
            (1, 1, N · hop_length).
        """
        units = F.pad(c, (0, 0, 1, 0))[:, mel2ph[0]].transpose(1, 2)
        g = (sid @ self.table).t()[None] if self.n_speakers > 1 else self.net.speaker_condition(sid)
        random = InferenceNoise(noise, self.random(f0.shape[1]))
        wav, _ = self.net.synthesize(
            units, f0, uv, g, random, noise_scale=1.0, predict_f0=False, volume=vol
        )
        return wav

    def inputs(self, n_frames: int) -> dict[str, Tensor]:
        """Make an example of each input that this voice takes, in order."""
        config = self.net.config
        c, mel2ph = examples.units_of(n_frames, config.ssl_dim)
        f0, uv = examples.pitch(n_frames)
        several = self.n_speakers > 1
        inputs = {
            "c": c,
            "f0": f0,
            "mel2ph": mel2ph,
            "uv": uv,
            "noise": 0.4 * examples.noise((1, config.inter_channels, n_frames), 3),
            "sid": examples.mix(n_frames, self.n_speakers) if several else mel2ph.new_zeros(1),
        }
        return {**inputs, "vol": examples.volume(n_frames)} if self.net.has_volume else inputs


def export_synthesizer(
    net: Synthesizer,
    ids: Sequence[int],
    path: Path,
    *,
    tolerance: float,
    metadata: Mapping[str, str],
) -> GraphCheck:
    """Write the graph and compare it with the net.

    Args:
        net: for inference, on the CPU.
        ids: rows of the speakers, in the order of the config.
        path: where to write.
        tolerance: largest difference of any sample, full scale = 1.
        metadata: facts for `metadata_props`.

    Returns:
        How close the graph is, both with the same numbers in place of the random ones.

    Raises:
        ConfigError: `ids` does not fit the net.
        ExportError: see `svc.export.graph`.
    """
    module = MoevsSynthesizer(net, ids).eval()
    dynamic: dict[str, dict[int, str]] = {
        # One clip only, but the original declares that axis of c too.
        "c": {0: "batch", 1: "units"},
        "noise": {2: "frames"},
        "sid": {0: "frames"} if module.n_speakers > 1 else {},
    }
    inputs = [
        GraphInput(name, x, dynamic.get(name, {1: "frames"}))
        for name, x in module.inputs(examples.RECORDED_FRAMES).items()
    ]
    outputs = [GraphOutput("audio", {2: "samples"})]
    export_graph(module, inputs, outputs, path, opset=OPSET, metadata=metadata)
    module.random.draw = False
    cases = [[*module.inputs(n).values()] for n in examples.CHECKED_FRAMES]
    return check_graph(path, module, cases, tolerance=tolerance, edit=fix_random_nodes)
