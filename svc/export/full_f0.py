"""`f0_rmvpe.onnx` and `f0_fcpe.onnx`: a wave at 16 kHz -> pitch, mel and decoding included.

The second reading that `svc.f0.rmvpe` gives to notes above 1040 Hz is not in the graph, nor are its
pieces of a minute: who runs it cuts the audio, as conversion does anyway.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svc.config.bundle import F0Facts
from svc.errors import ConfigError
from svc.export.full_examples import example_wave
from svc.export.full_mel import GraphMel
from svc.export.graph import GraphCheck, GraphInput, GraphOutput, check_graph, export_graph
from svc.f0.fcpe import FcpePredictor, build_fcpe
from svc.f0.fcpe import mean_cents as fcpe_cents
from svc.f0.fcpe_net import FcpeNet
from svc.f0.rmvpe import RmvpePredictor, bin_hz, build_rmvpe
from svc.f0.rmvpe import mean_cents as rmvpe_cents
from svc.f0.rmvpe_net import RmvpeNet
from svc.f0.settings import F0Settings

PREDICTORS = ("rmvpe", "fcpe")
"""Pitch predictors that can be exported."""

CHECKED_SAMPLES = (20_801, 41_283)
_RECORDED_SAMPLES = 16_000
_LIMITS = (0.05, 50.0, 1100.0)  # threshold, f0_min, f0_max of the check
_HZ_PER_TOLERANCE = 100.0
"""A pitch of 200 Hz has the 24 bits of its float32 where a number near 1 has them, 200 times higher
up, and sums over nine bins come before it."""

Predictor = RmvpePredictor | FcpePredictor
MelOf = Callable[[Tensor], Tensor]


class RmvpeGraph(nn.Module):
    """(1, T) samples and three limits -> f0 (1, N) Hz, 0 = unvoiced, and confidence (1, N); N = T //
    160 + 1.

    Args:
        net: the loaded net.
        mel: its front end.
    """

    hz: Tensor

    def __init__(self, net: RmvpeNet, mel: MelOf) -> None:
        super().__init__()
        self.net, self.mel = net, mel
        self.register_buffer("hz", bin_hz(net.config.n_bins))

    def forward(
        self, wav: Tensor, threshold: Tensor, f0_min: Tensor, f0_max: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Read one stretch; the limits are (1,) each."""
        mel, together = self.mel(wav), self.net.config.n_together
        n_frames = mel.shape[2]
        whole = (n_frames + together - 1) // together * together
        salience = self.net(F.pad(mel, (0, whole - n_frames)))[:, :n_frames]
        in_range = (self.hz >= f0_min) & (self.hz <= f0_max)
        return _decode(*rmvpe_cents(salience * in_range), threshold)


