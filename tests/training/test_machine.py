"""Number format and layout are what the machine is fastest with, or what the command line says."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from svc import devices
from svc.checkpoint import load_checkpoint
from svc.cli.main import main
from svc.devices import best_precision
from svc.errors import ConfigError
from svc.training import machine
from svc.training.machine import prefers_channels_last, with_precision
from svc.training.step import Adversaries
from svc.vocoder.convolution import LayoutSwitch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def amx(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that gives the CPU matrix units, or takes them away."""

    def set_units(there: bool) -> None:
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda: {"amx_bf16": there}, raising=False
        )

    return set_units


def test_bfloat16_is_chosen_where_there_are_units_for_it(
    amx: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "has_onednn", lambda: True)
    amx(True)
    assert best_precision(CPU) == "bf16"
    amx(False)
    assert best_precision(CPU) == "fp32"
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # an older torch
    assert best_precision(CPU) == "fp32"
    assert best_precision(torch.device("mps")) == "fp32"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    for supported, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda s=supported, **_: s)
        assert best_precision(CUDA) == expected
        assert best_precision(CUDA, fp16=True) == ("bf16" if supported else "fp16")


def test_the_command_line_comes_before_the_config(voices: Any, amx: Any) -> None:
    train = dataclasses.replace(voices.config.train, fp16_run=True, half_type="fp16")
    assert with_precision(train, None, CPU) is train
    assert not with_precision(train, "fp32", CPU).fp16_run
    chosen = with_precision(train, "bf16", CPU)
    assert (chosen.fp16_run, chosen.half_type) == (True, "bf16")
    amx(False)
    assert not with_precision(train, "auto", CPU).fp16_run
    with pytest.raises(ConfigError, match=r"--precision fp16 needs"):
        with_precision(train, "fp16", CPU)
    with pytest.raises(ConfigError, match=r"--precision half .* auto, fp32, bf16, fp16"):
        with_precision(train, "half", CPU)


def test_layout_by_device_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    assert prefers_channels_last(CUDA, torch.bfloat16)
    assert not prefers_channels_last(CUDA, None)
    assert not prefers_channels_last(torch.device("mps"), torch.float16)
    for there in (True, False):
        monkeypatch.setattr(machine, "has_onednn", lambda there=there: there)
        assert prefers_channels_last(CPU, None) is there


@pytest.mark.parametrize("there", [True, False])
def test_nets_that_train_have_the_layout(
    voices: Any, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "has_onednn", lambda: there)
    nets = Adversaries(voices.config, CPU)
    for net in (nets.generator, nets.discriminator):
        convs = [part for part in net.modules() if isinstance(part, LayoutSwitch)]
        assert len(convs) > 30
        assert {conv.channels_last for conv in convs} == {there}
    # Every convolution of a voice is one that knows both.
    plain = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.ConvTranspose1d)
    assert not [
        part
        for part in nets.generator.modules()
        if isinstance(part, plain) and not isinstance(part, LayoutSwitch)
    ]


@pytest.mark.usefixtures("no_pictures")
def test_svc_train_takes_a_precision(voices: Any, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "-c", "config.json", "-m", "m", "--device", "cpu", "--max_steps", "2"]
    assert main([*command, "--precision", "fp16"]) == 2
    assert "--precision fp16" in capsys.readouterr().err
    assert not Path("logs").exists()
    assert main([*command, "--precision", "bf16"]) == 0
    saved = load_checkpoint(Path("logs/m/G_2.pth"))["svc"]["config"]["train"]
    assert (saved["fp16_run"], saved["half_type"]) == (True, "bf16")
    # The next call goes on in float32, as the config says.
    command[-1] = "3"
    assert main(command) == 0
    saved = load_checkpoint(Path("logs/m/G_3.pth"))["svc"]["config"]["train"]
    assert saved["fp16_run"] is False
