"""Folders: what is in them, and the worst of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from svc.audio.io import write_audio
from svc.inspection import Report


def test_a_run(
    save_voice: Callable[..., Path], look: Callable[..., Report], golden: Path, tmp_path: Path
) -> None:
    newest = save_voice("G_1200.pth")
    for name in ("G_800.pth", "G_90.pth", "G_0.pth"):
        shutil.copy(newest, tmp_path / name)
    torch.save({"model": {"discriminators.0.convs.0.bias": torch.ones(1)}}, tmp_path / "D_1200.pth")
    shutil.copy(golden / "golden_kmeans_50.pt", tmp_path / "kmeans_50.pt")
    (tmp_path / "diffusion").mkdir()
    report = look(tmp_path)
    facts = report.finding.facts
    assert report.finding.kind == "run"
    assert facts["G_checkpoints"] == "4: steps 0, 90, 800, 1200"
    assert (facts["newest_G"], facts["newest_D"]) == ("G_1200.pth", "D_1200.pth")
    assert str(facts["G_1200.pth"]).startswith("voice of so-vits-svc")
    assert "G_800.pth" not in facts
    assert str(facts["kmeans_50.pt"]).startswith("k-means")
    assert facts["diffusion/"] == "folder of 0 entries"
    assert "384 wide" in report.finding.fits[1]
    assert report.match is not None
    assert report.match.fits
    assert report.good
    assert report.size == sum(file.stat().st_size for file in tmp_path.iterdir() if file.is_file())


def test_one_bad_file_spoils_it(look: Callable[..., Report], tmp_path: Path) -> None:
    assert look(tmp_path).good
    (tmp_path / "notes.txt").write_text("a text")
    assert look(tmp_path).good
    (tmp_path / "a.pt").touch()
    report = look(tmp_path)
    assert (report.damage, report.good) == ("1 of its files: a.pt", False)
    (tmp_path / "b.pt").write_bytes(b"cos\nsystem\n(S'x'\ntR.")
    report = look(tmp_path)
    assert report.safety.safe is False
    assert report.safety.refused == ("os.system",)
    assert report.safety.how.startswith("b.pt: loading this with an ordinary loader would call")
    assert "NOT SAFE" in str(report.finding.facts["b.pt"])


def test_a_data_set(
    look: Callable[..., Report], sine: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    clips = tmp_path / "alice"
    clips.mkdir()
    for index in range(3):
        write_audio(clips / f"{index}.wav", sine(200, 0.1), 16000)
        np.save(clips / f"{index}.wav.f0.npy", np.zeros((2, 4), np.float32))
    report = look(clips)
    assert report.finding.kind == "data set"
    assert report.finding.facts == {"*.f0.npy": 3, "*.wav": 3}
    report = look(tmp_path)
    assert report.finding.kind == "data set"
    assert report.finding.facts == {"alice/": "folder of 6 entries"}


def test_a_recording_among_others_makes_no_data_set(
    golden: Path, look: Callable[..., Report]
) -> None:
    report = look(golden)
    assert (report.finding.kind, report.good) == ("folder", True)
    facts = report.finding.facts
    assert facts["*.wav"] == 1
    assert facts["golden_enc_tiny_rmvpe.pt"] == "pitch net: RMVPE"
    assert "npz" in str(facts["golden_D.npz"])


def test_many_files_are_counted(look: Callable[..., Report], tmp_path: Path) -> None:
    for index in range(70):
        (tmp_path / f"{index:02}.txt").write_text("x")
    facts = look(tmp_path).finding.facts
    assert (len(facts), facts["further_files"]) == (61, 10)
