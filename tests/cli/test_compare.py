from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from svc.audio.io import write_audio
from svc.cli.main import main
from svc.demo.singer import DEMO_HIGH, DEMO_LOW, SAMPLING_RATE, sing_contour


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    for name, voice, f0 in (("high", DEMO_HIGH, 300.0), ("low", DEMO_LOW, 150.0)):
        wav = sing_contour(np.full(60000, f0), voice=voice, rng=np.random.default_rng(0)).wav
        (folder / name).mkdir()
        write_audio(folder / f"{name}.wav", wav, SAMPLING_RATE)
        write_audio(folder / name / "clip one.wav", wav, SAMPLING_RATE)
    (folder / "empty").mkdir()
    return folder


def test_compare_prints_draws_and_writes(songs, tmp_path, capsys):
    png, figures = tmp_path / "p.png", tmp_path / "f.json"
    status = main([
        "compare", str(songs / "high.wav"), str(songs / "low.wav"), "--target", str(songs / "low"),
        "--source", str(songs / "high"), "--transpose", "-12", "--png", str(png),
        "--json", str(figures),
    ])  # fmt: skip
    assert status == 0
    out = capsys.readouterr().out.splitlines()
    read = json.loads(figures.read_text())
    assert out[0] == read["summary"]
    assert out[1:] == [f"picture: {png}", f"figures: {figures}"]
    assert png.read_bytes().startswith(b"\x89PNG")
    assert read["f0_median_cents"] < 10
    assert read["distance_to_target"] < 0.1 < 1 < read["distance_to_source"]
    assert read["transpose"] == -12


def test_compare_needs_nothing_but_two_files(songs, capsys):
    assert main(["compare", str(songs / "high.wav"), str(songs / "high.wav")]) == 0
    out = capsys.readouterr().out
    assert "F0 error 0 cents" in out
    assert "target voice" not in out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["{songs}/gone.wav", "{songs}/low.wav"], "gone.wav"),
        (["{songs}/high.wav", "{songs}/empty"], "empty"),
        (["{songs}/high.wav", "{songs}/low.wav", "--target", "{songs}/empty"], "no audio file"),
        (["{songs}/high.wav", "{songs}/low.wav", "--source", "{songs}/nowhere"], "nowhere"),
        (["{songs}/high.wav", "{songs}/low.wav", "--f0-predictor", "rmpve"], "rmpve"),
        (["{songs}/high.wav", "{songs}/low.wav", "-t", "500"], "--transpose"),
        (["{songs}/high.wav", "{songs}/low.wav", "--json", "{songs}/empty"], "cannot write"),
    ],
)
def test_bad_input_is_one_line(songs, capsys, arguments, word):
    assert main(["compare", *(item.format(songs=songs) for item in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("svc: error: ")
    assert word in error
    assert error.count("\n") == 1
