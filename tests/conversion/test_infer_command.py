"""The real command line of `svc infer`, with a small voice of random weights."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from svc.audio.io import audio_info, read_audio, write_audio
from svc.checkpoint import load_checkpoint
from svc.cli import infer

Run = Callable[..., Any]
Sine = Callable[..., np.ndarray]
Make = Callable[..., Any]
SR = 44100


def only_result() -> Path:
    (path,) = results_in("results")
    return path


def results_in(folder: str) -> list[Path]:
    """Return the files of a folder without their manifests."""
    return sorted(path for path in Path(folder).iterdir() if path.suffix != ".json")


def test_the_whole_way_with_the_bundled_encoder(work: Path) -> None:
    """`python -m svc infer -n song`: default model, config, speaker, predictor and names."""
    done = subprocess.run(
        [sys.executable, "-m", "svc", "infer", "-n", "song"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(infer.__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr
    path = only_result()
    assert path.name == "song_0key_alice_sovits_pm.flac"
    assert str(path) in done.stdout
    wav, sr = read_audio(path)
    assert (sr, len(wav)) == (SR, SR // 2)
    assert np.abs(wav).max() > 1e-3
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("predictor", ["pm", "dio", "harvest", "fcpe"])
def test_every_predictor(run: Run, work: Path, stub_encoder: None, predictor: str) -> None:
    done = run("-n", "song.wav", "-f0p", predictor)
    assert done.code == 0, done.err
    assert only_result().name == f"song.wav_0key_alice_sovits_{predictor}.flac"


def test_all_kinds_of_files_in_one_run(
    run: Run, work: Path, stub_encoder: None, sine: Sine
) -> None:
    expected: dict[str, int] = {}
    for sr in (8000, 16000, 22050, 44100, 48000, 96000):
        wav = sine(220, 0.3003, sr)
        write_audio(f"in/{sr}.wav", wav, sr)
        expected[f"{sr}.wav"] = -(-len(wav) * SR // sr)
    stereo = np.stack([sine(220, 0.2), 0.1 * sine(220, 0.2)], axis=1)
    soundfile.write("in/stereo.wav", stereo, SR)
    soundfile.write("in/24bit.wav", sine(220, 0.2), SR, subtype="PCM_24")
    soundfile.write("in/float.wav", 1.5 * sine(220, 0.2), SR, subtype="FLOAT")
    soundfile.write("in/8bit.wav", sine(220, 0.2), SR, subtype="PCM_U8")
    soundfile.write("in/flac.FLAC", sine(220, 0.2), SR)
    for name in ("stereo.wav", "24bit.wav", "float.wav", "8bit.wav", "flac.FLAC"):
        expected[name] = round(0.2 * SR)
    write_audio("in/short.wav", sine(220, 0.1), SR)
    write_audio("in/tiny.wav", sine(220, 0.1)[:7], SR)
    write_audio("in/silent.wav", np.zeros(SR, np.float32), SR)
    write_audio("in/hiss.wav", sine(220, 1, amplitude=0.004), SR)
    expected |= {"short.wav": SR // 10, "tiny.wav": 7, "silent.wav": SR, "hiss.wav": SR}
    Path("in/notes.txt").write_text("skipped")

    done = run("-n", "in")
    assert done.code == 0, done.err
    assert f"{len(expected)} of {len(expected)} done" in done.out
    for name, n_samples in expected.items():
        result = Path(f"results/{name}_0key_alice_sovits_pm.flac")
        wav, sr = read_audio(result)
        assert (sr, len(wav)) == (SR, n_samples), name
        if name in ("silent.wav", "hiss.wav"):
            assert not wav.any(), name
        elif name != "tiny.wav":
            assert np.abs(wav).max() > 1e-3, name


@pytest.mark.parametrize(
    "name",
    [
        "my song.wav",
        "君の知らない物語.wav",
        "🎤 🎶.wav",
        "a|b.wav",
        'it\'s "q".wav',
        "-n.wav",
        "[x]%s{}.wav",
    ],
)
def test_names_in_any_script(
    run: Run, work: Path, stub_encoder: None, name: str, sine: Sine
) -> None:
    write_audio(Path("raw") / name, sine(220, 0.1), SR)
    given = f"raw/{name}" if name.startswith("-") else name
    done = run("-n", given)
    assert done.code == 0, done.err
    assert only_result().name == f"{name}_0key_alice_sovits_pm.flac"
    assert name in done.out


def test_several_files_and_speakers(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stub_encoder: None,
    sine: Sine,
    make_config: Make,
    save_voice: Make,
) -> None:
    monkeypatch.chdir(tmp_path)
    speakers = {"alice": 0, "keys": 1, "歌 手": 2}
    config = dataclasses.replace(make_config(n_speakers=3), spk=speakers)
    save_voice(Path("voice"), config)
    elsewhere = tmp_path / "else where"
    write_audio("raw/a.wav", sine(220, 0.1), SR)
    write_audio(elsewhere / "b.ogg", sine(220, 0.1), SR)
    names = ["-n", "a.wav", str(elsewhere / "b.ogg")]
    voices = ["--spk-list", "keys", "2", "keys"]
    done = run(
        "-m", "voice/G_100.pth", *names, *voices, "-t", "-12", "3", "-wf", "wav",
        "--output-dir", "out",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [path.name for path in results_in("out")] == [
        "a.wav_-12key_keys_sovits_pm.wav",
        "a.wav_-12key_歌 手_sovits_pm.wav",
        "b.ogg_3key_keys_sovits_pm.wav",
        "b.ogg_3key_歌 手_sovits_pm.wav",
    ]
    assert "4 of 4 done" in done.out
    contents = {path.read_bytes() for path in results_in("out")}
    assert len(contents) == 4


def test_options_reach_the_result(run: Run, work: Path, stub_encoder: None, sine: Sine) -> None:
    write_audio("raw/song.wav", sine(220, 0.7), SR)
    variants: list[list[str]] = [
        [],
        ["-ns", "0"],
        ["--seed", "1"],
        ["-t", "12"],
        ["-lea", "0.3"],
        ["-a"],
        ["-cl", "0.3"],
        ["-cl", "0.3", "-lg", "0.2"],
        ["-cl", "0.3", "-lg", "0.2", "-lgr", "0.3"],
        ["-p", "0"],
        ["-sd", "-3"],
        ["--compat"],
    ]
    results = []
    for index, flags in enumerate(variants):
        target = f"out/{index}.wav"
        done = run("-n", "song", "--output", target, *flags)
        assert done.code == 0, done.err
        wav, _ = read_audio(target)
        assert len(wav) == round(0.7 * SR) or "--compat" in flags
        results.append(wav[: SR // 2])
    for (i, a), (j, b) in itertools.combinations(enumerate(results), 2):
        assert not np.array_equal(a, b), (variants[i], variants[j])


def test_the_same_seed_gives_the_same_bytes(run: Run, work: Path, stub_encoder: None) -> None:
    contents = []
    for index in range(2):
        torch.rand(index + 1)
        done = run("-n", "song", "--seed", "5", "--output", f"{index}.flac")
        assert done.code == 0, done.err
        contents.append(Path(f"{index}.flac").read_bytes())
    assert contents[0] == contents[1]


def test_half_checkpoints_run_in_full_precision(
    run: Run, work: Path, stub_encoder: None, make_config: Make, save_voice: Make
) -> None:
    save_voice(Path("half"), make_config(), half=True)
    half = load_checkpoint("half/G_100.pth")["model"]
    assert half["pre.weight"].dtype == torch.float16
    for model, output in (("half/G_100.pth", "half.wav"), ("logs/44k/G_100.pth", "full.wav")):
        done = run("-m", model, "-n", "song", "--output", output)
        assert done.code == 0, done.err
    a, b = read_audio("half.wav")[0], read_audio("full.wav")[0]
    assert np.corrcoef(a, b)[0, 1] > 0.99


@pytest.mark.parametrize("suffix", ["flac", "wav", "ogg", "mp3"])
def test_output_formats(run: Run, work: Path, stub_encoder: None, suffix: str) -> None:
    done = run("-n", "song", "-wf", suffix.upper())
    assert done.code == 0, done.err
    assert only_result().suffix == f".{suffix}"
    assert audio_info(only_result()).sr == SR


def test_output_names_one_file(run: Run, work: Path, stub_encoder: None, sine: Sine) -> None:
    assert run("-n", "song", "--output", "mine", "-wf", "wav").code == 0
    assert audio_info("mine.wav").n_samples == SR // 2
    write_audio("raw/two.wav", sine(220, 0.1), SR)
    done = run("-n", "song", "two", "--output", "mine.wav")
    assert done.code == 2
    assert "--output names one file" in done.error
    done = run("-n", "song", "--output", "raw/song.wav")
    assert done.code == 2
    assert "the input itself" in done.error
    done = run("-n", "song", "--output", "raw")
    assert done.code == 2
    assert "is a folder" in done.error
