"""The RMVPE net: its file, its folding, its numbers (spec_f0 7.1, 7.3 and 12)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from svc.checkpoint import load_checkpoint
from svc.errors import CheckpointError, MissingFileError
from svc.f0.rmvpe import build_rmvpe
from svc.f0.rmvpe_net import RmvpeConfig, RmvpeNet, fold_batch_norm, infer_config, load_rmvpe
from svc.f0.settings import F0Settings

TINY = "golden_enc_tiny_rmvpe.pt"


class Block(nn.Module):
    """spec_f0 7.3, R(a -> b), with its normalisation and the names of the file."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(),
            nn.Conv2d(b, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(),
        )  # fmt: skip
        if a != b:
            self.shortcut = nn.Conv2d(a, b, 1)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x) if hasattr(self, "shortcut") else x
        y: Tensor = self.conv(x) + shortcut
        return y


def blocks(a: int, b: int, n: int) -> nn.ModuleList:
    return nn.ModuleList([Block(a, b), *(Block(b, b) for _ in range(n - 1))])


class Reference(nn.Module):
    """The whole net as the spec describes it, nothing folded; `tf` is there and unused."""

    unet: Any
    fc: Any

    def __init__(self, c: RmvpeConfig) -> None:
        super().__init__()
        dims = [c.width * 2**i for i in range(c.n_stages)]
        unet = nn.Module()
        unet.encoder, unet.intermediate = nn.Module(), nn.Module()
        unet.tf, unet.decoder = nn.Module(), nn.Module()
        unet.encoder.bn = nn.BatchNorm2d(1)
        unet.encoder.layers = nn.ModuleList()
        for a, b in zip([1, *dims], dims):
            unet.encoder.layers.append(nn.Module())
            unet.encoder.layers[-1].conv = blocks(a, b, c.n_blocks)
        unet.intermediate.layers = nn.ModuleList()
        for i in range(c.n_middle):
            unet.intermediate.layers.append(nn.Module())
            first = dims[-1] if i == 0 else 2 * dims[-1]
            unet.intermediate.layers[-1].conv = blocks(first, 2 * dims[-1], c.n_blocks)
        unet.tf.layers = nn.ModuleList(Block(d, d) for d in dims)
        unet.decoder.layers = nn.ModuleList()
        for d in reversed(dims):
            up = nn.ConvTranspose2d(2 * d, d, 3, 2, 1, output_padding=1, bias=False)
            unet.decoder.layers.append(nn.Module())
            unet.decoder.layers[-1].conv1 = nn.Sequential(up, nn.BatchNorm2d(d), nn.ReLU())
            unet.decoder.layers[-1].conv2 = blocks(2 * d, d, c.n_blocks)
        self.unet = unet
        self.cnn = nn.Conv2d(c.width, c.n_maps, 3, padding=1)
        gru = nn.Module()
        gru.gru = nn.GRU(c.n_maps * c.n_mels, c.gru_dim, batch_first=True, bidirectional=True)
        self.fc = nn.Sequential(gru, nn.Linear(2 * c.gru_dim, c.n_bins))

    def forward(self, mel: Tensor) -> Tensor:
        x = self.unet.encoder.bn(mel.transpose(1, 2)[:, None])
        skips = []
        for stage in self.unet.encoder.layers:
            for block in stage.conv:
                x = block(x)
            skips.append(x)
            x = nn.functional.avg_pool2d(x, 2)
        for stage in self.unet.intermediate.layers:
            for block in stage.conv:
                x = block(x)
        for stage, skip in zip(self.unet.decoder.layers, reversed(skips)):
            x = torch.cat((stage.conv1(x), skip), dim=1)
            for block in stage.conv2:
                x = block(x)
        maps = self.cnn(x)  # (B, 3, N, M)
        vectors = torch.cat([maps[:, i] for i in range(maps.shape[1])], dim=-1)
        return torch.sigmoid(self.fc[1](self.fc[0].gru(vectors)[0]))


@pytest.fixture(scope="module")
def small() -> Reference:
    """A net with statistics that are not those of a new one."""
    torch.manual_seed(0)
    config = RmvpeConfig(n_blocks=2, n_middle=2, width=2, n_mels=64, gru_dim=16, n_bins=40)
    net = Reference(config).double().eval().requires_grad_(False)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.2)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.3, 2.0)
    return net


def test_every_tensor_of_the_published_file_has_its_place(shared: Path) -> None:
    """All 801 names and shapes; 92.0 M parameters, of which 1.6 M are never used."""
    table = json.loads((shared / "spec/tables/statedict_enc_rmvpe_E2E0.json").read_text())
    with torch.device("meta"):
        state = {name: torch.zeros(shape) for name, shape in table.items()}
        folded = fold_batch_norm(state)
        assert infer_config(folded) == RmvpeConfig()
        net, reference = RmvpeNet(RmvpeConfig()), Reference(RmvpeConfig())
    assert {n: list(t.shape) for n, t in reference.state_dict().items()} == table
    assert {n: t.shape for n, t in net.state_dict().items()} == {
        n: t.shape for n, t in folded.items()
    }
    unused = sum(t.numel() for n, t in state.items() if n.startswith("unet.tf."))
    assert len(table) == 801
    assert 1.5e6 < unused < 1.7e6
    assert sum(p.numel() for p in net.parameters()) > 90e6


