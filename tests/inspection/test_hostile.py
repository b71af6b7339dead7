"""Hostile and damaged files: one verdict each, no traceback, and nothing of them is run.

The attacks are those on the loaders of the encoders (tests/speech/test_hostile.py), which also shows that they do harm
where Python's own unpickler meets them.
"""

from __future__ import annotations

import copyreg
import pickle
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.inspection import Report, inspect

CONTAINERS = ["zip", "stream", "pickle"]


@pytest.fixture
def trap(hostile: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The empty folder in which the test runs; a module and a code that attacks name are at hand."""
    work = tmp_path / "work"
    work.mkdir()
    marker = hostile.MARKER
    (tmp_path / "trap_module.py").write_text(f"import os\ndef run(_): os.mkdir('{marker}')\nrun(0)")
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(str(tmp_path))
    copyreg.add_extension("os", "mkdir", hostile.EXTENSION)
    yield work
    copyreg.remove_extension("os", "mkdir", hostile.EXTENSION)


@pytest.fixture(scope="module", autouse=True)
def warmed_up(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import what an inspection imports lazily, so that a watch hears of no import."""
    folder = tmp_path_factory.mktemp("warm")
    torch.save({"a": torch.ones(1)}, folder / "a.pt")
    (folder / "b.pkl").write_bytes(pickle.dumps({"a": np.ones(2)}))
    np.save(folder / "c.npy", np.array([1, "a"], dtype=object))
    for path in folder.iterdir():
        inspect(path)


def attacked(hostile: Any, path: Path, attack: bytes, place: str, container: str) -> Path:
    """Write a file that would be sound without the attack."""
    if container == "pickle":
        program = pickle.dumps({"a": [1, 2]}, 2)
        inside = hostile.PLACES["instead" if place == "as hooks" else place]
        path.write_bytes(inside(program, attack))
        return path
    sound = hostile.plain_file(path, container == "zip")
    return hostile.rewrite(sound, lambda whole: hostile.PLACES[place](whole, attack))


def watched(hostile: Any, path: Path, look: Callable[..., Report]) -> Report:
    with hostile.WATCH.open():
        report = look(path)
    assert hostile.WATCH.events == []
    assert not Path(hostile.MARKER).exists()
    assert "trap_module" not in sys.modules
    return report


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.usefixtures("trap")
def test_every_attack_is_named_and_none_runs(
    hostile: Any, look: Callable[..., Report], tmp_path: Path, container: str
) -> None:
    for attack, (program, words) in hostile.ATTACKS.items():
        if words.startswith("numpy.core"):
            continue  # an array without a state: damaged, and harmless
        for place in ("instead", "beside", "in the optimizer"):
            path = attacked(hostile, tmp_path / "a.pt", program, place, container)
            report = watched(hostile, path, look)
            assert report.safety.safe is False, (attack, place)
            assert words in report.safety.refused, (attack, place)
            assert not report.good
            assert words in report.safety.how
            assert "an ordinary loader would call" in report.safety.how


@pytest.mark.usefixtures("trap")
def test_the_oldest_protocol(hostile: Any, look: Callable[..., Report], tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    for program in (b"cos\nsystem\n(S'mkdir marker'\ntR.", b"(S'mkdir marker'\nios\nsystem\n."):
        path.write_bytes(program)
        report = watched(hostile, path, look)
        assert report.safety.refused == ("os.system",)


@pytest.mark.usefixtures("trap")
def test_harmless_names_do_not_hide_others(
    hostile: Any, look: Callable[..., Report], tmp_path: Path
) -> None:
    many = b"".join(hostile.name(f"fairseq.a.B{i}") + b"0" for i in range(60))
    for container in CONTAINERS:
        path = attacked(hostile, tmp_path / "a.pt", many + hostile.ATTACK, "beside", container)
        report = watched(hostile, path, look)
        assert report.safety.safe is False, container
        assert report.safety.refused == ("os.mkdir",), container


@pytest.mark.usefixtures("trap")
def test_an_array_of_objects(hostile: Any, look: Callable[..., Report], tmp_path: Path) -> None:
    path = tmp_path / "a.wav.f0.npy"
    np.save(path, np.array([[1.0, 2.0], [1.0, 0.0]], dtype=object), allow_pickle=True)
    report = watched(hostile, path, look)
    assert (report.finding.kind, report.good) == ("F0", True)
    head = path.read_bytes().split(b"\n")[0]
    path.write_bytes(head + b"\n" + b"\x80\x02" + hostile.ATTACK + b".")
    report = watched(hostile, path, look)
    assert report.safety.refused == ("os.mkdir",)


@pytest.mark.usefixtures("trap")
def test_an_index_with_more_than_faiss(
    hostile: Any, look: Callable[..., Report], tmp_path: Path, golden: Path
) -> None:
    sound = (golden / "golden_feature_and_index.pkl").read_bytes()
    path = tmp_path / "feature_and_index.pkl"
    assert sound[2] == 0x95, "the frame is left out: its length would be wrong"
    path.write_bytes(sound[:2] + hostile.ATTACK + b"0" + sound[11:])
    report = watched(hostile, path, look)
    assert report.safety.refused == ("os.mkdir",)
    assert report.finding.kind == "pickle"


def test_files_that_are_not_read_are_not_called_safe(
    look: Callable[..., Report], tmp_path: Path
) -> None:
    path = tmp_path / "program.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
    report = look(path)
    assert report.finding.kind == "program"
    assert report.safety.safe is False
    assert not report.good


@pytest.fixture
def samples(golden: Path, tmp_path: Path) -> list[Path]:
    """Small files of many formats."""
    names = [
        "golden_kmeans_50.pt", "golden_enc_tiny_whisper.pt", "golden_feature_and_index.pkl",
        "golden_slice_inference_in.wav",
    ]  # fmt: skip
    paths = [golden / name for name in names]
    value = {"model": {"emb_g.weight": torch.ones(2, 3)}}
    torch.save(value, tmp_path / "s.pth", _use_new_zipfile_serialization=False)
    np.save(tmp_path / "a.npy", np.ones((2, 9), np.float32))
    np.save(tmp_path / "b.npy", np.array([[1.0], [2.0]], dtype=object), allow_pickle=True)
    (tmp_path / "c.json").write_text('{"train": {}, "data": {}, "model": {}, "spk": {"a": 0}}')
    return [*paths, *sorted(tmp_path.iterdir())]


def test_truncated_files_never_trip_it(
    look: Callable[..., Report], samples: list[Path], tmp_path: Path
) -> None:
    for sample in samples:
        whole = sample.read_bytes()
        path = tmp_path / f"cut_{sample.name}"
        for share in (0, 1, 3, 9, 33, 65, 0.1, 0.5, 0.9, 0.99):
            path.write_bytes(whole[: int(share if share >= 1 else share * len(whole))])
            report = look(path)
            assert report.damage is not None or report.finding.kind == "unknown", (sample, share)


def test_changed_bytes_never_trip_it(samples: list[Path], tmp_path: Path) -> None:
    chance = random.Random(0)  # noqa: S311
    path = tmp_path / "changed"
    for sample in samples:
        whole = sample.read_bytes()[:60_000]
        for _ in range(15):
            changed = bytearray(whole)
            for _ in range(chance.choice((1, 3, 30))):
                spot = min(chance.randrange(len(whole)), chance.randrange(len(whole)))
                changed[spot] = chance.randrange(256)
            path.write_bytes(bytes(changed))
            report = inspect(path)
            assert report.finding.what.isprintable()


def test_empty_and_unreadable(look: Callable[..., Report], tmp_path: Path) -> None:
    path = tmp_path / "empty.pth"
    path.touch()
    report = look(path)
    assert "0 bytes" in str(report.damage)
    path.write_bytes(b"x")
    path.chmod(0)
    try:
        path.read_bytes()
    except OSError:
        assert "cannot be read" in str(look(path).damage)


def test_names_out_of_a_file_cannot_reach_the_terminal(
    look: Callable[..., Report], tmp_path: Path
) -> None:
    bad = "a\x1b[2Jb\n"
    torch.save({bad: torch.ones(1), "b": {bad: torch.ones(2)}}, tmp_path / "a.pt")
    report = look(tmp_path / "a.pt")
    assert report.finding.facts["keys"] == [r"a\x1b[2Jb\n", "b"]
    centres = {bad: {"cluster_centers_": np.ones((2, 3), np.float32)}}
    torch.save(centres, tmp_path / "kmeans_2.pt")
    assert look(tmp_path / "kmeans_2.pt").finding.facts["speakers"] == [r"a\x1b[2Jb\n"]
