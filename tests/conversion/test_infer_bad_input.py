"""What `svc infer` says when something is wrong: one line, and the others are done."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svc.audio.io import write_audio
from svc.config import save_config

Run = Callable[..., Any]
Sine = Callable[..., np.ndarray]
Make = Callable[..., Any]
SR = 44100


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["-t", "99"], "--trans"),
        (["-t", "0", "99"], "--trans"),
        (["-lgr", "0"], "--linear_gradient_retain"),
        (["-cl", "1", "-lg", "2"], "overlap must fit"),
        (["-wf", "aac"], "flac, wav, ogg, mp3"),
        (["--seed", "-1"], "--seed"),
        (["--output", "x.aac"], ".aac"),
        (["--f0_min", "500", "--f0_max", "100"], "f0_min"),
        (["-f0p", "pn"], "pm"),
        (["-d", "cuda:77"], "cuda:77"),
    ],
)
def test_bad_values_answer_in_one_line(
    run: Run, work: Path, stub_encoder: None, flags: list[str], text: str
) -> None:
    done = run("-n", "song.wav", *flags)
    assert done.code == 2
    assert text in done.error
    assert not [path for path in work.glob("results/*") if not path.name.startswith(".")]


def test_a_bad_file_among_good_ones(run: Run, work: Path, stub_encoder: None, sine: Sine) -> None:
    Path("raw/corrupt.wav").write_bytes(b"RIFF" + b"\xff" * 200)
    Path("raw/text.wav").write_text("this is no audio")
    Path("raw/zero.wav").touch()
    write_audio("raw/last.wav", sine(220, 0.1), SR)
    names = ["corrupt.wav", "song.wav", "text.wav", "zero.wav", "missing.wav", "last.wav"]
    done = run("-n", *names)
    assert done.code == 1
    assert len(list(Path("results").glob("*.flac"))) == 2
    assert "song.wav -> results" in done.out
    assert "last.wav -> results" in done.out
    assert "Traceback" not in done.err
    failed = [line for line in done.err.splitlines() if line.startswith("svc: failed: ")]
    assert len(failed) == 4
    for name in ("corrupt", "text", "zero", "missing"):
        assert any(f"{name}.wav" in line for line in failed)
    assert "2 of 6 done, 4 failed" in done.err


def test_nothing_but_bad_files(run: Run, work: Path, stub_encoder: None) -> None:
    Path("raw/zero.wav").touch()
    assert run("-n", "zero.wav").code == 2
    done = run("-n", "sing.wav")
    assert done.code == 2
    assert "did you mean song.wav" in done.err
    Path("empty").mkdir()
    done = run("-n", "empty")
    assert done.code == 2
    assert "holds no audio files" in done.err


def test_unknown_speakers(run: Run, work: Path) -> None:
    done = run("-n", "song", "-s", "Alise")
    assert done.code == 2
    assert 'unknown speaker "Alise": this model knows "alice" (0)' in done.error
    assert run("-n", "song", "-s", "1").code == 2


def test_several_speakers_need_a_choice(run: Run, work: Path, make_config: Make) -> None:
    config = dataclasses.replace(make_config(n_speakers=2), spk={"alice": 0, "bob": 1})
    save_config(config, "two.json")
    done = run("-n", "song", "-c", "two.json")
    assert done.code == 2
    line = done.error
    assert "-s NAME" in line
    assert '"alice" (0), "bob" (1)' in line


def test_the_newest_checkpoint_is_the_default(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stub_encoder: None,
    sine: Sine,
    make_config: Make,
    save_voice: Make,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_audio("raw/song.wav", sine(220, 0.2), SR)
    done = run("-n", "song")
    assert done.code == 2
    assert "svc train" in done.error
    for step in (1000, 200):
        save_voice(Path("logs/44k"), make_config(), step)
    Path("logs/44k/G_9999_release.pth").touch()
    assert run("-n", "song", "--output", "default.wav").code == 0
    for step in (1000, 200):
        model = f"logs/44k/G_{step}.pth"
        assert run("-n", "song", "-m", model, "--output", f"{step}.wav").code == 0
    default, newest, older = (Path(f"{x}.wav").read_bytes() for x in ("default", 1000, 200))
    assert default == newest != older


def test_missing_model_and_config(run: Run, work: Path) -> None:
    done = run("-n", "song", "-m", "nowhere/G_1.pth")
    assert done.code == 2
    assert "nowhere/G_1.pth is not there" in done.error
    done = run("-n", "song", "-c", "nowhere.json")
    assert done.code == 2
    assert "nowhere.json" in done.error


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"ssl_dim": 512, "speech_encoder": "whisper-ppg-base"}, ["pre.weight", "384", "512"]),
        ({"gin_channels": 6}, ["emb_g.weight"]),
        ({"vol_embedding": True}, ["emb_vol"]),
        ({"use_automatic_f0_prediction": False}, ["f0_decoder"]),
        ({"upsample_initial_channel": 64}, ["dec."]),
    ],
)
def test_config_and_checkpoint_must_match(
    run: Run,
    work: Path,
    no_reading: None,
    change: dict[str, Any],
    names: list[str],
    make_config: Make,
) -> None:
    save_config(make_config(**change), "other.json")
    done = run("-n", "song", "-c", "other.json")
    assert done.code == 2
    line = done.error
    for name in names:
        assert name in line
    assert not Path("results").is_dir() or not list(Path("results").iterdir())


def test_an_encoder_of_the_wrong_width(
    run: Run, work: Path, no_reading: None, make_config: Make
) -> None:
    save_config(make_config(speech_encoder="vec256l9"), "other.json")
    done = run("-n", "song", "-c", "other.json")
    assert done.code == 2
    line = done.error
    assert line.startswith('svc: error: other.json asks for the speech encoder "vec256l9"')
    assert 'units are 256 wide, but the model takes units 384 wide ("model.ssl_dim")' in line
    assert "like those of whisper-ppg-tiny: set model.speech_encoder" in line
    save_config(make_config(speech_encoder="vec768l12+whisper-ppg-tiny"), "other.json")
    done = run("-n", "song", "-c", "other.json")
    assert done.code == 2
    assert '"vec768l12+whisper-ppg-tiny", whose units are 1152 wide' in done.error


def test_a_missing_encoder_file(
    run: Run, work: Path, no_reading: None, make_config: Make, save_voice: Make
) -> None:
    save_voice(Path("v"), make_config(ssl_dim=768, speech_encoder="vec768l12"))
    done = run("-n", "song", "-m", "v/G_100.pth")
    assert done.code == 2
    line = done.error
    for text in ("checkpoint_best_legacy_500.pt", "pretrain", "whisper-ppg-tiny"):
        assert text in line
    done = run("-n", "song", "--encoder_path", "gone.pt")
    assert done.code == 2
    assert "gone.pt is not there, the weights of whisper-ppg-tiny" in done.error
    done = run("-n", "song", "--encoder_path", "vec768l12=gone.pt")
    assert done.code == 2
    assert "expected one ID=PATH for each ID of whisper-ppg-tiny" in done.error


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint(run: Run, work: Path, no_reading: None, share: float) -> None:
    whole = Path("logs/44k/G_100.pth").read_bytes()
    Path("cut.pth").write_bytes(whole[: int(share * len(whole))])
    done = run("-n", "song", "-m", "cut.pth", "-c", "logs/44k/config.json")
    assert done.code == 2
    assert "cut.pth" in done.error


def test_auto_f0_without_a_decoder(
    run: Run, work: Path, no_reading: None, stub_encoder: None, make_config: Make, save_voice: Make
) -> None:
    save_voice(Path("v"), make_config(use_automatic_f0_prediction=False))
    done = run("-n", "song", "-m", "v/G_100.pth", "-a")
    assert done.code == 2
    assert "run without -a" in done.error


def test_an_output_folder_that_cannot_be_written(run: Run, work: Path, no_reading: None) -> None:
    Path("file").touch()
    done = run("-n", "song", "--output_dir", "file/results")
    assert done.code == 2
    assert "file" in done.error


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that refuses even root")
def test_a_folder_that_refuses_even_root(run: Run, work: Path, no_reading: None) -> None:
    done = run("-n", "song", "--output_dir", "/proc/svc")
    assert done.code == 2
    assert "/proc/svc" in done.error


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on file sizes")
def test_files_that_get_too_large(
    run: Run, work: Path, stub_encoder: None, monkeypatch: pytest.MonkeyPatch, sine: Sine
) -> None:
    import resource
    import signal

    write_audio("raw/long.wav", sine(220, 3), SR)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))
    try:
        done = run("-n", "long", "song", "-wf", "wav")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert done.code == 2
    assert "svc: failed: long for alice: cannot write results/long" in done.err
    assert "svc: failed: song for alice: cannot write results/song" in done.err  # tried as well
    assert "Traceback" not in done.err
    assert not list(Path("results").iterdir())  # no half-written file is left