class FcpeGraph(nn.Module):
    """The same for an FCPE net.

    Args:
        net: the loaded net.
        mel: its front end.
    """

    def __init__(self, net: FcpeNet, mel: MelOf) -> None:
        super().__init__()
        self.net, self.mel = net, mel

    def forward(
        self, wav: Tensor, threshold: Tensor, f0_min: Tensor, f0_max: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Read one stretch; the limits are (1,) each."""
        table = self.net.cent_table
        low, high = (1200 / math.log(2) * (hz / 10).log() for hz in (f0_min, f0_max))
        salience = self.net(self.mel(wav)) * ((table >= low) & (table <= high))
        return _decode(*fcpe_cents(salience, table), threshold)


def _decode(cents: Tensor, peak: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """Cents above 10 Hz and confidence -> Hz, 0 where it is not above the threshold, and itself."""
    hz = 10 * torch.exp(cents * (math.log(2) / 1200))
    return torch.where(peak > threshold, hz, 0.0), peak


def load_predictor(name: str, pretrain_dir: Path) -> Predictor:
    """Load a predictor that can be exported.

    Args:
        name: one of `PREDICTORS`.
        pretrain_dir: folder of rmvpe.pt; fcpe.pt there is preferred to torchfcpe's.

    Raises:
        ConfigError: another name.
        MissingFileError, CheckpointError: its weights.
    """
    settings = F0Settings(16000, 160)
    if name == "rmvpe":
        return build_rmvpe(settings, pretrain_dir=pretrain_dir, high_register=False)
    if name == "fcpe":
        return build_fcpe(settings, pretrain_dir=pretrain_dir)
    raise ConfigError(
        f'the F0 predictor "{name}" cannot be exported: {" and ".join(PREDICTORS)} can; pm, dio and '
        "harvest need no weights, crepe and swift have graphs of their own"
    )


def export_f0(
    predictor: Predictor,
    path: Path,
    *,
    tolerance: float,
    metadata: Mapping[str, str],
) -> tuple[F0Facts, GraphCheck]:
    """Write the graph of a pitch predictor and compare it with the predictor's net behind svc's mel.

    Args:
        predictor: from `load_predictor`.
        path: where to write.
        tolerance: largest difference of the confidence; a hundred times it, in Hz, of f0.
        metadata: facts for the graph's `metadata_props`; those of the predictor are added.

    Returns:
        What clients must know, and how close the graph is.

    Raises:
        ExportError: see `svc.export.graph`.
        MissingDependencyError: onnx or onnxruntime is not installed.
    """
    graph, facts = _graph(predictor, GraphMel(predictor.mel)), _facts(predictor)
    limits = [torch.tensor([value]) for value in _LIMITS]
    names = ("threshold", "f0_min", "f0_max")
    export_graph(
        graph,
        [
            GraphInput("wav", example_wave(_RECORDED_SAMPLES), {1: "samples"}),
            *(GraphInput(name, value) for name, value in zip(names, limits, strict=True)),
        ],
        [GraphOutput("f0", {1: "frames"}), GraphOutput("confidence", {1: "frames"})],
        path,
        metadata={**metadata, **_describe(predictor.name, facts)},
    )
    cases = [[example_wave(n, seed=i), *limits] for i, n in enumerate(CHECKED_SAMPLES, start=1)]
    reference = _graph(predictor, predictor.mel)
    sure = _Confidence(reference).eval()
    check_graph(path, sure, cases, tolerance=tolerance, edit=_drop_f0)
    return facts, check_graph(path, reference, cases, tolerance=tolerance * _HZ_PER_TOLERANCE)


class _Confidence(nn.Module):
    """The second output of a graph alone."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, *inputs: Tensor) -> Tensor:
        confidence: Tensor = self.graph(*inputs)[1]
        return confidence


def _drop_f0(model: Any) -> None:
    del model.graph.output[0]


def _graph(predictor: Predictor, mel: MelOf) -> nn.Module:
    if isinstance(predictor, RmvpePredictor):
        return RmvpeGraph(predictor.net, mel).eval()
    return FcpeGraph(predictor.net, mel).eval()


def _facts(predictor: Predictor) -> F0Facts:
    if isinstance(predictor, RmvpePredictor):
        hz = bin_hz(predictor.net.config.n_bins)
    else:
        hz = 10 * torch.exp2(predictor.net.cent_table / 1200)
    config = predictor.mel.config
    return F0Facts(
        lowest=round(float(hz[0]), 3),
        highest=round(float(hz[-1]), 3),
        threshold=predictor.settings.threshold,
        sampling_rate=config.sampling_rate,
        hop_length=config.hop_length,
    )


def _describe(name: str, facts: F0Facts) -> dict[str, str]:
    described = {
        "f0_predictor": name,
        "sampling_rate": str(facts.sampling_rate),
        "hop_length": str(facts.hop_length),
        "least_samples": str(facts.least_samples),
        "range_hz": f"{facts.lowest:g}-{facts.highest:g}",
    }
    if name == "rmvpe":
        described["high_register"] = "false: notes above 1040 Hz are not read a second time"
    return described
