"""The reference net of spec_diffusion 13, and a small one."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from svc.diffusion import Unit2Mel

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "reference_nets.py"
Golden = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="session")
def hash_noise() -> Callable[..., npt.NDArray[np.float64]]:
    spec = importlib.util.spec_from_file_location("svc_reference_nets", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Callable[..., npt.NDArray[np.float64]] = module.hash_noise
    return made


@pytest.fixture(scope="session")
def fill(hash_noise: Callable[..., npt.NDArray[np.float64]]) -> Callable[[nn.Module], None]:
    """Return a function that gives a net the weights of the formula; buffers are counted, not filled."""

    @torch.no_grad()
    def fill_in(net: nn.Module) -> None:
        parameters = {name for name, _ in net.named_parameters()}
        for stream, (name, tensor) in enumerate(net.state_dict().items()):
            if name not in parameters:
                continue
            shape = tuple(tensor.shape)
            scale = math.sqrt(3 * shape[0] / math.prod(shape))
            if name.endswith("bias") or name.startswith("spk_embed"):
                scale = 0.05 if name.endswith("bias") else 1.0
            tensor.copy_(torch.from_numpy((scale * hash_noise(stream, shape)).astype("f4")))

    return fill_in


@pytest.fixture(scope="session")
def arrays(golden: Path) -> Golden:
    with np.load(golden / "golden_diff.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="session")
def reference(fill: Callable[[nn.Module], None]) -> Unit2Mel:
    """The net of the reference arrays in float64: what is left is the rounding of the arrays."""
    net = Unit2Mel(16, n_mels=8, n_layers=3, n_chans=32, n_hidden=24, n_spk=3)
    fill(net)
    return net.double().eval().requires_grad_(False)


@pytest.fixture(scope="session")
def inputs(arrays: Golden) -> dict[str, Tensor]:
    """Arguments of `condition` for the reference net."""
    return {
        "units": torch.from_numpy(arrays["units"]).double(),
        "f0": torch.from_numpy(arrays["f0"][..., 0]).double(),
        "volume": torch.from_numpy(arrays["volume"][..., 0]).double(),
        "speaker": torch.from_numpy(arrays["spk_id"][0]),
    }


@pytest.fixture(scope="session")
def clean(arrays: Golden) -> Tensor:
    """The mel to refine, (1, M, N)."""
    return torch.from_numpy(arrays["gt_spec"]).double().mT


@pytest.fixture(scope="session")
def drawn_like_a_mel() -> Callable[[], Tensor]:
    """Return a function that draws noise (1, 1, 8, 20) as the original does beside a mel.

    It draws it like the transposed mel, frame by frame, and then torch's generator makes other
    numbers than for a plain array. The reference file has plain draws from the same seeds (5, 7 and
    8) under the names of these; outputs that start from a mel were made with what is drawn here.
    """

    def draw() -> Tensor:
        return torch.randn_like(torch.empty(1, 20, 8).mT[:, None]).double()

    return draw


@pytest.fixture
def small() -> Callable[..., Unit2Mel]:
    """Return a function that builds a small net with weights of its own, in eval mode."""

    def build(**changes: Any) -> Unit2Mel:
        torch.manual_seed(0)
        sizes = {"n_mels": 6, "n_layers": 2, "n_chans": 16, "n_hidden": 12, "timesteps": 100}
        net = Unit2Mel(5, **{**sizes, "n_spk": 3, "k_step_max": 100, **changes})
        # Fresh nets tell no noise at all (their last weights are zero).
        nn.init.normal_(net.decoder.denoise_fn.output_projection.weight, std=0.1)
        return net.eval()

    return build
