"""`svc infer` under torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from svc.audio.io import write_audio
from svc.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


def test_torchrun_sings_each_song_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    voice_folder: Path,
    sine: Callable[..., np.ndarray],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Three processes, eight songs and a file that is none; then the same by one process."""
    monkeypatch.chdir(tmp_path)
    for number in range(8):
        write_audio(f"in/s{number}.wav", sine(150 + 20 * number, 0.4), 44100)
    model = str(voice_folder / "G_100.pth")
    words = ["infer", "-n", "in", "-m", model, "-d", "cpu", "--no_manifest"]
    Path("in/s9.wav").write_bytes(b"no audio")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*torchrun, "--standalone", "-m", "svc", *words, "--json", "--output_dir", "shared"],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr  # that of rank 0, at the end of all
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(one["file"] for one in told) == [f"s{number}.wav" for number in [*range(8), 9]]
    assert {one["file"] for one in told if one["status"] == "failed"} == {"s9.wav"}
    assert {one["worker"].rpartition(":")[2] for one in told} <= {"0", "1", "2"}
    assert done.stderr.count("8 of 9 done, 1 failed: s9.wav") == 1
    assert done.stderr.count("svc: failed: s9.wav for alice: ") == 1
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main([*words, "--output_dir", "alone"]) == 1
    finally:
        torch.set_num_threads(threads)
    capsys.readouterr()
    results = sorted(path.name for path in Path("alone").iterdir())
    assert len(results) == 8
    assert sorted(path.name for path in Path("shared").iterdir()) == results
    for name in results:
        assert Path("shared", name).read_bytes() == Path("alone", name).read_bytes(), name
