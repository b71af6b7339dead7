"""The soak script: what it sings, what it counts as good, and that `svc infer` goes through it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from svc.audio.io import read_audio

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench" / "soak.py"


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import importlib

    monkeypatch.setattr(sys, "path", list(sys.path))
    yield importlib.import_module("soak")
    del sys.modules["soak"]


def test_the_song_is_long_and_never_the_same(
    soak: ModuleType, tmp_path: Path, rng: np.random.Generator
) -> None:
    phrase = (0.3 * rng.standard_normal(8000)).astype(np.float32)
    soak.write_song(tmp_path / "a.wav", phrase, 8000, 12.5)
    soak.write_song(tmp_path / "b.wav", phrase, 8000, 12.5, first=1)
    a, b = (read_audio(tmp_path / name)[0] for name in ("a.wav", "b.wav"))
    assert a.shape == b.shape == (100_000,)
    assert not np.array_equal(a, b)
    assert np.abs(a).max() < 1.5
    step = 8000 + 5600
    assert not np.allclose(a[:8000], a[step : step + 8000], atol=0.01)


def test_what_is_good(soak: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    after = [507, 597, 650, 689, 737] + [664, 602, 653, 691, 737] * 5  # kernels come and go
    seen = {"loaded": 300.0, "seconds": 9.0, "after_song": after}
    assert soak.tell_many(seen) == 0
    assert "growth per song" in capsys.readouterr().out
    assert soak.tell_many({**seen, "after_song": [one + 2 * k for k, one in enumerate(after)]}) == 1
    assert soak.memory_mb("VmHWM") >= soak.memory_mb("VmRSS") > 10


@pytest.mark.slow
def test_a_short_soak() -> None:
    command = [sys.executable, str(SCRIPT), "--minutes", "0.15", "--flags=--precision fp32"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "samples of the result 396900, wanted 396900" in done.stdout
    assert done.stdout.rstrip().endswith("good")