def test_folding_changes_nothing(small: Reference) -> None:
    """Against the net with its BatchNorm layers, all in float64: weights are stored as float32,
    which moves the salience by 2.5e-9 (limit 1e-7; it varies by 0.1).
    """
    folded = fold_batch_norm(small.state_dict())
    net = RmvpeNet(infer_config(folded)).eval()
    net.load_state_dict(folded)
    mel = torch.randn(2, 64, 96, dtype=torch.float64) * 3 - 5
    with torch.no_grad():
        ours, expected = net.double()(mel), small(mel)
    assert expected.std() > 0.01
    torch.testing.assert_close(ours, expected, atol=1e-7, rtol=0)


def test_the_stored_net(golden: Path) -> None:
    """Salience of the original on its own mel: measured 3.2e-7 in float64, limit 1e-6."""
    arrays = np.load(golden / "golden_enc_rmvpe_parts.npz")
    net = load_rmvpe(golden / TINY).double()
    mel = nn.functional.pad(torch.from_numpy(arrays["mel"]).double(), (0, 224 - 201))
    with torch.no_grad():
        salience = net(mel)[:, :201]
    np.testing.assert_allclose(salience.numpy(), arrays["tiny_hidden"], atol=1e-6, rtol=0)


def forms(state: dict[str, Tensor]) -> dict[str, dict[str, object]]:
    used = {n: t for n, t in state.items() if not n.startswith("unet.tf.")}
    half = {n: t.half() if t.is_floating_point() else t for n, t in used.items()}
    return {"full": {"model": state}, "bare": dict(state), "short": dict(used), "half": dict(half)}


@pytest.mark.parametrize("form", ["full", "bare", "short", "half"])
def test_forms_of_the_file(golden: Path, tmp_path: Path, form: str) -> None:
    """Wrapped or not, with or without the unused layers, and in half precision (whose rounding
    moves the salience by 4e-4).
    """
    state = load_checkpoint(golden / TINY)["model"]
    torch.save(forms(state)[form], tmp_path / "rmvpe.pt")
    net = build_rmvpe(F0Settings(), pretrain_dir=tmp_path)._net
    mel = torch.randn(1, 128, 64) * 2 - 5
    with torch.no_grad():
        ours, expected = net(mel), load_rmvpe(golden / TINY)(mel)
    assert ours.dtype == torch.float32
    limit = 2e-3 if form == "half" else 0
    torch.testing.assert_close(ours, expected, atol=limit, rtol=0)
    assert form != "half" or not torch.equal(ours, expected)


def test_files_that_are_something_else(golden: Path, tmp_path: Path) -> None:
    state = load_checkpoint(golden / TINY)["model"]
    path = tmp_path / "rmvpe.pt"
    with pytest.raises(MissingFileError, match=r"rmvpe\.pt is missing \(RMVPE.*368 MB.*fcpe"):
        build_rmvpe(F0Settings(), pretrain_dir=tmp_path)
    gone, norm = "unet.encoder.layers.0.conv.0.conv.3.weight", "unet.decoder.layers.1.conv1.1.bias"
    narrow = {**state, "fc.0.gru.weight_ih_l0": torch.zeros(768, 192)}
    narrow["fc.0.gru.weight_ih_l0_reverse"] = torch.zeros(768, 192)
    for change, words in (
        ({"model": 3}, "holds no weights"),
        ({"x": torch.ones(2)}, r"holds no RMVPE net: no tensor 'cnn\.weight'"),
        ({n: t for n, t in state.items() if n != gone}, "holds no RMVPE net: no tensor"),
        ({n: t for n, t in state.items() if n != norm}, "holds no RMVPE net: no tensor"),
        (
            {n: t for n, t in state.items() if n != "fc.1.bias"},
            r"missing in the file: output\.bias",
        ),
        ({**state, "extra.weight": torch.ones(1)}, r"unknown to the model: extra\.weight"),
        ({**state, "fc.1.bias": torch.ones(7)}, r"output\.bias is \[7\] in the file"),
        ({**state, "cnn.weight": torch.zeros(5, 1, 3, 3)}, "76 mel bands cannot be halved"),
        (narrow, "64 mel bands, not 128"),
    ):
        torch.save(change, path)
        with pytest.raises(CheckpointError, match=words):
            build_rmvpe(F0Settings(), pretrain_dir=tmp_path)
    shutil.copyfile(golden / TINY, path)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(CheckpointError, match="truncated"):
        build_rmvpe(F0Settings(), pretrain_dir=tmp_path)


def test_a_hostile_file_runs_nothing(tmp_path: Path) -> None:
    target = tmp_path / "attacked"

    class Attack:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(target),)

    torch.save({"model": Attack()}, tmp_path / "rmvpe.pt")
    with pytest.raises(CheckpointError, match=r"would call.*mkdir"):
        build_rmvpe(F0Settings(), pretrain_dir=tmp_path)
    assert not target.exists()
