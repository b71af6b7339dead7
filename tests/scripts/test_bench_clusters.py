"""The bench of k-means centres prints what it measures."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Import the script as it is imported when run: by its bare name, beside its folder's others."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.syspath_prepend(str(SCRIPTS / "bench"))
    yield importlib.import_module("clusters")
    for name in set(sys.modules) - before:
        if str(SCRIPTS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_a_table(bench: ModuleType, tmp_path: Path) -> None:
    document = tmp_path / "timbre.md"
    assert bench.main(["--sizes", "600x8:40", "--out", str(document)]) == 0
    text = document.read_text()
    assert "<!-- clusters made up: begin -->" in text
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if "600 × 8 → 40" in line]
    assert [row[1] for row in rows] == [
        "scikit-learn KMeans",
        "scikit-learn MiniBatchKMeans",
        "faiss Kmeans",
        "ours",
        "ours, --full",
    ]
    ratios = [float(row[3]) for row in rows]
    assert ratios[0] == 1
    assert all(0.8 < ratio < 1.5 for ratio in ratios)
    assert all(0 <= float(row[2]) < 60 for row in rows)


def test_what_takes_too_long_is_told_from_one_iteration(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "rows.npy", bench.made_up(300, 8))
    arguments = ["--sizes", "250x8:20", "--limit", "0", "--rows", str(tmp_path / "rows.npy")]
    assert bench.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith(
        "| 250 × 8 → 20 | scikit-learn KMeans, without its seeding | 0 × 20"
    )
    assert lines[-1].startswith("| 250 × 8 → 20 | ours | ")


def test_the_made_up_frames_are_the_same_each_time(bench: ModuleType) -> None:
    frames = bench.made_up(500, 16)
    assert frames.shape == (500, 16)
    np.testing.assert_array_equal(frames, bench.made_up(500, 16))
    assert bench.inertia(frames, torch.from_numpy(frames[:1])) > 0
