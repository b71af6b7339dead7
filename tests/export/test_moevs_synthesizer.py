"""<folder>_SoVits.onnx against the net it was made of (spec_onnx 1)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from svc.errors import ConfigError
from svc.synthesizer import Synthesizer
from svc.synthesizer.output import InferenceNoise
from svc.vocoder.source import SourceNoise

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from svc.export.moevs_random import fix_random_nodes
from svc.export.moevs_synthesizer import export_synthesizer

LIMIT = 1e-5  # of samples up to 1; 1e-6 is usual


def _beside(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


M: Any = _beside("moevs_models")

VARIANTS = (
    "tiny", "transformer_flow", "transformer_flow_shared", "snake", "no_auto_f0",
    "flow_share_parameter", "depthwise", "resblock2",
)  # fmt: skip


def export(net: Synthesizer, ids: list[int], path: Path, tolerance: float = LIMIT) -> Any:
    return export_synthesizer(net, ids, path, tolerance=tolerance, metadata={})


def clip(net: Synthesizer, n_frames: int) -> dict[str, Tensor]:
    """What a client has: units, pitch, voicing, noise."""
    draw = torch.Generator().manual_seed(n_frames)
    f0 = 100 + 300 * torch.rand(1, n_frames, generator=draw)
    f0[:, n_frames // 3] = 0
    return {
        "c": torch.randn(1, 9, net.config.ssl_dim, generator=draw),
        "f0": f0,
        "mel2ph": torch.randint(0, 10, (1, n_frames), generator=draw),
        "uv": (f0 > 0).float(),
        "noise": torch.randn(1, net.config.inter_channels, n_frames, generator=draw),
    }


def sing(net: Synthesizer, given: dict[str, Tensor], g: Tensor, **options: Any) -> Tensor:
    """The net on units stretched by hand and the numbers that stand for the random ones."""
    rows = torch.cat([torch.zeros(1, 1, net.config.ssl_dim), given["c"]], dim=1)
    units = torch.stack([rows[0, int(row)] for row in given["mel2ph"][0]], dim=1)[None]
    n_frames = given["f0"].shape[1]
    phase = torch.full((1, 9), 0.25)
    phase[:, 0] = 0
    source = SourceNoise(phase, torch.full((1, n_frames * net.hop_length, 9), 0.5))
    noise = InferenceNoise(given["noise"] / 0.4, source)
    return net.synthesize(
        units, given["f0"], given["uv"], g, noise, noise_scale=0.4, predict_f0=False,
        **{"volume": None, **options},
    )[0]  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_voice(variant: str, shared: Path, tmp_path: Path) -> None:
    raw = json.loads((shared / f"spec/tables/config_{variant}.json").read_text(encoding="utf-8"))
    net = M.make_voice(M.shrink(raw))
    check = export(net, [0], tmp_path / "x.onnx")
    assert check.max_abs_error <= LIMIT
    assert len(set(check.lengths)) == 2


@pytest.mark.parametrize(("speakers", "volume"), [(1, False), (3, True)])
def test_names_types_and_sizes(speakers: int, volume: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    net = M.make_voice(M.voice_config(speakers, vol_embedding=volume, inter_channels=6))
    export(net, list(range(speakers)), path)
    wanted = {
        "c": ("f32", ["batch", "units", 10]),
        "f0": ("f32", [1, "frames"]),
        "mel2ph": ("i64", [1, "frames"]),
        "uv": ("f32", [1, "frames"]),
        "noise": ("f32", [1, 6, "frames"]),
        "sid": ("i64", [1]) if speakers == 1 else ("f32", ["frames", 3]),
        **({"vol": ("f32", [1, "frames"])} if volume else {}),
        "audio": ("f32", [1, 1, "samples"]),
    }
    found = M.ports(path)
    assert found == wanted
    assert list(found) == list(wanted)
    assert M.opset(path) == 16


def test_a_clip_of_any_length(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    net = M.make_voice(M.voice_config(vol_embedding=True))
    export(net, [0], path)
    run = M.open_graph(path, fix_random_nodes)
    for n_frames in (1, 2, 31):
        given, volume = clip(net, n_frames), torch.full((1, n_frames), 0.2)
        found = run(**given, sid=torch.tensor([2]), vol=volume)
        wanted = sing(net, given, net.speaker_condition(torch.tensor([2])), volume=volume)
        assert found.shape == (1, 1, n_frames * 512)
        assert np.abs(found).max() > 0.01
        assert np.abs(found - wanted.numpy()).max() <= LIMIT
    other = run(**given, sid=torch.tensor([0]), vol=volume)
    assert np.abs(found - other).max() > 100 * LIMIT


def test_speakers_are_mixed_in_the_order_of_the_config(tmp_path: Path) -> None:
    path, n_frames = tmp_path / "x.onnx", 20
    net = M.make_voice(M.voice_config(3))
    export(net, [2, 0, 1], path)
    run, given = M.open_graph(path, fix_random_nodes), clip(net, n_frames)
    second = torch.eye(3)[[1] * n_frames]
    wanted = sing(net, given, net.speaker_condition(torch.tensor([0])))
    assert np.abs(run(**given, sid=second) - wanted.numpy()).max() <= LIMIT
    weights = torch.rand(n_frames, 3)  # they do not add up to 1, and are not made to
    mixed = weights[:, [1, 2, 0]]  # by id
    wanted = sing(net, given, net.speaker_condition(None, mixed))
    assert np.abs(run(**given, sid=weights) - wanted.numpy()).max() <= LIMIT


def test_two_takes_differ_as_their_noise_does(tmp_path: Path) -> None:
    import onnx

    path = tmp_path / "x.onnx"
    net = M.make_voice(M.voice_config())
    export(net, [0], path)
    kinds = [n.op_type for n in onnx.load(str(path)).graph.node if n.op_type.startswith("Random")]
    assert sorted(kind.removesuffix("Like") for kind in kinds) == ["RandomNormal", "RandomUniform"]
    run, given = M.open_graph(path), clip(net, 40)
    first, second = (run(**given, sid=torch.tensor([0])) for _ in range(2))
    assert np.isfinite(first).all()
    assert np.abs(first - second).max() > 1e-4
    # Another draw of the net itself differs as much.
    noise = net.draw_noise(1, 40, seed=1, device=torch.device("cpu")).source
    g = net.speaker_condition(torch.tensor([0]))
    units = torch.zeros(1, net.config.ssl_dim, 40)
    ours = net.synthesize(
        units, given["f0"], given["uv"], g, InferenceNoise(given["noise"], noise), noise_scale=1.0,
        predict_f0=False, volume=None,
    )[0]  # fmt: skip
    assert 0.5 < first.std() / ours.std() < 2


def test_a_speaker_that_the_net_has_not(tmp_path: Path) -> None:
    net = M.make_voice(M.voice_config())
    with pytest.raises(ConfigError, match="has the id 3, the net 3 speakers, 0 to 2"):
        export(net, [0, 3], tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_other_random_nodes_are_not_silenced(tmp_path: Path) -> None:
    import onnx

    path = tmp_path / "x.onnx"
    export(M.make_voice(M.voice_config()), [0], path)
    model = onnx.load(str(path))
    model.graph.node.append(onnx.helper.make_node("RandomNormal", [], ["more"], shape=[1]))
    with pytest.raises(ValueError, match="random nodes"):
        fix_random_nodes(model)
