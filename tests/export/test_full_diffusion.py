"""diffusion_condition.onnx and diffusion_denoiser.onnx against Unit2Mel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from svc.config import DiffusionConfig, load_diffusion_config
from svc.config.templates import find_template
from svc.diffusion import Unit2Mel, make_plan, schedule_arrays
from svc.errors import CheckpointError
from svc.export.full_diffusion import diffusion_facts, export_diffusion

LIMIT = 1e-5  # of numbers as large as 4
N_MELS = 8


def make_config(n_spk: int) -> DiffusionConfig:
    config = load_diffusion_config(find_template("diffusion_template.yaml"))
    sizes = {"n_layers": 2, "n_chans": 16, "n_hidden": 12, "n_spk": n_spk, "k_step_max": 300}
    return replace(
        config,
        model=replace(config.model, **sizes),
        data=replace(config.data, encoder_out_channels=10),
    )


def make_model(config: DiffusionConfig) -> Unit2Mel:
    torch.manual_seed(0)
    model = Unit2Mel.from_config(config, n_mels=N_MELS).eval().requires_grad_(False)
    model.decoder.denoise_fn.output_projection.weight.normal_(0, 0.3)  # zero in a fresh net
    return model


def open_graph(path: Path) -> Any:
    session = onnxruntime.InferenceSession(path)

    def run(**feed: torch.Tensor) -> np.ndarray:
        assert [port.name for port in session.get_inputs()] == list(feed)
        return session.run(None, {name: x.numpy() for name, x in feed.items()})[0]

    return run


@pytest.mark.parametrize("n_spk", [1, 3])
def test_graphs_are_the_net(n_spk: int, tmp_path: Path) -> None:
    config = make_config(n_spk)
    model = make_model(config)
    facts = diffusion_facts(model, config, what="x")
    assert (facts.n_speakers, facts.n_mels, facts.n_hidden, facts.units_dim) == (n_spk, 8, 12, 10)
    assert (facts.timesteps, facts.k_step_max) == (1000, 300)
    assert (facts.mel_min, facts.mel_max) == ((-12.0,), (2.0,))
    checks = export_diffusion(model, facts, tmp_path, tolerance=LIMIT, metadata={"a": "b"})
    assert list(checks) == ["diffusion_condition.onnx", "diffusion_denoiser.onnx"]
    condition, denoiser = (open_graph(tmp_path / name) for name in checks)

    n_frames = 31
    inputs = {
        "units": torch.randn(1, n_frames, 10),
        "f0": 200 + 100 * torch.rand(1, n_frames),
        "volume": 0.1 * torch.rand(1, n_frames),
    }
    wanted = model.condition(**inputs, speaker=torch.tensor([n_spk - 1]))
    fed = {**inputs, **({"spk_mix": torch.eye(n_spk)[-1:]} if n_spk > 1 else {})}
    told = condition(**fed)
    assert told.shape == (1, 12, n_frames)
    assert np.abs(told - wanted.numpy()).max() <= LIMIT
    if n_spk > 1:
        mix = torch.rand(n_frames, n_spk)
        wanted = model.condition(**inputs, speaker_mix=mix)
        assert np.abs(condition(**inputs, spk_mix=mix) - wanted.numpy()).max() <= LIMIT

    noise = torch.randn(1, 1, N_MELS, n_frames)
    for time in (0.0, 37.25, 999.0):
        at = torch.tensor([time])
        found = denoiser(noise=noise, time=at, condition=wanted)
        expected = model.decoder.denoise_fn(noise, at, wanted)
        assert found.shape == expected.shape
        assert np.abs(found - expected.numpy()).max() <= LIMIT
    properties = {
        p.key: p.value for p in onnx.load(tmp_path / "diffusion_denoiser.onnx").metadata_props
    }
    assert (properties["a"], properties["timesteps"], properties["k_step_max"]) == (
        "b",
        "1000",
        "300",
    )


def test_a_sampler_drives_the_graph_without_torch(tmp_path: Path) -> None:
    config = make_config(1)
    model = make_model(config)
    facts = diffusion_facts(model, config, what="x")
    export_diffusion(model, facts, tmp_path, tolerance=LIMIT, metadata={})
    run = open_graph(tmp_path / "diffusion_denoiser.onnx")
    condition, x = torch.randn(1, 12, 20), torch.randn(1, 1, N_MELS, 20)

    def denoise(noisy: Any, time: float) -> Any:
        return run(
            noise=torch.from_numpy(np.float32(noisy)),
            time=torch.tensor([time], dtype=torch.float32),
            condition=condition,
        )

    plan = make_plan(schedule_arrays(facts.timesteps), "dpm-solver++", k_step=100, speedup=10)
    found = plan.run(x.numpy(), denoise, lambda: np.zeros(1))
    torch_plan = model.decoder.plan("dpm-solver++", k_step=100, speedup=10)
    wanted = model.decoder.sample(x, condition, torch_plan, lambda: torch.zeros(1))
    assert np.abs(found - wanted.numpy()).max() <= 1e-4


def test_another_schedule_is_refused() -> None:
    config = make_config(1)
    model = make_model(config)
    getattr(model.decoder, "betas")[3] *= 2  # noqa: B009 - a buffer, which mypy takes for a module
    with pytest.raises(CheckpointError, match=r"model\.pt: its noise schedule \(betas\)"):
        diffusion_facts(model, config, what="model.pt")
