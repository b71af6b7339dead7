"""scripts/bench/index.py, which writes the tables of docs/timbre.md on the retrieval index."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import faiss
import numpy as np
import pytest
import torch

from svc.checkpoint import save_tensor
from svc.retrieval.index import FeatureIndex
from svc.retrieval.index_build import build_index
from svc.retrieval.index_files import StoredIndex

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench" / "index.py"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script as a module; it finds doc_section beside it by way of sys.path."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before, threads = set(sys.modules), faiss.omp_get_max_threads()
    spec = importlib.util.spec_from_file_location("svc_bench_index", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    faiss.omp_set_num_threads(threads)
    for name in set(sys.modules) - before:
        if str(SCRIPT.parents[1]) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def rows_of(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ") for line in lines[2:]]


def test_the_plain_way_finds_the_same(bench: ModuleType) -> None:
    data, queries = bench.made_up(2000, 16, 5), bench.made_up(100, 16, 99)
    content = memoryview(bytes(faiss.serialize_index(build_index(data, seed=1))))
    stored = StoredIndex.of("here", content)
    plain = bench.Plain(stored).match(queries)
    index = FeatureIndex({0: stored}, where="here")
    assert len(plain) == 172  # 2 s at 44100 / 512
    stretched = np.arange(172) * 100 // 172
    ours = index.match_numpy(queries, "x", 0)[stretched]
    np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-5)


def test_made_up_units_share_their_sounds(bench: ModuleType) -> None:
    one, other = bench.made_up(3000, 64, 1), bench.made_up(3000, 64, 2)
    assert (one.shape, one.dtype) == ((3000, 64), np.float32)
    np.testing.assert_array_equal(one, bench.made_up(3000, 64, 1))
    nearest = ((other[:200, None] - one[None]) ** 2).sum(-1).min(1)
    scrambled = np.random.default_rng(0).permuted(one, axis=1)
    assert nearest.mean() < 0.8 * ((other[:200, None] - scrambled[None]) ** 2).sum(-1).min(1).mean()
    step = np.square(np.diff(one, axis=0)).sum(-1).mean()
    assert step < 0.5 * np.square(one[500:] - one[:-500]).sum(-1).mean(), "they glide"


def test_a_table(bench: ModuleType, tmp_path: Path) -> None:
    document = tmp_path / "timbre.md"
    arguments = ["--quick", "--dim", "32", "--nprobe", "1", "51", "--out", str(document)]
    assert bench.main(arguments) == 0
    text = document.read_text()
    table = rows_of(text)
    assert [cells[:2] for cells in table] == [
        ["2000 × 32", way] for way in ("plain, nprobe 1", "ours, nprobe 1", "ours, nprobe 51")
    ]
    assert table[2][4:6] == ["100 %", "100 %"]  # all lists
    assert table[0][4:6] == table[1][4:6]
    assert float(table[1][4].rstrip(" %")) < 90
    assert all(float(cells[2]) > 0 and float(cells[3]) >= 0 for cells in table)
    assert "<!-- index speed: begin -->" in text
    assert "1 thread, faiss" in text


def test_units_of_a_data_set(bench: ModuleType, tmp_path: Path) -> None:
    for name, seed in (("voice", 1), ("song", 2)):
        units = torch.from_numpy(bench.made_up(400, 24, seed)).T[None]
        save_tensor(units, tmp_path / name / "a" / "x.wav.soft.pt")
    arguments = ["--quick", "--units", str(tmp_path / "voice"), "--query", str(tmp_path / "song")]
    document = tmp_path / "timbre.md"
    assert bench.main([*arguments, "--nprobe", "1", "--out", str(document)]) == 0
    text = document.read_text()
    assert "<!-- index of real units: begin -->" in text
    assert [cells[0] for cells in rows_of(text)] == ["400 × 24", "400 × 24"]
    nobody = ["--units", str(tmp_path / "nobody"), "--query", str(tmp_path / "song")]
    with pytest.raises(SystemExit, match="holds no units"):
        bench.main(nobody)
    with pytest.raises(SystemExit):
        bench.main(nobody[:2])
