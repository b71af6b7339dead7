"""The benches of pitch: that the plain paths do the same work, and that the accuracy table says what
it measures.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from svc.audio.pitch import F0Track, cents
from svc.checkpoint import load_checkpoint
from svc.f0 import build_f0_predictor
from svc.f0.crepe_net import crepe_asset, load_crepe
from svc.f0.rmvpe import build_rmvpe
from svc.f0.rmvpe_net import RmvpeConfig, load_rmvpe
from svc.f0.settings import F0Settings
from svc.f0.swift import swift_asset

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SMALL = RmvpeConfig(n_blocks=2, n_middle=2, width=2, gru_dim=16)


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


Load = Callable[[str], ModuleType]


def test_the_plain_crepe_net_is_the_same_net(load: Load) -> None:
    plain = load("f0_plain")
    asset = crepe_asset("tiny")
    assert asset is not None
    frames = torch.randn(5, 1024, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = plain.crepe_net(load_checkpoint(asset), frames)
        torch.testing.assert_close(load_crepe("tiny")(frames), expected, atol=1e-5, rtol=0)
    assert expected.amax() > 0.01


def test_the_plain_rmvpe_is_the_same_net_and_decoding(load: Load, tmp_path: Path) -> None:
    """The nets in float64 (measured 6e-6: folded weights are kept as float32); pitch of a random net
    in float32, in which hardly a frame is rounded to another bin.
    """
    plain = load("f0_plain")
    state = plain.rmvpe_state(SMALL)
    path = tmp_path / "rmvpe.pt"
    torch.save({"model": state}, path)
    mel = torch.randn(1, 128, 64, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        expected = plain.rmvpe_net({name: part.double() for name, part in state.items()}, mel)
        torch.testing.assert_close(load_rmvpe(path).double()(mel), expected, atol=2e-5, rtol=0)
    assert expected.std() > 0.05
    settings = F0Settings(compat=True)
    wav = (0.1 * np.sin(np.arange(30_000) / 20)).astype(np.float32)
    ours = build_rmvpe(settings, pretrain_dir=tmp_path)(wav)
    theirs = plain.plain_rmvpe(wav, settings, path, device="cpu")
    np.testing.assert_array_equal(ours.uv, theirs.uv)
    assert np.mean(np.abs(cents(ours.f0, theirs.f0)) < 1) > 0.95


def test_rmvpes_random_weights_have_the_published_shapes(load: Load, shared: Path) -> None:
    import json

    table = json.loads((shared / "spec/tables/statedict_enc_rmvpe_E2E0.json").read_text())
    state = load("f0_plain").rmvpe_state(RmvpeConfig())
    used = {
        name: shape
        for name, shape in table.items()
        if not name.startswith("unet.tf.") and not name.endswith("num_batches_tracked")
    }
    assert {name: list(tensor.shape) for name, tensor in state.items()} == used


def test_the_plain_dio_and_crepe_hear_the_same(
    load: Load, sine: Callable[..., np.ndarray], rng: np.random.Generator
) -> None:
    plain = load("f0_plain")
    wav = np.sum([sine(220 * k, 1.0, amplitude=0.2 / k) for k in range(1, 20)], axis=0)
    wav = (wav + 0.003 * rng.standard_normal(len(wav))).astype(np.float32)
    settings = F0Settings()
    ours = build_f0_predictor("dio")(wav)
    np.testing.assert_array_equal(plain.plain_dio(wav, settings).f0, ours.f0)
    pytest.importorskip("resampy")
    track = plain.plain_crepe(wav, settings, size="tiny", device="cpu")
    assert len(track) == len(ours)
    assert track.uv.mean() > 0.9
    assert abs(1200 * np.log2(np.median(track.f0) / 220)) < 20
    assert plain.plain_path("swift", settings, device="cpu", pretrain_dir=Path()) is None


def test_a_speed_table(load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = load("f0")
    document = tmp_path / "f0.md"
    threads = torch.get_num_threads()
    arguments = ["--quick", "--seconds", "1", "--clips", "2", "--threads", "1"]
    names = ["pm", "dio", "ensemble:dio+pm"]
    assert bench.main([*arguments, "--predictors", *names, "--out", str(document)]) == 0
    torch.set_num_threads(threads)
    text = document.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[:2] for row in rows] == [
        [f"| {name}", label] for name in names for label in ("1 s", "2 clips")
    ]
    for row in rows:
        plain, ours, gain = (float(cell) for cell in row.strip("| ").split(" | ")[2:])
        assert 0 < ours < 10
        assert 0 < plain < 10
        assert gain > 0
    assert "<!-- speed cpu 1: begin -->" in text
    assert "1 thread, torch" in capsys.readouterr().out


# ------------------------------------------------------------------------------------- accuracy


def test_scores_are_what_they_say(load: Load) -> None:
    pytest.importorskip("mir_eval")
    accuracy = load("f0_accuracy")
    truth = np.array([0.0, 200.0, 200.0, 200.0, 200.0, 0.0, 0.0, 0.0])
    wav = np.zeros(8 * 512, np.float32)
    clip = accuracy.Clip(wav, 44100, truth, np.ones(8, bool))

    def score(f0: list[float], clip: object = clip) -> tuple[float, float, float]:
        hz = np.array(f0)
        found = accuracy.score([clip], [F0Track(hz, hz > 0)])
        return found.pitch, found.octave, found.voicing

    assert score(list(truth)) == (1, 0, 1)
    off = 200 * 2 ** (60 / 1200)  # too far
    near = 200 * 2 ** (40 / 1200)
    assert score([0, near, off, 400, 100, 0, 0, 0]) == (0.25, 0.5, 1)
    # One frame missed and one too many: precision and recall are 3/4.
    assert score([0, 0, 200, 200, 200, 200, 0, 0]) == (0.75, 0, 0.75)
    recorded = accuracy.Clip(wav, 44100, truth, truth > 0, unvoiced_known=False)
    pitch, octave, voicing = score([99, 200, 200, 200, 400, 99, 99, 99], recorded)
    assert (pitch, octave) == (0.75, 0.25)
    assert np.isnan(voicing)


def test_the_material_is_what_it_says(load: Load) -> None:
    accuracy = load("f0_accuracy")
    conditions = accuracy.synthetic(5, quick=True)
    assert list(conditions) == ["notes", "glides", "songs", "40 dB", "20 dB", "10 dB", "reverb"]
    again = accuracy.synthetic(5, quick=True)
    clean = [clip for name in ("notes", "glides", "songs") for clip in conditions[name]]
    f0 = np.concatenate([clip.f0 for clip in clean])
    assert 55 < f0[f0 > 0].min() < 62
    assert 1150 < f0.max() < 1280
    for clip, same in zip(conditions["reverb"], again["reverb"], strict=True):
        np.testing.assert_array_equal(clip.wav, same.wav)
    for snr in (40, 20, 10):
        for clip, noisy in zip(clean, conditions[f"{snr} dB"], strict=True):
            voiced = np.repeat(clip.f0 > 0, 512)
            added = (noisy.wav - clip.wav)[: len(voiced)].astype(np.float64)
            power = np.mean(np.square(clip.wav[: len(voiced)][voiced], dtype=np.float64))
            assert 10 * np.log10(power / np.mean(added**2)) == pytest.approx(snr, abs=0.3)


def test_notes_that_were_recorded(load: Load, shared: Path) -> None:
    found = load("f0_accuracy").recorded_notes(shared)
    assert set(found) == {"chengu", "martin"}
    assert len(found["chengu"]) == 23
    assert len(found["martin"]) > 25
    assert {round(clip.f0[0], 1) for clip in found["martin"]} >= {220.0, 110.0, 73.4}
    assert all(0.3 < clip.counted.mean() <= 1 for clips in found.values() for clip in clips)


@pytest.mark.skipif(swift_asset() is None, reason="swift-f0 is not installed")
def test_the_accuracy_table_in_small(load: Load) -> None:
    """A little of the table of docs/f0.md, whose figures these limits leave room for.

    The ensemble is right at least as often as each member, in noise and reverberation too.
    """
    pytest.importorskip("mir_eval")
    accuracy = load("f0_accuracy")
    material = accuracy.synthetic(2, quick=True)
    conditions = {name: material[name] for name in ("notes", "songs", "10 dB", "reverb")}
    names = ["fcpe", "swift", "crepe-tiny", "ensemble"]
    scores = accuracy.measure(names, conditions)
    for name, row in scores.items():
        for condition, score in row.items():
            assert score.pitch > 0.88, (name, condition)
            assert score.octave < 0.06, (name, condition)
            assert score.voicing > 0.86, (name, condition)
    print(accuracy.tables(scores))
    for condition, together in scores["ensemble"].items():
        assert together.pitch > 0.93, condition
        assert together.octave < 0.04, condition
        best = max(scores[name][condition].pitch for name in names[:-1])
        assert together.pitch > best - 0.01
    text = accuracy.tables(scores)
    assert text.count("| ensemble |") == 3
    assert "| predictor | notes | songs | 10 dB | reverb |" in text
