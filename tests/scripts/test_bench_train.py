"""The bench of training: that the plain step does the same work, and that the tables say what was
measured.
"""

from __future__ import annotations

import copy
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from svc.config import SvcConfig, parse_config
from svc.synthesizer.model import Synthesizer
from svc.training.batches import Batch
from svc.training.step import Adversaries
from svc.vocoder.discriminator import Discriminator

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
LIMITS = (2e-5, 1e-3)
"""Of the first step: rounding. Of the second: AdamW's first step moves a weight by the learning rate
towards where its gradient points, and where that is next to nothing, rounding decides.
"""
LOSSES = ("disc", "mel", "kl", "fm", "gen", "lf0")
SMALL: dict[str, Any] = {
    "train": {"segment_size": 1280},
    "data": {"sampling_rate": 8000, "filter_length": 256, "hop_length": 64, "win_length": 256,
             "n_mel_channels": 20, "mel_fmax": None},
    "model": {
        "inter_channels": 8, "hidden_channels": 8, "filter_channels": 16, "n_heads": 2,
        "n_layers": 2, "kernel_size": 3, "p_dropout": 0.1, "resblock": "1",
        "resblock_kernel_sizes": [3, 5], "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]],
        "upsample_rates": [8, 4, 2], "upsample_initial_channel": 16,
        "upsample_kernel_sizes": [16, 8, 4], "n_flow_layer": 2, "gin_channels": 6, "ssl_dim": 10,
        "n_speakers": 2, "discriminator_width": 0.03,
    },
    "spk": {"a": 0, "b": 1},
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "quick": {"use_depthwise_conv": True, "flow_share_parameter": True, "resblock": "2"},
    "volume, no pitch": {"vol_embedding": True, "use_automatic_f0_prediction": False},
}

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


def config_with(**model: Any) -> SvcConfig:
    raw = copy.deepcopy(SMALL)
    raw["model"] |= model
    return parse_config(raw, where="test")


def batch_for(config: SvcConfig, frames: int = 40) -> Batch:
    """Three clips, the last two shorter."""
    generator = torch.Generator().manual_seed(0)
    model, data, size = config.model, config.data, 3
    lengths = torch.tensor([frames, frames - 9, frames - 15])
    inside = (torch.arange(frames) < lengths[:, None]).float()
    f0 = (100 + 200 * torch.rand(size, frames, generator=generator)) * inside
    return Batch(
        units=torch.randn(size, model.ssl_dim, frames, generator=generator),
        f0=f0,
        uv=(f0 > 130).float(),
        spec=torch.rand(size, data.spec_channels, frames, generator=generator),
        wav=0.1 * torch.randn(size, 1, frames * data.hop_length, generator=generator),
        speaker=torch.tensor([0, 1, 0]),
        lengths=lengths,
        volume=torch.rand(size, frames, generator=generator) if model.vol_embedding else None,
        names=("x", "y", "z"),
    )


def nets_for(config: SvcConfig) -> tuple[Synthesizer, Discriminator]:
    """Nets that draw like the original, without dropout, whose flow does something."""
    torch.manual_seed(0)
    generator = Synthesizer.from_config(config, compat=True).eval()
    with torch.no_grad():
        for name, parameter in generator.flow.named_parameters():
            if ".post." in name:
                parameter.normal_(0, 0.2)
    return generator, Discriminator(width=config.model.discriminator_width)


