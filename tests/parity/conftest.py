"""scripts/reference_nets.py makes the reference weights and inputs, for the tests too."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from svc.vocoder import Generator

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "reference_nets.py"


@pytest.fixture(scope="session")
def parity() -> ModuleType:
    spec = importlib.util.spec_from_file_location("svc_reference_nets", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def mel_vocoder() -> Callable[[], Generator]:
    """Return a builder of the community vocoder's generator (spec_vocoder 1)."""

    def build() -> Generator:
        return Generator(
            128,
            initial_channels=512,
            upsample_rates=(8, 8, 2, 2, 2),
            upsample_kernel_sizes=(16, 16, 4, 4, 4),
            resblock="1",
            resblock_kernel_sizes=(3, 7, 11),
            resblock_dilation_sizes=((1, 3, 5),) * 3,
            sampling_rate=44100,
            phase_start="frame",
        )

    return build
