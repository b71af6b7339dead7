"""`svc infer` in several processes: who one is, and what it may use."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from svc.cli import infer, infer_sharing
from svc.cli.infer_sharing import content_of, ended_by_signal, find_sharing
from svc.conversion.file_hashes import FileHashes
from svc.conversion.sharding import Member
from svc.errors import ConfigError

LAUNCHER = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "a", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "none",
}  # fmt: skip


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*LAUNCHER, "TORCHELASTIC_RESTART_COUNT", "OMP_NUM_THREADS"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(infer_sharing, "follow_launcher", lambda: None)


@pytest.fixture
def launched(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LAUNCHER.items():
        monkeypatch.setenv(name, value)
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "set_num_threads", lambda n: os.environ.update(TOLD=str(n)))
    assert threads == torch.get_num_threads()


def flags(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    infer.add_arguments(parser)
    return parser.parse_args(["-n", "x", *words])


def test_alone_nothing_changes() -> None:
    args = flags()
    sharing = find_sharing(args)
    assert (sharing.member, sharing.leads, args.device) == (None, True, None)
    with sharing.join(args, [], [], Path("nowhere"), []) as share:
        assert share is None
    assert not Path("nowhere").exists()


def test_a_name_makes_a_run_without_a_launcher() -> None:
    sharing = find_sharing(flags("--share", "night", "--share_timeout", "5"))
    assert sharing.member == Member("night")
    assert sharing.leads
    assert sharing.stale_after == 5.0


def test_what_a_launcher_says(launched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    args = flags()
    sharing = find_sharing(args)
    assert sharing.member == Member("none a 29500", 3, 4)
    assert not sharing.leads
    assert args.device is None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert os.environ["OMP_NUM_THREADS"] == os.environ.pop("TOLD") == str(max(1, (cores or 1) // 2))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert find_sharing(flags("--share", "x")).member == Member("x", 3, 4, restarted=True)
    assert "TOLD" not in os.environ  # somebody has said how many threads to use
    monkeypatch.setenv("LOCAL_RANK", "7")
    with pytest.raises(ConfigError, match="launcher's variables make no sense"):
        find_sharing(flags())


def test_a_launcher_with_an_id_may_change_its_port(
    launched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "gpus-1")
    found = []
    for port in ("29500", "41213"):
        monkeypatch.setenv("MASTER_PORT", port)
        found.append(find_sharing(flags()).member)
    assert found == [Member("gpus-1", 3, 4)] * 2
    os.environ.pop("TOLD")


@pytest.mark.parametrize(
    ("asked", "gpus", "found"),
    [
        (None, 8, "cuda:1"),
        ("cuda", 8, "cuda:1"),
        ("auto", 1, "cuda:0"),
        ("cpu", 8, "cpu"),
        ("cuda:5", 8, "cuda:5"),
        (None, 0, None),
    ],
)
def test_each_process_has_a_gpu_of_its_own(
    launched: None, monkeypatch: pytest.MonkeyPatch, asked: str | None, gpus: int, found: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    args = flags(*([] if asked is None else ["-d", asked]))
    find_sharing(args)
    assert args.device == found
    os.environ.pop("TOLD")


@pytest.mark.parametrize("words", [["--share", " "], ["--share_timeout", "0.1"]])
def test_wrong_flags(words: list[str]) -> None:
    with pytest.raises(ConfigError, match=words[0]):
        find_sharing(flags(*words))


def test_a_voice_that_was_trained_on_is_another_one(tmp_path: Path) -> None:
    folder = tmp_path / "voice"
    folder.mkdir()
    (folder / "a.onnx").write_bytes(b"1")
    (tmp_path / "G.pth").write_bytes(b"2")
    paths = [tmp_path / "G.pth", None, folder, tmp_path / "gone"]
    with FileHashes() as hashes:
        before = content_of(paths, hashes)
        assert len(before) == 2
        (folder / "a.onnx").write_bytes(b"34")
        after = content_of(paths, hashes)
    assert before[0] == after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize("words", [["--share", "x"], []])
def test_a_signal_ends_it_as_an_interruption_does(tmp_path: Path, words: list[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    args = flags(*words)

    def take_part() -> None:
        with find_sharing(args).join(args, [], [], tmp_path, []) as share:
            assert share is None or share.folder.is_dir()
            assert signal.getsignal(signal.SIGTERM) != before
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as end:
        take_part()
    assert end.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer of the system")
def test_a_signal_that_a_module_swallows_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infer_sharing, "_AGAIN", 0.05)
    before = signal.getsignal(signal.SIGALRM)

    def work() -> None:
        with ended_by_signal():
            for _ in range(2):  # compiled modules make an ImportError of it
                with pytest.raises(SystemExit):
                    os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    with pytest.raises(SystemExit) as end:
        work()
    assert end.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer of the system")
def test_a_signal_waits_for_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled module would make an ImportError of it, and could not be imported again."""
    text = (
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(0.3)\nDONE = 1\n"
    )
    (tmp_path / "slow_import_of_a_test.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)

    def work() -> None:
        with ended_by_signal():
            importlib.import_module("slow_import_of_a_test")
            time.sleep(10)

    try:
        with pytest.raises(SystemExit) as end:
            work()
        assert end.value.code == 128 + signal.SIGTERM
        assert sys.modules["slow_import_of_a_test"].DONE == 1
    finally:
        sys.modules.pop("slow_import_of_a_test", None)