def plain_losses(load: Load, config: SvcConfig, **options: bool) -> list[dict[str, float]]:
    """Of two steps."""
    plain = load("train_plain")
    trainer = plain.PlainTrainer(config, *nets_for(config), plain.Options(**options))
    torch.manual_seed(1)
    steps = [trainer.step(batch_for(config)) for _ in range(2)]
    return [{name: float(value) for name, value in losses.items()} for losses in steps]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_plain_step_and_the_trainers_have_the_same_losses(load: Load, variant: str) -> None:
    """Our step has everything that changes no number but by rounding: one batch for real and fake,
    channels last, fused AdamW, mel of the windows, a frozen discriminator.
    """
    config = config_with(**VARIANTS[variant])
    generator, discriminator = nets_for(config)
    nets = Adversaries(
        config, torch.device("cpu"), generator=generator, discriminator=discriminator
    )
    nets.generator.eval()
    torch.manual_seed(1)
    ours = [nets.step(batch_for(config), number, detailed=True) for number in (1, 2)]
    for expected, detail, limit in zip(plain_losses(load, config), ours, LIMITS, strict=True):
        assert detail is not None
        assert set(LOSSES) - {"lf0"} <= expected.keys()
        for name, value in expected.items():
            assert float(detail.losses[name]) == pytest.approx(value, rel=limit), name


@pytest.mark.parametrize(
    "option", ["one_pass", "frozen", "fused", "one_norm", "windows", "channels_last", "bf16"]
)
def test_no_option_changes_the_losses(load: Load, option: str) -> None:
    """Rounding alone, of float32 or of bfloat16, in the first step. (AdamW's first update has one size
    for every weight, so where a gradient is nearly 0 rounding decides the sign, and the second step
    differs by more, on some machines.)
    """
    config, limit = config_with(), 0.03 if option == "bf16" else LIMITS[0]
    plain, other = plain_losses(load, config), plain_losses(load, config, **{option: True})
    for name, value in plain[0].items():
        assert other[0][name] == pytest.approx(value, rel=limit), name
    if option == "bf16":
        assert plain[0] != other[0]


def test_a_variant_without_a_plain_path_is_refused(load: Load) -> None:
    config = config_with(use_transformer_flow=True)
    with pytest.raises(ValueError, match="plain path"):
        load("train_plain").PlainTrainer(config, *nets_for(config))


def test_gains_are_medians_over_rounds(load: Load) -> None:
    train = load("train")
    table = [train.Row("plain"), train.Row("fast")]

    def answer(seconds: float, peak: float = 1e6) -> dict[str, float]:
        return {"steps": 2, "seconds": seconds, "clips": 12, "audio": 24.0, "peak": peak,
                "waiting": 0.5}  # fmt: skip

    # The machine is three times as slow in the second round; gains are 2, 4 and 5.
    answers = [
        [answer(2), answer(6), answer(2)],
        [answer(1), answer(1.5), answer(0.4, peak=3e6)],
    ]
    plain, fast = train.figures(table, answers)
    assert plain["gain"] == 1
    assert fast["gain"] == pytest.approx(4)
    assert fast["steps_per_s"] == pytest.approx(2)
    assert fast["clips_per_s"] == pytest.approx(12)
    assert fast["peak_bytes"] == 3e6
    assert train.markdown([fast])[-1] == "| fast | 2 | 4.00 | 12 | 24 | 3 | 50.0% |"


def test_no_gpu_is_one_line(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert load("train").main(["--device", "cuda", "--full"]) == 0
    assert capsys.readouterr().out == "no CUDA device here: nothing is measured\n"


def test_processor_time_is_for_one_thread(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load("train").main(["--clock", "cpu", "--threads", "2"])
    assert "--threads 1" in capsys.readouterr().err


@pytest.mark.slow
def test_a_quick_run_writes_its_table(load: Load, tmp_path: Path) -> None:
    doc, figures = tmp_path / "training.md", tmp_path / "figures.json"
    arguments = ["--quick", "--threads", "1", "--steps", "1", "--batch_sizes", "2"]
    assert load("train").main([*arguments, "--out", str(doc), "--json", str(figures)]) == 0
    rows = json.loads(figures.read_text())["speed cpu 1 small 2"]["rows"]
    assert rows[0]["row"] == "plain"
    assert {"svc train", "clips from the pack"} <= {row["row"] for row in rows}
    assert all(row["steps_per_s"] > 0 and row["peak_bytes"] > 1e7 for row in rows)
    assert "<!-- speed cpu 1 small 2: begin -->" in doc.read_text()
