"""Fixtures shared by all tests."""

from __future__ import annotations

import logging
import math
import os
import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

SHARED = Path(os.environ.get("SVC_SHARED", Path(__file__).resolve().parents[2] / "shared"))
DATA = Path(__file__).parent / "data"


def pytest_configure(config: pytest.Config) -> None:
    # A shell that starts the tests in the background has Ctrl-C ignored, and commands inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "slow: takes more than ten seconds")
    config.addinivalue_line("markers", "gpu: needs a CUDA device")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of reference arrays and real recordings; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        if os.environ.get("SVC_REQUIRE_SHARED"):
            pytest.fail(f"{SHARED} is absent and SVC_REQUIRE_SHARED is set")
        pytest.skip("the folder of reference arrays and recordings (SVC_SHARED) is not there")
    return SHARED


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    return shared / "golden"


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep the caches of commands away from the user's own; those of fixtures of many tests lie here."""
    folder = tmp_path_factory.mktemp("caches")
    os.environ["SVC_CACHE_DIR"] = str(folder / "session")
    return folder


@pytest.fixture(autouse=True)
def own_cache(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every test an empty cache: what one has heard must not help another."""
    monkeypatch.setenv("SVC_CACHE_DIR", str(caches / secrets.token_hex(8)))


@pytest.fixture(autouse=True)
def own_log_level() -> Iterator[None]:
    """Undo what a command has set: the quietest of them would keep later tests from hearing warnings."""
    log = logging.getLogger("svc")
    level = log.level
    yield
    log.setLevel(level)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def data_dir() -> Path:
    return DATA


@pytest.fixture
def sine() -> Callable[..., np.ndarray]:
    """Return a function ``sine(frequency, seconds, sr=44100, amplitude=0.5)`` -> float32 (T,)."""

    def make(
        frequency: float, seconds: float, sr: int = 44100, amplitude: float = 0.5
    ) -> np.ndarray:
        time = np.arange(round(seconds * sr)) / sr
        return (amplitude * np.sin(2 * np.pi * frequency * time)).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def assert_same_energies() -> Callable[..., None]:
    """Return a function that compares a log-mel with a stored float32 one, band by band.

    What is compared are energies, as parts of the loudest band of their frame: the rounding of a
    float32 transform is as large as that in every band, and the logarithm of a quiet band shows it
    magnified, by how much differs between CPUs. Ours is computed in float64, so the outcome is the
    same on all of them.
    """

    def check(
        ours: torch.Tensor,
        expected: torch.Tensor,
        *,
        bands: int = 1,
        base: float = math.e,
        limit: float = 1e-6,
    ) -> None:
        assert ours.dtype == torch.float64, "compute it in double precision"
        assert ours.shape == expected.shape
        energy = base ** expected.double()
        error = (base**ours - energy).abs() / energy.amax(bands, keepdim=True)
        assert float(error.max()) <= limit

    return check
