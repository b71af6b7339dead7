"""The four graphs of a diffusion voice, driven by a client's PLMS loop (spec_onnx 2)."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from svc.diffusion import Unit2Mel

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from svc.export.moevs_diffusion import PARTS, export_diffusion

LIMIT = 1e-5  # of numbers as large as 12


def _beside(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


M: Any = _beside("moevs_models")


def export(net: Unit2Mel, folder: Path, *, log10: bool = False) -> dict[str, Any]:
    """Write the graphs; returns what runs each of them."""
    paths = {part: folder / f"x_{part}.onnx" for part in PARTS}
    checks = export_diffusion(net, paths, log10=log10, tolerance=LIMIT, metadata={})
    assert list(checks) == list(PARTS)
    return {part: M.open_graph(path) for part, path in paths.items()}


def plms(run: dict[str, Any], x: np.ndarray, condition: np.ndarray, k_step: int, speedup: int):  # type: ignore[no-untyped-def]
    """What a client does, in numpy (spec_diffusion 8.3)."""

    def told(x: np.ndarray, time: int) -> Any:
        return run["denoise"](noise=x, time=np.array([time]), condition=condition)

    def jump(x: np.ndarray, e: np.ndarray, time: int) -> Any:
        times = {"time": np.array([time]), "time_prev": np.array([max(time - speedup, 0)])}
        return run["pred"](noise=x, noise_pred=e, **times)

    history: list[np.ndarray] = []
    for time in range(0, k_step, speedup)[::-1]:
        e = told(x, time)
        if not history:
            mean = (e + told(jump(x, e, time), max(time - speedup, 0))) / 2
        elif len(history) == 1:
            mean = (3 * e - history[-1]) / 2
        elif len(history) == 2:
            mean = (23 * e - 16 * history[-1] + 5 * history[-2]) / 12
        else:
            mean = (55 * e - 59 * history[-1] + 37 * history[-2] - 9 * history[-3]) / 24
        x = jump(x, mean, time)
        history.append(e)
    return run["after"](x=x)


def song(units_dim: int, n_frames: int = 23, n_units: int = 9) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(n_frames)
    return {
        "hubert": torch.randn(1, n_units, units_dim, generator=draw),
        "mel2ph": torch.randint(0, n_units + 1, (1, n_frames), generator=draw),
        "f0": 100 + 300 * torch.rand(1, n_frames, generator=draw),
        "volume": torch.rand(1, n_frames, generator=draw),
    }


def stretched(given: dict[str, Tensor]) -> Tensor:
    """Units per frame, by hand."""
    rows = torch.cat([torch.zeros_like(given["hubert"][:, :1]), given["hubert"]], dim=1)
    return torch.stack([rows[:, int(row)] for row in given["mel2ph"][0]], dim=1)


@pytest.mark.parametrize("n_spk", [None, 3])
def test_names_types_and_sizes(n_spk: int | None, tmp_path: Path) -> None:
    export(M.make_diffusion(M.diffusion_config(n_spk=n_spk)), tmp_path)
    noise = ("f32", [1, 1, 8, "frames"])
    condition = ("f32", [1, 12, "frames"])
    wanted = {
        "encoder": {
            "hubert": ("f32", [1, "units", 10]),
            "mel2ph": ("i64", [1, "frames"]),
            "f0": ("f32", [1, "frames"]),
            "volume": ("f32", [1, "frames"]),
            **({"spk_mix": ("f32", ["frames", 3])} if n_spk else {}),
            "mel_pred": condition,
        },
        "denoise": {
            "noise": noise,
            "time": ("i64", [1]),
            "condition": condition,
            "noise_pred": noise,
        },
        "pred": {
            "noise": noise,
            "noise_pred": noise,
            "time": ("i64", [1]),
            "time_prev": ("i64", [1]),
            "noise_pred_o": noise,
        },
        "after": {"x": noise, "mel_out": ("f32", [1, 8, "frames"])},
    }
    for part, described in wanted.items():
        path = tmp_path / f"x_{part}.onnx"
        found = M.ports(path)
        assert found == described
        assert list(found) == list(described)
        assert M.opset(path) == 16


@pytest.mark.parametrize(
    ("k_step_max", "k_step", "speedup"),
    [(0, 100, 10), (60, 60, 7), (100, 3, 2)],
    ids=["usual", "few trained steps", "two evaluations"],
)
def test_a_clients_loop_is_our_sampler(
    k_step_max: int, k_step: int, speedup: int, tmp_path: Path
) -> None:
    net = M.make_diffusion(M.diffusion_config(n_spk=3, k_step_max=k_step_max))
    run, given = export(net, tmp_path), song(10)
    mix = torch.rand(23, 3)
    condition = run["encoder"](**given, spk_mix=mix)
    draw = torch.Generator().manual_seed(1)
    mel, noise = (torch.randn(1, *shape, 23, generator=draw) for shape in ((8,), (1, 8)))
    mel -= 5
    noisy = net.decoder.add_noise(net.decoder.normalize(mel), torch.tensor([k_step - 1]), noise)
    found = plms(run, noisy.numpy(), condition, k_step, speedup)
    wanted = net.infer(
        stretched(given), given["f0"], given["volume"], speaker_mix=mix, mel=mel, noise=noise,
        k_step=k_step, method="pndm", speedup=speedup, compat=True,
    )  # fmt: skip
    assert found.shape == (1, 8, 23)
    assert np.abs(found - mel.numpy()).max() > 0.01
    assert np.abs(found - wanted.numpy()).max() <= LIMIT


def hashed(stream: int, shape: tuple[int, ...]) -> np.ndarray:
    """r of spec_diffusion 13."""
    j = np.arange(math.prod(shape), dtype=np.float64)
    v = np.sin(12.9898 * j + 78.233 * stream + 1) * 43758.5453
    return (2 * (v - np.floor(v)) - 1).reshape(shape)


@pytest.mark.parametrize(("k_step", "speedup"), [(100, 10), (95, 10), (60, 10), (200, 7)])
def test_against_the_original(k_step: int, speedup: int, golden: Path, tmp_path: Path) -> None:
    arrays = np.load(golden / "golden_diff.npz")
    net = Unit2Mel(16, n_mels=8, n_layers=3, n_chans=32, n_hidden=24, n_spk=3).eval()
    for stream, (name, x) in enumerate(net.state_dict().items()):
        if name not in dict(net.named_parameters()):
            continue
        r = hashed(stream, tuple(x.shape))
        scale = 0.05 if name.endswith("bias") else math.sqrt(3 * x.shape[0] / x.numel())
        x.copy_(torch.from_numpy(r * (1 if name == "spk_embed.weight" else scale)))
    run = export(net.requires_grad_(False), tmp_path)
    condition = run["encoder"](
        hubert=arrays["units"],
        mel2ph=np.arange(1, 21)[None],
        f0=arrays["f0"][..., 0],
        volume=arrays["volume"][..., 0],
        spk_mix=np.eye(3, dtype=np.float32)[[int(arrays["spk_id"][0, 0])] * 20],
    )
    assert np.abs(condition - arrays["cond"]).max() <= LIMIT
    told = run["denoise"](noise=arrays["wn_x"], time=np.array([999]), condition=arrays["cond"])
    assert np.abs(told - arrays["wn_out_t999"]).max() <= LIMIT
    # The original draws it frame by frame, like the transposed mel; the array noise_shallow is a
    # plain draw of the same seed and not what it started from.
    torch.manual_seed(5)
    noise = torch.randn_like(torch.empty(1, 20, 8).mT[:, None])
    clean = torch.from_numpy(arrays["gt_spec"]).mT
    noisy = net.decoder.add_noise(net.decoder.normalize(clean), torch.tensor([k_step - 1]), noise)
    found = plms(run, noisy.numpy(), condition, k_step, speedup)
    wanted = arrays[f"pndm_k{k_step}_s{speedup}"].swapaxes(1, 2)
    # Float32 on both sides, and values up to 17: 1e-6 of the largest is usual.
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("log10", [False, True])
def test_after_gives_the_mel_that_the_vocoder_hears(log10: bool, tmp_path: Path) -> None:
    net = M.make_diffusion(M.diffusion_config())
    net.decoder.spec_min.fill_(-11.0)  # a checkpoint may have other limits
    run = export(net, tmp_path, log10=log10)
    x = torch.randn(1, 1, 8, 17)
    wanted = net.decoder.denormalize(x) * (0.434294 if log10 else 1)
    assert np.abs(run["after"](x=x) - wanted.numpy()).max() <= LIMIT


def test_the_last_jump_goes_nowhere(tmp_path: Path) -> None:
    net = M.make_diffusion(M.diffusion_config())
    x, e = torch.randn(2, 1, 1, 8, 17)
    zero = torch.tensor([0])
    found = export(net, tmp_path)["pred"](noise=x, noise_pred=e, time=zero, time_prev=zero)
    assert (found == x.numpy()).all()
