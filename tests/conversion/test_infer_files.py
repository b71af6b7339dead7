"""`svc infer` and files: formats, folders, manifests, the cache, JSON for programs."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svc.audio.io import audio_info, read_audio, read_tags, write_audio
from svc.cli import infer_report
from svc.conversion.jobs import Outcome

Run = Callable[..., Any]
Sine = Callable[..., np.ndarray]
SR = 44100
NAME = "song_0key_alice_sovits_pm"


def test_a_folder_of_formats_once_and_again(
    run: Run, work: Path, stub_encoder: None, sine: Sine
) -> None:
    write_audio("in/a.wav", np.stack((sine(220, 0.3), 0.3 * sine(220, 0.3))), SR)
    write_audio("in/sub/b.mp3", sine(220, 0.3, 48000), 48000, tags={"title": "歌"})
    write_audio("in/sub/c.flac", sine(220, 0.3, 16000), 16000)
    Path("in/sub/d.ogg").write_bytes(b"no audio")
    words = ["-n", "in", "--recursive", "--channels", "keep", "--rate", "source", "-wf", "wav"]
    done = run(*words, "--bit-depth", "24")
    assert done.code == 1, done.err
    rows = [line.split() for line in done.err.splitlines()]
    assert ["file", "voice", "seconds", "RTF", "result"] in rows
    assert "svc: failed: sub/d.ogg for alice: " in done.err
    assert "3 of 4 done, 1 failed: sub/d.ogg" in done.err
    ending = "_0key_alice_sovits_pm.wav"
    facts = {
        "a.wav": (SR, 2, round(0.3 * SR)),
        "sub/c.flac": (16000, 1, 4800),
    }
    for name, expected in facts.items():
        info = audio_info(f"results/{name}{ending}")
        assert (info.sr, info.channels, info.n_samples) == expected
    assert read_tags(f"results/sub/b.mp3{ending}")["title"] == "歌"
    wav, _ = read_audio(f"results/a.wav{ending}", mono=False)
    middle = wav[:, 4000:9000]
    ratio = np.sqrt(np.mean(middle[1] ** 2) / np.mean(middle[0] ** 2))
    assert ratio == pytest.approx(0.3, rel=0.02)
    # What is done is left alone, and what failed is tried again.
    before = Path(f"results/a.wav{ending}").stat().st_mtime_ns
    again = run(*words, "--bit-depth", "24", "--skip-existing")
    assert again.code == 1
    assert "3 of 4 done, 3 of them there already, 1 failed" in again.err
    assert Path(f"results/a.wav{ending}").stat().st_mtime_ns == before
    Path("in/sub/d.ogg").unlink()
    last = run(*words, "--skip_existing", "-m", "logs/44k/G_100.pth")
    assert last.code == 0, last.err
    assert "3 of 3 done, 3 of them there already" in last.out


def test_results_beside_the_songs_are_not_sung_again(
    run: Run, work: Path, stub_encoder: None, sine: Sine
) -> None:
    for name in ("a.wav", "sub/b.wav", "sub/c.wav"):
        write_audio(f"in/{name}", sine(220, 0.3), SR)
    for seed in "12":
        done = run("-n", "in", "--recursive", "--output_dir", "in", "--seed", seed)
        assert done.code == 0, done.err
        assert "3 of 3 done" in done.out
    assert "in holds songs and results: 3 with a manifest left out" in done.err
    assert len(list(Path("in").rglob("*.flac"))) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are Unicode there")
def test_a_name_that_is_no_unicode_stops_no_song(
    run: Run, work: Path, stub_encoder: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = os.fsdecode(b"caf\xe9")
    Path("raw/song.wav").rename(f"raw/{name}.wav")
    strict = io.TextIOWrapper(io.BytesIO(), "utf-8", "strict", write_through=True)
    monkeypatch.setattr(sys, "stdout", strict)
    done = run("-n", name, "missing", name, "-t", "0", "0", "1")
    assert done.code == 1, done.err
    assert "2 of 3 done, 1 failed: missing" in done.err
    said = strict.buffer.getvalue()  # type: ignore[attr-defined]
    assert said.count(b"caf\\udce9 -> results/caf\\udce9_") == 2


def test_nothing_is_loaded_when_all_is_there(
    run: Run, work: Path, no_reading: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "svc.conversion.voice.load_synthesizer", lambda *_, **__: pytest.fail("a model was loaded")
    )
    write_audio(f"results/{NAME}.flac", np.zeros(10, np.float32), SR)
    done = run("-n", "song", "--skip_existing")
    assert done.code == 0, done.err
    assert f"song -> results/{NAME}.flac  (there already)" in done.out


def test_the_manifest_of_a_run(run: Run, work: Path, stub_encoder: None) -> None:
    words = ["-n", "song", "-t", "3", "--seed", "7", "-ns", "0.1"]
    done = run(*words)
    assert done.code == 0, done.err
    told = json.loads(Path("results/song_3key_alice_sovits_pm.flac.json").read_text("utf-8"))
    assert told["command"] == ["svc", "infer", *words, "-d", "cpu"]
    assert (told["options"]["transpose"], told["options"]["seed"]) == (3.0, 7)
    assert told["settings"]["device"] == "cpu"
    assert told["settings"]["f0_predictor"] == "pm"
    assert told["settings"]["speech_encoder"] == "whisper-ppg-tiny"
    model = Path("logs/44k/G_100.pth")
    files = told["files"]
    assert files["model"] == [
        {
            "path": "logs/44k/G_100.pth",
            "bytes": model.stat().st_size,
            "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        }
    ]
    assert set(files) == {"source", "model", "config", "encoder"}
    assert files["encoder"][0]["path"].endswith(".safetensors")
    assert told["timings"]["features_computed"] == 2  # units and pitch of its one stretch


def test_no_manifest_is_left_of_an_earlier_result(run: Run, work: Path, stub_encoder: None) -> None:
    manifest = Path(f"results/{NAME}.flac.json")
    assert run("-n", "song", "--seed", "1").code == 0
    before = Path(f"results/{NAME}.flac").read_bytes()
    assert json.loads(manifest.read_text("utf-8"))["options"]["seed"] == 1
    assert run("-n", "song", "--seed", "2", "--no_manifest").code == 0
    assert Path(f"results/{NAME}.flac").read_bytes() != before
    assert not manifest.exists()
    manifest.write_text('{"mine": 1}')
    for words in ([], ["--share", "x"]):
        assert run("-n", "song", "--no_manifest", *words).code == 0
        assert manifest.read_text() == '{"mine": 1}'
    manifest.write_text('{"svc_manifest": 1}')
    assert run("-n", "song", "--no_manifest", "--share", "x").code == 0
    assert not manifest.exists()


def test_without_manifest_and_tags(run: Run, work: Path, stub_encoder: None) -> None:
    assert run("-n", "song", "--no_manifest", "--no_tags").code == 0
    assert [path.name for path in Path("results").iterdir()] == [f"{NAME}.flac"]
    assert read_tags(f"results/{NAME}.flac") == {}


def test_the_cache_changes_no_byte(run: Run, work: Path) -> None:
    """With the real encoder: computed, remembered, and without a cache."""
    contents, told = [], []
    for flags in (["--cache_dir", "c"], ["--cache_dir", "c"], ["--no_cache"]):
        done = run("-n", "song", "-f0p", "fcpe", "--output", "a.wav", *flags)
        assert done.code == 0, done.err
        contents.append(Path("a.wav").read_bytes())
        timings = json.loads(Path("a.wav.json").read_text("utf-8"))["timings"]
        told.append((timings["features_cached"], timings["features_computed"]))
    assert contents[0] == contents[1] == contents[2]
    assert told == [(0, 2), (2, 0), (0, 0)]
    assert len(list(Path("c").glob("*/*.npz"))) == 2
    for path in Path("c").glob("*/*.npz"):
        path.write_bytes(path.read_bytes()[:-30])  # damage is no reason to fail
    assert run("-n", "song", "-f0p", "fcpe", "--output", "a.wav", "--cache_dir", "c").code == 0
    assert Path("a.wav").read_bytes() == contents[0]


def test_json_for_programs(run: Run, work: Path, stub_encoder: None) -> None:
    Path("raw/bad.wav").write_bytes(b"bad")
    done = run("-n", "song", "bad", "missing", "-t", "1", "--json")
    assert done.code == 1
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert {line["file"]: line["status"] for line in lines} == {
        "song": "done",
        "bad": "failed",
        "missing": "failed",
    }
    song = next(line for line in lines if line["file"] == "song")
    assert song["output"] == "results/song_1key_alice_sovits_pm.flac"
    assert song["manifest"] == "results/song_1key_alice_sovits_pm.flac.json"
    assert song["source"] == "raw/song.wav"
    assert song["error"] is None
    assert song["audio_seconds"] == 0.5
    assert song["rtf"] == pytest.approx(song["wall_seconds"] / 0.5, rel=0.01)
    assert "1 of 3 done, 2 failed" in done.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--bit_depth", "20"], '--bit_depth "20" is unknown: choose 16, 24, 32f'),
        (["--bit_depth", "32f"], '.flac has no bit depth "32f"'),
        (["--bit_depth", "24", "-wf", "mp3"], ".mp3 has no bit depth"),
        (["--rate", "7000"], "--rate is 7000"),
        (["--rate", "96000", "-wf", "mp3"], "at 96000 Hz"),
        (["--channels", "left"], '--channels "left" is unknown: choose mono, keep, mid-side'),
        (["--cache_gb", "0"], "--cache_gb is 0"),
        (["-wf", "m4a"], "without ffmpeg, which is not on PATH"),
    ],
)
def test_wrong_flags_are_told_before_the_models(
    run: Run,
    work: Path,
    no_reading: None,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("PATH", str(work))
    monkeypatch.setattr(
        "svc.conversion.voice.load_synthesizer", lambda *_, **__: pytest.fail("a model was loaded")
    )
    done = run("-n", "song", *flags)
    assert done.code == 2
    assert message in done.error
    assert not Path("results").exists()


def test_a_rate_that_is_none(run: Run, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("-n", "song", "--rate", "fast")
    assert '"fast" is neither a rate in Hz nor source' in capsys.readouterr().err


def test_the_table() -> None:
    outcomes = [
        Outcome("歌.wav", "alice", Path("r/a.flac"), "", 10.0, 2.5),
        Outcome("gone", error="no  file\ngone"),
        Outcome("b.wav", "bob", Path("r/b.flac"), skipped=True),
    ]
    assert infer_report._table(outcomes) == [
        "file    voice  seconds   RTF  result",
        "歌.wav  alice     10.0  0.25  r/a.flac",
        "gone                          failed: no file gone",
        "b.wav   bob                   r/b.flac (there already)",
    ]
