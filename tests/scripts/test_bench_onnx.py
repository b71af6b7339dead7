"""The bench of exported graphs runs through, on small nets, and fills its section."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import a script as it is imported when run: by its bare name, beside its folder's others."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.syspath_prepend(str(SCRIPTS / "bench"))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(SCRIPTS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_quick_run(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    page = tmp_path / "export.md"
    page.write_text("# Export\n")
    bench = load("onnx_graphs")
    arguments = ["--quick", "--threads", "1", "--seconds", "0.5", "--out", str(page)]
    assert bench.main(arguments) == 0
    text = page.read_text()
    assert text.startswith("# Export\n")
    table = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    rows = {cells[0].strip(): [float(cell) for cell in cells[1:]] for cells in table[2:]}
    assert list(rows) == [
        "vec768l12", "rmvpe", "fcpe", "synthesizer", "F0 decoder", "denoiser, 10 evaluations",
        "vocoder",
    ]  # fmt: skip
    for megabytes, torch, graph, ratio in rows.values():
        assert megabytes > 0
        assert torch > 0
        assert graph > 0
        assert ratio > 0
