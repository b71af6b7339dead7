"""``--compile``: what is missing is said at once, and a compiled step computes the same."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from svc.cli.main import main
from svc.errors import MissingDependencyError, SvcError
from svc.training.batches import Batch
from svc.training.compiling import compile_nets, uncompiled
from svc.training.step import Adversaries
from svc.vocoder.backends.compiled import check_compiler

CPU = torch.device("cpu")


def test_no_compiler_is_one_line(
    voices: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"C\+\+ compiler.*leave out --compile"):
        check_compiler(CPU)
    monkeypatch.setenv("CXX", "ccache-of-mine g++")
    with pytest.raises(MissingDependencyError, match="no ccache-of-mine on the PATH"):
        check_compiler(CPU)
    assert main(["train", "-c", "config.json", "-m", "m", "--device", "cpu", "--compile"]) == 2
    error = capsys.readouterr().err
    assert "--compile needs" in error
    assert error.count("\n") == 1
    assert not Path("logs").exists()


def test_a_gpu_needs_triton_and_a_c_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="triton"):
        check_compiler(torch.device("cuda"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(MissingDependencyError, match="a C compiler and there is no gcc or clang"):
        check_compiler(torch.device("cuda"))


def test_a_compiler_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Any) -> Any:
        def run(*_: Any) -> None:
            raise RuntimeError("backend raised:\nPython.h: No such file\nand so on")

        return run

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(SvcError, match=r"does not work here \(backend raised:\): repair") as caught:
        check_compiler(CPU)
    assert "\n" not in str(caught.value)


def test_nets_that_are_not_compiled_have_nothing_to_switch_off(voices: Any) -> None:
    nets = Adversaries(voices.config, CPU)
    with uncompiled(nets.generator):
        assert not hasattr(nets.generator.dec.forward, "__wrapped__")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler here")
@pytest.mark.parametrize("half", [False, True])
def test_a_compiled_step_computes_the_same(voices: Any, batch: Batch, half: bool) -> None:
    """Two steps: the second depends on the gradients of the first."""
    check_compiler(CPU)
    config = voices.edit(train={"fp16_run": half, "half_type": "bf16"}, model={"p_dropout": 0.0})
    found = []
    for compiled in (False, True):
        torch.manual_seed(1)
        nets = Adversaries(config, CPU)
        names = list(nets.generator.state_dict()), list(nets.discriminator.state_dict())
        if compiled:
            compile_nets(nets.generator, nets.discriminator)
            assert names == (
                list(nets.generator.state_dict()), list(nets.discriminator.state_dict())
            )  # fmt: skip
        torch.manual_seed(2)
        for step in (1, 2):
            detail = nets.step(batch, step, detailed=True)
        assert detail is not None
        found.append(
            {**detail.losses, **{f"norm {n}": v for n, v in detail.gradient_norms.items()}}
        )
    for name, value in found[0].items():
        wanted = float(value)
        assert float(found[1][name]) == pytest.approx(wanted, rel=2e-2 if half else 1e-4), name

    # Songs of any length go through the net as it is written.
    torch._dynamo.reset()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with uncompiled(nets.generator.eval()):
        nets.generator.infer(batch.units[:1], batch.f0[:1], batch.uv[:1], batch.speaker[:1])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before
