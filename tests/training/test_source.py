from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from svc.checkpoint import load_checkpoint
from svc.config import load_config
from svc.config.vocoder_training import load_vocoder_run_config
from svc.errors import ConfigError
from svc.training.journal import Journal
from svc.training.options import TrainOptions, TrainResult
from svc.training.scores import Score
from svc.training.source import begin_source, watch_source
from svc.training.step import Adversaries
from svc.training.synthesizer import train
from svc.training.vocoder_step import VocoderPair
from svc.vocoder.source import HarmonicSource

CPU = torch.device("cpu")
CONFIGS = Path(__file__).parents[2] / "configs"
KEY = "dec.m_source.l_linear.weight"


def source_of(net: nn.Module) -> HarmonicSource:
    (source,) = [module for module in net.modules() if isinstance(module, HarmonicSource)]
    return source


def go(voices: Any, model: str, **options: Any) -> TrainResult:
    return train(TrainOptions(model=model, config=voices.config_path, device="cpu", **options))


# ---- how it begins -------------------------------------------------------------------------------


def test_every_harmonic_begins_with_the_weight_of_the_config(
    make_voices: Callable[..., Any],
) -> None:
    source = source_of(Adversaries(make_voices(train={"source_weight": 3}).config, CPU).generator)
    assert torch.equal(source.l_linear.weight, torch.full((1, 9), 3.0))
    assert torch.equal(source.l_linear.bias, torch.zeros(1))


def test_without_it_the_weights_are_random(voices: Any) -> None:
    source = source_of(Adversaries(voices.config, CPU).generator)
    assert len(set(source.l_linear.weight[0].tolist())) == 9
    assert source.l_linear.weight.abs().max() <= 1 / 3


def test_the_rest_of_a_new_net_does_not_depend_on_it(make_voices: Callable[..., Any]) -> None:
    states = []
    for weight in (0, 3):
        torch.manual_seed(5)
        nets = Adversaries(make_voices(train={"source_weight": weight}).config, CPU)
        states.append(nets.generator.state_dict())
    differing = {name for name in states[0] if not torch.equal(states[0][name], states[1][name])}
    assert differing == {KEY, KEY.replace("weight", "bias")}


def test_files_bring_their_own(make_voices: Callable[..., Any]) -> None:
    """A base model, and the run's own checkpoint."""
    voices = make_voices()
    go(voices, "m", max_steps=1)
    made = load_checkpoint(Path("logs/m/G_1.pth"))["model"][KEY]
    voices.edit(train={"source_weight": 3, "learning_rate": 1e-9})
    Path("logs/n").mkdir()
    for kind in "GD":
        shutil.copy(f"logs/m/{kind}_1.pth", f"logs/n/{kind}_0.pth")
    go(voices, "n", max_steps=1)
    torch.testing.assert_close(
        load_checkpoint(Path("logs/n/G_1.pth"))["model"][KEY], made, atol=1e-6, rtol=0
    )
    go(voices, "m", max_steps=2)
    assert load_checkpoint(Path("logs/m/G_2.pth"))["model"][KEY].abs().max() < 0.4


@pytest.mark.parametrize("name", ["template_quick", "template_vocoder_small"])
def test_small_templates_begin_loud(name: str) -> None:
    """Nets that nobody has a base model of."""
    path = CONFIGS / f"{name}.json"
    if "vocoder" in name:
        net: nn.Module = VocoderPair(load_vocoder_run_config(path), CPU).generator
    else:
        net = Adversaries(load_config(path), CPU).generator
    assert torch.equal(source_of(net).l_linear.weight, torch.full((1, 9), 3.0))


@pytest.mark.parametrize("value", [-1, 101])
def test_impossible_weights_are_refused(voices: Any, value: float) -> None:
    with pytest.raises(ConfigError, match=r'"train\.source_weight" must be between 0 and 100'):
        voices.edit(train={"source_weight": value})


def test_configs_of_the_original_stay_as_they_are(voices: Any) -> None:
    assert "source_weight" not in voices.config.to_dict()["train"]
    assert voices.edit(train={"source_weight": 2}).to_dict()["train"]["source_weight"] == 2


# ---- the warning ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "correlation", "warned"),
    [(0.01, 0.02, True), (0.01, None, True), (0.01, 0.9, False), (0.3, 0.02, False)],
)
def test_a_silent_source_is_told_where_the_melody_is_not_followed(
    voices: Any, tmp_path: Path, weight: float, correlation: float | None, warned: bool
) -> None:
    net = Adversaries(voices.config, CPU).generator
    begin_source(net, weight)
    score = Score(1.0, 1.0, 2000.0, f0_correlation=correlation)
    with Journal(tmp_path / "run", 1) as journal:
        watch_source(journal, net, score)
    log = (tmp_path / "run" / "train.log").read_text()
    assert ("the harmonic source is silent" in log) is warned
    assert ("WARNING" in log) is warned
