"""The bench of diffusion: that the plain path does the same work, and that its tables say what is measured."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from svc.checkpoint import save_checkpoint
from svc.config.diffusion import save_diffusion_config
from svc.diffusion import METHODS, Unit2Mel

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Import a script as it is imported when run: by its bare name, beside its folder's others."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.syspath_prepend(str(SCRIPTS / "bench"))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(SCRIPTS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The bench sets the number of threads; what it was comes back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def numbers(cell: str) -> list[float]:
    return [float(text) for text in re.findall(r"\d+\.\d+", cell)]


def rows(text: str) -> list[list[str]]:
    """Cells of the lines that are rows of tables."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("k_step", "speedup"), [(100, 10), (50, 20), (300, 25)])
def test_the_plain_path_does_the_same(load: Load, method: str, k_step: int, speedup: int) -> None:
    """With `compat` it makes as many evaluations too."""
    torch.manual_seed(0)
    net = Unit2Mel(5, n_mels=6, n_layers=2, n_chans=16, n_hidden=12, timesteps=1000).eval()
    nn.init.normal_(net.decoder.denoise_fn.output_projection.weight, std=0.1)
    plain = load("diffusion_plain").PlainDiffusion(net.state_dict())
    x, condition = torch.randn(2, 1, 6, 20), torch.randn(2, 12, 20)
    made = []
    speedup = 1 if method == "ddpm" else speedup
    plan = net.decoder.plan(method, k_step=k_step, speedup=speedup, compat=True)
    for sample in (
        lambda draw: plain.sample(x, condition, method, k_step=k_step, speedup=speedup, draw=draw),
        lambda draw: net.decoder.sample(x, condition, plan, draw),
    ):
        draws = torch.Generator().manual_seed(4)
        made.append(sample(lambda draws=draws: torch.randn(x.shape, generator=draws)))
    assert plain.evaluations == len(plan.times)
    torch.testing.assert_close(made[0], made[1], atol=2e-5, rtol=0)
    assert float(made[0].std()) > 0.3


def test_the_speed_tables(load: Load, tmp_path: Path, one_thread: None) -> None:
    document = tmp_path / "diffusion.md"
    words = ["--quick", "--threads", "1", "--out", str(document)]
    assert load("diffusion").main(words) == 0
    text = document.read_text()
    for section in ("diffusion speed cpu 1", "diffusion batches cpu 1", "vocoder speed cpu 1"):
        assert f"<!-- {section}: begin -->" in text
    found = {row[0]: row for row in rows(text)}
    assert found["ddim"][1:5] == ["100", "20", "5", "4"]
    assert found["pndm"][1:5] == ["100", "20", "6", "5"]
    assert found["unipc"][1:5] == ["100", "20", "5", "5"]
    for name in ("ddpm", "fp32", "bf16", "template_vocoder_small"):
        values = numbers(" ".join(found[name][1:]))
        assert len(values) >= 3
        assert all(value > 0 for value in values)


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set with a vocoder and a diffusion model, in the working folder; returns the model."""
    monkeypatch.chdir(tmp_path)
    path = ROOT / "tests" / "training" / "small_diffusion_run.py"
    spec = importlib.util.spec_from_file_location("small_diffusion_run", path)
    assert spec is not None
    assert spec.loader is not None
    small: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(small)
    run = small.write_run(weights=True)
    config = run.edit(infer={"speedup": 2}, model={"timesteps": 1000, "k_step_max": 100})
    torch.manual_seed(0)
    net = Unit2Mel.from_config(config, n_mels=small.N_MELS)
    nn.init.normal_(net.decoder.denoise_fn.output_projection.weight, std=1.0)
    folder = tmp_path / "run"
    folder.mkdir()
    for step in (5, 40):
        save_checkpoint(
            {"global_step": step, "model": net.state_dict()}, folder / f"model_{step}.pt"
        )
    save_diffusion_config(config, folder / "config.yaml")
    return folder


def test_the_quality_tables(load: Load, tmp_path: Path, trained: Path, one_thread: None) -> None:
    document = tmp_path / "diffusion.md"
    words = ["--no_speed", "--threads", "1", "--model", str(trained), "--out", str(document)]
    assert load("diffusion").main([*words, "--clips", "2", "--seeds", "2"]) == 0
    text = document.read_text()
    found = {row[0]: row for row in rows(text)}
    assert "2 held-out clips, k_step 100" in text
    floor = float(re.findall(r"ddpm are (\d\.\d+) apart", text)[0])
    assert floor > 0
    for method in METHODS[1:]:
        cells = [numbers(cell) for cell in found[method][1:]]
        assert len(cells) == 8
        # To ddpm, to the limit of many steps, detail.
        assert all(value > 0 for cell in cells for value in cell)
        assert {len(cell) for cell in cells} == {3}
    to_limit = [numbers(cell)[1] for cell in found["unipc"][1:]]
    assert to_limit[-1] < 0.5 * to_limit[0]
    for name, least in (("bf16", 25), ("fp16", 40)):
        assert float(found[name][2].removesuffix(" dB")) > least
        assert 0 <= numbers(found[name][1])[0] < 0.2


def test_more_evaluations_come_nearer(load: Load, tmp_path: Path, trained: Path) -> None:
    """The distance that the table is made of falls towards that of many steps."""
    quality = load("diffusion_quality")
    nets = quality.load_nets(trained / "model_40.pt", Path(), torch.device("cpu"))
    (clip,) = quality.load_clips(nets, Path(), 1)
    target: Tensor = quality.refine(nets, clip, "dpm-solver++", 2)
    away = [
        quality.distance(quality.refine(nets, clip, "dpm-solver++", 100 // n), target)
        for n in (2, 5, 20)
    ]
    assert away == sorted(away, reverse=True)
    assert away[2] < 0.5 * away[0]
