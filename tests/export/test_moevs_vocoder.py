"""The vocoder's graph against its net (spec_onnx 4, O8)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.vocoder.source import SourceNoise

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from svc.export.moevs_random import fix_random_nodes
from svc.export.moevs_vocoder import export_vocoder

LIMIT = 1e-5  # of samples up to 1


def _beside(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


M: Any = _beside("moevs_models")


def test_the_graph_is_the_net(tmp_path: Path) -> None:
    path = tmp_path / "nsf_hifigan.onnx"
    net = M.make_vocoder().requires_grad_(False)
    net.fold()
    check = export_vocoder(net, 8, path, tolerance=LIMIT, metadata={"n_mels": "8"})
    assert check.lengths == (61, 233)
    assert M.ports(path) == {
        "mel": ("f32", [1, 8, "frames"]),
        "f0": ("f32", [1, "frames"]),
        "audio": ("f32", [1, 1, "samples"]),
    }
    assert M.opset(path) == 16
    assert M.facts(path) == {"n_mels": "8"}

    n_frames = 13
    mel, f0 = torch.randn(1, 8, n_frames) - 5, 100 + 300 * torch.rand(1, n_frames)
    f0[:, 4:6] = 0
    phase = torch.full((1, 9), 0.25)
    phase[:, 0] = 0
    noise = SourceNoise(phase, torch.full((1, n_frames * 512, 9), 0.5))
    wanted = net(mel, f0, random=noise)
    found = M.open_graph(path, fix_random_nodes)(mel=mel, f0=f0)
    assert found.shape == (1, 1, n_frames * 512)
    assert np.abs(found).max() > 0.01
    assert np.abs(found - wanted.numpy()).max() <= LIMIT

    run = M.open_graph(path)
    assert np.abs(run(mel=mel, f0=f0) - run(mel=mel, f0=f0)).max() > 1e-4
