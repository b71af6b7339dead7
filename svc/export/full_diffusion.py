"""`diffusion_condition.onnx`, `diffusion_denoiser.onnx` and `vocoder.onnx`: what refines a mel and what
makes it heard. The loop of a sampler stays outside: times are numbers, whole or fractional, so every
sampler of `svc.diffusion` can drive the denoiser.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from svc.config import DiffusionConfig
from svc.config.bundle import CONDITION, DENOISER, DiffusionFacts
from svc.diffusion import Unit2Mel, schedule_arrays
from svc.errors import CheckpointError
from svc.export.full_examples import example_noise, example_pitch
from svc.export.graph import GraphCheck, GraphInput, GraphOutput, check_graph, export_graph

CHECKED_FRAMES = (43, 77)
_RECORDED_FRAMES = 60
_CHECKED_TIMES = (999.0, 37.25)


class ConditionGraph(nn.Module):
    """Units, pitch and volume -> what the denoiser is told, (1, H, N).

    Args:
        model: the diffusion voice.
    """

    def __init__(self, model: Unit2Mel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, units: Tensor, f0: Tensor, volume: Tensor, spk_mix: Tensor | None = None
    ) -> Tensor:
        """Embed units (1, N, U), f0 (1, N) Hz, volume (1, N) and, with several speakers, their
        weights (N, S) or (1, S).
        """
        return self.model.condition(units, f0, volume, speaker_mix=spk_mix)


class DenoiserGraph(nn.Module):
    """Noisy mel, time, condition -> the noise, (1, 1, M, N).

    Args:
        model: the diffusion voice.
    """

    def __init__(self, model: Unit2Mel) -> None:
        super().__init__()
        self.denoiser = model.decoder.denoise_fn

    def forward(self, noise: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """Tell the noise in (1, 1, M, N) at time (1,)."""
        told: Tensor = self.denoiser(noise, time, condition)
        return told


def diffusion_facts(model: Unit2Mel, config: DiffusionConfig, *, what: str) -> DiffusionFacts:
    """Return what a client must know of a diffusion voice.

    Args:
        model: the loaded voice.
        config: its config.
        what: its file, for the message.

    Raises:
        CheckpointError: its noise schedule is not the one that every client computes.
    """
    for name, values in schedule_arrays(model.timesteps).items():
        found = getattr(model.decoder, name).float().cpu().numpy()
        if not np.allclose(found, values, rtol=1e-4, atol=1e-6):
            raise CheckpointError(
                f"{what}: its noise schedule ({name}) is not the linear one of so-vits-svc 4.1, "
                "which clients compute from the number of steps; it cannot be exported"
            )
    data = config.data
    return DiffusionFacts(
        sampling_rate=data.sampling_rate,
        hop_length=data.block_size,
        encoder=data.encoder,
        units_dim=data.encoder_out_channels,
        unit_interpolate_mode=data.unit_interpolate_mode,
        n_mels=model.n_mels,
        n_hidden=config.model.n_hidden,
        timesteps=model.timesteps,
        k_step_max=model.k_step_max,
        n_speakers=model.n_spk,
        method=config.infer.method or "ddpm",
        speedup=config.infer.speedup,
        mel_min=tuple(model.decoder.spec_min.flatten().tolist()),
        mel_max=tuple(model.decoder.spec_max.flatten().tolist()),
        speakers=dict(config.spk),
    )


def export_diffusion(
    model: Unit2Mel,
    facts: DiffusionFacts,
    folder: Path,
    *,
    tolerance: float,
    metadata: Mapping[str, str],
) -> dict[str, GraphCheck]:
    """Write both graphs and compare them with the net.

    Args:
        model: on the CPU, in evaluation mode.
        facts: from `diffusion_facts`.
        folder: where to write.
        tolerance: largest difference of any number.
        metadata: facts for the graphs' `metadata_props`; those of the model are added.

    Returns:
        How close each graph is, by file name.

    Raises:
        ExportError: see `svc.export.graph`.
        MissingDependencyError: onnx or onnxruntime is not installed.
    """
    described = {**metadata, **_describe(facts)}
    return {
        CONDITION: _export_condition(model, facts, folder / CONDITION, tolerance, described),
        DENOISER: _export_denoiser(model, facts, folder / DENOISER, tolerance, described),
    }


def _export_condition(
    model: Unit2Mel, facts: DiffusionFacts, path: Path, tolerance: float, metadata: dict[str, str]
) -> GraphCheck:
    graph = ConditionGraph(model).eval()
    names, axes = ["units", "f0", "volume"], [{1: "frames"}] * 3
    if facts.n_speakers > 1:
        names.append("spk_mix")
        axes.append({0: "mix_frames"})
    examples = _condition_inputs(facts, _RECORDED_FRAMES, _RECORDED_FRAMES)
    inputs = [GraphInput(n, x, axis) for n, x, axis in zip(names, examples, axes, strict=True)]
    export_graph(graph, inputs, [GraphOutput("condition", {2: "frames"})], path, metadata=metadata)
    mixes = (1, CHECKED_FRAMES[1])
    cases = [_condition_inputs(facts, n, mix) for n, mix in zip(CHECKED_FRAMES, mixes, strict=True)]
    return check_graph(path, graph, cases, tolerance=tolerance)


def _condition_inputs(facts: DiffusionFacts, n_frames: int, mix_frames: int) -> list[Tensor]:
    f0, _ = example_pitch(n_frames, facts.hop_length / facts.sampling_rate, seed=n_frames)
    inputs = [
        0.5 * example_noise((1, n_frames, facts.units_dim), seed=1),
        f0,
        0.1 * example_noise((1, n_frames), seed=2).abs(),
    ]
    if facts.n_speakers > 1:
        weights = example_noise((mix_frames, facts.n_speakers), seed=3).abs()
        inputs.append(weights / weights.sum(dim=1, keepdim=True))
    return inputs


def _export_denoiser(
    model: Unit2Mel, facts: DiffusionFacts, path: Path, tolerance: float, metadata: dict[str, str]
) -> GraphCheck:
    graph, frames = DenoiserGraph(model).eval(), "frames"
    examples = _denoiser_inputs(facts, _RECORDED_FRAMES, 500.0)
    names = ("noise", "time", "condition")
    axes: tuple[dict[int, str], ...] = ({3: frames}, {}, {2: frames})
    inputs = [GraphInput(n, x, axis) for n, x, axis in zip(names, examples, axes, strict=True)]
    export_graph(graph, inputs, [GraphOutput("noise_pred", {3: frames})], path, metadata=metadata)
    cases = [
        _denoiser_inputs(facts, n, min(time, facts.timesteps - 1.0))
        for n, time in zip(CHECKED_FRAMES, _CHECKED_TIMES, strict=True)
    ]
    return check_graph(path, graph, cases, tolerance=tolerance)


def _denoiser_inputs(facts: DiffusionFacts, n_frames: int, time: float) -> list[Tensor]:
    return [
        example_noise((1, 1, facts.n_mels, n_frames), seed=4),
        torch.tensor([time]),
        example_noise((1, facts.n_hidden, n_frames), seed=5),
    ]


def _describe(facts: DiffusionFacts) -> dict[str, str]:
    return {
        "sampling_rate": str(facts.sampling_rate),
        "hop_length": str(facts.hop_length),
        "encoder": facts.encoder,
        "units_dim": str(facts.units_dim),
        "timesteps": str(facts.timesteps),
        "k_step_max": str(facts.k_step_max),
        "mel_range": f"{min(facts.mel_min):g} to {max(facts.mel_max):g}",
    }
