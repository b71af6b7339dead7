"""One data set prepared by several processes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import soundfile

from svc.cli.main import main
from svc.dataset.clips import LeftOut
from svc.dataset.extraction import ExtractReport
from svc.dataset.sharing import Alone, check_clips, share_of, sum_up

ROOT = Path(__file__).resolve().parents[2]


class Threads:
    """Processes that are threads."""

    def __init__(self, world: int) -> None:
        self.world, self._barrier = world, Barrier(world)
        self._texts = [""] * world

    def of(self, rank: int) -> Any:
        board = self

        class One:
            world = board.world

            def __init__(self) -> None:
                self.rank = rank

            def gather(self, text: str) -> list[str]:
                board._texts[rank] = text
                board._barrier.wait(60)
                texts = list(board._texts)
                board._barrier.wait(60)
                return texts

        return One()

    def run(self, work: Callable[[Any], Any]) -> list[Any]:
        with ThreadPoolExecutor(self.world) as pool:
            return list(pool.map(work, map(self.of, range(self.world))))


def write(path: Path, seconds: float, rate: int = 44100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * rate)) / rate
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 220 * time * (1 + 0.1 * time)), rate)
    return path


def test_each_takes_some() -> None:
    files = [Path(f"{number}.wav") for number in range(7)]
    parts = Threads(3).run(lambda processes: share_of(files, processes))
    assert [len(part) for part in parts] == [3, 2, 2]
    assert sorted(path for part in parts for path in part) == files
    assert share_of(files, Alone()) == files


def test_all_know_what_became_of_every_clip(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{number} 歌.wav", 0.5 + 0.1 * number) for number in range(4)]
    files.append(write(tmp_path / "low.wav", 0.6, 8000))
    files.append(tmp_path / "text.wav")
    files[-1].write_bytes(b"no sound")
    alone = check_clips(files, 44100, Alone(), None)
    assert list(alone[0]) == files[:4]
    assert list(alone[0].values()) == pytest.approx([0.5, 0.6, 0.7, 0.8], abs=1e-4)
    assert [item.path for item in alone[1]] == files[4:]
    seen: list[tuple[int, int]] = []
    for found in Threads(2).run(
        lambda processes: check_clips(
            files, 44100, processes, lambda done, total, _: seen.append((done, total))
        )
    ):
        assert found == alone
        assert list(found[0]) == list(alone[0])
    assert sorted(seen) == [(1, 3), (1, 3), (2, 3), (2, 3), (3, 3), (3, 3)]


def test_reports_are_added_up() -> None:
    def report(processes: Any) -> ExtractReport:
        left = [LeftOut(Path(f"{processes.rank}.wav"), "silent")]
        return sum_up(ExtractReport(2 + processes.rank, 10 * processes.rank, left), processes)

    for found in Threads(2).run(report):
        assert (found.computed, found.fresh) == (5, 10)
        assert [str(item.path) for item in found.left_out] == ["0.wav", "1.wav"]


def everything(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_two_processes_make_what_one_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ["preprocess", "--speech_encoder", "whisper-ppg-tiny", "--f0_predictor", "pm"]
    alone, both = tmp_path / "alone", tmp_path / "both"
    for voice, count in (("alice", 4), ("bob", 3)):
        for number in range(count):
            write(alone / f"dataset/44k/{voice}/{number} 歌.wav", 0.6 + 0.1 * number)
    (alone / "dataset/44k/bob/text.wav").write_bytes(b"no sound")
    shutil.copytree(alone, both)
    for name, value in {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    told = []
    for folder, count in ((alone, []), (both, ["--gpus", "2"])):
        monkeypatch.chdir(folder)
        assert main([*flags, "-d", "cpu", *count]) == 1
        told.append(capfd.readouterr())
    assert told[0].out == told[1].out
    assert "features: 7 clips computed" in told[1].out
    assert "features: 7/7" in told[0].err
    assert "features: 4/4" in told[1].err  # its own share
    one, two = everything(alone), everything(both)
    assert list(one) == list(two)
    timed = (".pack", ".meta.json")  # times of files are in them
    for name in one:
        if not name.endswith(timed):
            assert one[name] == two[name], name
    # Once more there is nothing to do.
    assert main([*flags, "-d", "cpu"]) == 1
    assert "features: 0 clips computed, 7 up to date" in capfd.readouterr().out
