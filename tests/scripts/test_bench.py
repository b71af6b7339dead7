"""The benches of encoders: that the plain path does the same work, and what their tables say."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from svc.speech.wav2vec2 import Wav2Vec2
from svc.speech.wave_encoder import Wav2Vec2Encoder
from svc.speech.whisper import Whisper, WhisperConfig, WhisperEncoder

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import a script as it is imported when run: by its bare name, beside its folder's others."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.syspath_prepend(str(SCRIPTS / "bench"))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(SCRIPTS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


SMALL = {
    "conv_channels": (24,) * 7,
    "dim": 64,
    "n_heads": (4, 4),
    "ffn_dims": (96, 96),
    "head_dim": 16,
    "position_groups": 4,
}
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "base": ("_BASE", {}, {"layer": 1, "project": True}),
    "soft": ("_BASE", {}, {"layer": 2, "project": True, "padding": 40}),
    "large": ("_LARGE", {"conv_bias": True, "normalize_wave": True}, {}),
    "wavlm": ("_WAVLM", {"relative_distance": 40}, {}),
    "pruned": ("_PRUNED", {"n_heads": (0, 3), "ffn_dims": (48, 0), "head_dim": 20}, {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_plain_path_gives_the_same_units(load, kind):
    nets, plain = load("nets"), load("plain")
    sizes, changes, taps = KINDS[kind]
    net = Wav2Vec2(replace(getattr(nets, sizes), **{**SMALL, **changes})).eval()
    nets.fill(net)
    wav = 0.1 * torch.randn(20000, generator=torch.Generator().manual_seed(1))
    wanted = plain.PlainWave(net, **taps).encode(wav)
    found = Wav2Vec2Encoder(net, name=kind, **taps).encode(wav)
    assert found.shape == wanted.shape
    assert wanted.std() > 0.05
    assert (found - wanted).abs().max() < 2e-5 * wanted.abs().max()


def test_the_plain_path_gives_the_same_units_of_whisper_and_of_a_fusion(load):
    nets, plain = load("nets"), load("plain")
    net = Whisper(WhisperConfig(80, 100, 64, 4, 2)).eval()
    nets.fill(net)
    wav = 0.1 * torch.randn(20000, generator=torch.Generator().manual_seed(1))
    whisper = plain.PlainWhisper(net)
    wanted = whisper.encode(wav)
    found = WhisperEncoder(net, name="whisper").encode(wav)
    assert found.shape == wanted.shape == (1, 64, 62)
    assert (found - wanted).abs().max() < 2e-5 * wanted.abs().max()
    wave_net = Wav2Vec2(replace(nets._BASE, **SMALL)).eval()
    nets.fill(wave_net)
    wave = plain.PlainWave(wave_net)
    fused = plain.PlainFusion(wave, whisper).encode(wav)
    assert fused.shape == (1, 128, 62)
    assert torch.equal(fused[:, 64:], wanted)
    assert torch.equal(fused[:, :64, 0], wave.encode(wav)[..., 0])


def test_every_encoder_is_measured_and_has_a_size(load):
    from svc.config import SPEECH_ENCODER_DIMS, split_encoders

    nets = load("nets")
    parts = {part for name in nets.NAMES for part in split_encoders(name)}
    assert parts == {name for name in SPEECH_ENCODER_DIMS if not name.endswith("-onnx")}
    assert parts - {"whisper-ppg-tiny"} == set(nets._WAVES) | set(nets._WHISPERS)
    for name, sizes in nets._WHISPERS.items():
        assert sizes.dim == SPEECH_ENCODER_DIMS[name]


def test_memory_of_the_plain_path_is_foreseen(load):
    plain_bytes = load("nets").plain_bytes
    assert plain_bytes("vec768l12", 600) > 40e9  # spec_encoders 11: 43 GB of scores
    assert plain_bytes("vec768l12", 60) < 2e9
    assert plain_bytes("wavlmbase+", 60) > plain_bytes("vec768l12", 60)
    assert plain_bytes("whisper-ppg", 30) < 2e9
    assert plain_bytes("vec768l12+whisper-ppg-tiny", 31) == math.inf


def test_a_worker_measures_and_leaves_out_what_cannot_be(load):
    encoders = load("encoders")
    order = {
        "kind": "measure",
        "name": "whisper-ppg-tiny",
        "variant": "plain",
        "device": "cpu",
        "threads": 1,
        "runs": 1,
        "limit": 900,
        "jobs": [
            {"label": "short", "seconds": [0.5, 0.3], "batch": False},
            {"label": "long", "seconds": [40.0], "batch": False},
        ],
    }
    short, long = encoders.ask(order, 120)
    assert short["audio"] == pytest.approx(0.8)
    assert short["seconds"] > 0
    if sys.platform == "linux":
        assert 1e8 < short["peak"] < 4e9
        assert 0 < short["beyond"] < short["peak"]
    assert long == {"job": "long", "skipped": "n/a"}


def fake(order: dict[str, Any], timeout: float) -> list[dict[str, Any]]:
    """Answers as of a machine on which the plain path takes four times as long."""
    if order["kind"] == "deviate":
        return [{"plain": {"rms": 1e-6, "max": 2e-6}, "bf16": {"rms": 0.01, "max": 0.5}}]
    slow = {"plain": 4.0, "fp32": 1.0, "bf16": 0.5}[order["variant"]]
    answers = []
    for job in order["jobs"]:
        audio = sum(job["seconds"])
        if order["variant"] == "plain" and audio > 500:
            answers.append({"job": job["label"], "skipped": "needs 87 GB"})
        elif order["name"] == "dphubert":
            pass  # the worker died
        else:
            peak = {"peak": 1e9 * slow, "beyond": 1e6 * audio}
            speed = 20 if job["batch"] else 10
            answers.append(
                {"job": job["label"], "audio": audio, "seconds": audio * slow / speed, **peak}
            )
    return answers


def cells(text: str, *begin: str) -> list[str]:
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines()]
    return next(row[len(begin) :] for row in rows if tuple(row[: len(begin)]) == begin)


def test_the_tables_are_written_into_the_document(load, monkeypatch, tmp_path, capsys):
    encoders = load("encoders")
    monkeypatch.setattr(encoders, "ask", fake)
    document = tmp_path / "encoders.md"
    document.write_text(
        "# Encoders\n\n<!-- speed cpu: begin -->\n\nnothing\n\n<!-- speed cpu: end -->\n\nkept\n",
        encoding="utf-8",
    )
    names = ["vec768l12", "dphubert"]
    arguments = ["--encoders", *names, "--shared", str(tmp_path), "--out", str(document)]
    assert encoders.main([*arguments, "--threads", "2"]) == 0
    text = document.read_text(encoding="utf-8")
    assert "nothing" not in text
    assert "kept" in text
    assert "2 threads" in text
    assert cells(text, "vec768l12", "10 s") == [
        "2.5", "10.0", "20.0", "4.00", "8.00", "4.00", "1.00", "0.50",
    ]  # fmt: skip
    assert cells(text, "vec768l12", "600 s") == [
        "needs 87 GB", "10.0", "20.0", "-", "-", "-", "1.00", "0.50",
    ]  # fmt: skip
    assert cells(text, "vec768l12", "24 clips, batched")[:5] == [
        "2.5",
        "20.0",
        "40.0",
        "8.00",
        "16.00",
    ]
    assert cells(text, "dphubert", "10 s") == ["failed"] * 3 + ["-"] * 5
    assert cells(text, "vec768l12") is not None
    deviations = text.split("<!-- deviation cpu: begin -->")[1]
    assert cells(deviations, "vec768l12") == ["1.0e-06, 2.0e-06", "-", "-", "1.0e-02, 5.0e-01", "-"]
    assert deviations.strip().splitlines()[-1] == "<!-- deviation cpu: end -->"
    assert deviations.split("<!-- deviation")[0].strip() in capsys.readouterr().out


def test_an_hour_above_two_gigabytes_fails(load, monkeypatch, capsys):
    encoders = load("encoders")
    monkeypatch.setattr(encoders, "ask", fake)
    assert encoders.main(["--hour", "--encoders", "vec768l12"]) == 1  # 3.6 GB by the fake
    assert cells(capsys.readouterr().out, "vec768l12") == ["10.0", "3.60"]
    monkeypatch.setattr(encoders, "HOUR", 1000.0)
    assert encoders.main(["--hour", "--encoders", "vec768l12"]) == 0
    assert encoders.main(["--hour", "--encoders", "dphubert"]) == 1  # no figure is no success


def test_clips_are_between_two_and_ten_seconds(load):
    lengths = load("encoders").clip_lengths(24)
    assert len(set(lengths)) == 24
    assert 2 <= min(lengths) < 3 < 9 < max(lengths) <= 10
    assert json.loads(json.dumps(lengths)) == lengths


def test_content_wants_recordings_and_says_so(load, tmp_path, capsys):
    content = load("content")
    assert content.main(["--shared", str(tmp_path / "absent")]) == 2
    assert "--voices" in capsys.readouterr().err
    assert content.main(["--voices", str(tmp_path), str(tmp_path)]) == 2
    assert "one folder per speaker" in capsys.readouterr().err
    assert content.paths_of(["wavlmbase+=x/y.pt"]) == {"wavlmbase+": Path("x/y.pt")}


def test_the_content_table_shows_each_pair_and_what_was_compared(load):
    from svc.evaluation.content import PairScore, Score

    content = load("content")
    scores = {"mine": Score(1.0, 1.0, 1.0, 0.7), "chance": Score(0.1, 0.5, 0.3, 0.0012)}
    lines = content.table([PairScore(("vcc16_a", "b"), 10, 10.0, 500, scores)])
    assert cells("\n".join(lines), "a and b", "mine") == ["100.0 %", "100.0 %", "1.000", "70.0 %"]
    assert cells("\n".join(lines), "a and b", "chance") == ["10.0 %", "50.0 %", "0.300", "0.12 %"]
