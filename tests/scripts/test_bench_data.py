"""The bench of the data layout runs and says what it is to say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_it_runs_and_writes_its_table(tmp_path: Path) -> None:
    out = tmp_path / "page.md"
    command = [sys.executable, str(ROOT / "scripts/bench/data.py"), "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = out.read_text(encoding="utf-8")
    assert text.startswith("<!-- data on disk: begin -->")
    assert "40 clips" in text
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert "clips per second, cold" in rows
    assert "clips per second, warm" in rows
    assert done.stdout.strip() in text
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]
