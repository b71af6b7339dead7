"""The bench of conversion: that the plain path does the same work, that stages and shares are what they
are called, and that the tables say what was measured.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from svc.audio.io import read_audio
from svc.conversion.converter import Converter
from svc.conversion.voice import Voice
from svc.f0 import build_f0_predictor

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Import a script as it is imported when run: by its bare name, beside its folder's others."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.syspath_prepend(str(SCRIPTS / "bench"))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(SCRIPTS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def voice(load: Load, tmp_path: Path) -> Path:
    """A folder with tiny nets."""
    load("infer_song").write_voice(tmp_path, quick=True)
    return tmp_path


# ---- the plain path ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [0, 1])
def test_the_plain_path_sings_what_the_original_does(load: Load, voice: Path, ahead: int) -> None:
    """Against `--compat`, which the golden arrays hold to it; but for the detour through 16 bits."""
    songs, nets_of, plain = load("infer_song"), load("infer_nets"), load("infer_plain")
    song, heard = voice / "song.wav", {}
    # Two slices with a pause between them.
    tone = 0.3 * np.sin(2 * np.pi * 220 * np.arange(7 * 44100) / 44100).astype(np.float32)
    tone[int(5.2 * 44100) : int(5.9 * 44100)] = 0
    songs.write_song(song, tone, 44100, 7.0)
    order = {"device": "cpu", "quick": True, "clock": "wall", "f0": "pm", "index": None}
    singer = nets_of.plain_singer(voice, nets_of.Row("plain", ahead=ahead), order)
    singer.steps = plain.replace(
        singer.steps,
        detour=lambda wav, sr: wav,
        write=lambda path, wav, sr: heard.update({sr: wav}),
    )
    n_samples, first = singer.sing(song, voice / "result.wav")
    config, net = songs.load_plain(voice)
    original = Voice(
        net,
        songs.build_encoder(quick=True, device="cpu"),
        build_f0_predictor("pm", sampling_rate=44100, hop_length=512, compat=True),
        speakers=config.spk,
        unit_interpolate_mode=config.data.unit_interpolate_mode,
        compat=True,
    )
    wanted = Converter(original).convert(*read_audio(song), songs.SPEAKER)
    assert n_samples == wanted.size == 7 * 44100
    assert np.abs(wanted).max() > 0.05
    assert np.abs(heard[44100] - wanted).max() < 2e-5
    assert first > 0
    stages = singer.stages.shares(first + 1)
    used = {"read", "slice", "resample", "encoder", "F0", "prior and flow", "generator", "join"}
    assert used | {"rest"} == set(stages)
    assert all(seconds > 0 for seconds in stages.values())


def test_what_is_replaced_computes_the_same(load: Load, voice: Path) -> None:
    """Rounding of float32 apart; of bfloat16 where that is asked for."""
    nets_of, songs, plain = load("infer_nets"), load("infer_song"), load("infer_plain")
    config, net = songs.load_plain(voice)
    nets = plain.PlainNets(net)
    given = nets_of.Input.made_up(config, 0.3, "cpu")

    def made(what: str, name: str) -> torch.Tensor:
        with torch.no_grad():
            run = nets_of.net_of(what, name, nets, quick=True, device="cpu")
            torch.manual_seed(nets_of.DEFAULT_SEED)
            return run(given)

    def decibels(what: str, name: str) -> float:
        wanted = made(what, "plain").double()
        noise = (made(what, name).double() - wanted).square().mean()
        return float(10 * torch.log10(wanted.square().mean() / noise.clamp(min=1e-30)))

    for name in ("folded", "source", "torch fp32"):
        assert decibels("generator", name) > 60, name
    assert 20 < decibels("generator", "torch bf16") < 60
    assert decibels("prior and flow", "ours") > 80
    assert decibels("encoder", "fp32") > 80
    assert 20 < decibels("encoder", "bf16") < 60


def test_a_variant_without_a_plain_path_is_refused(load: Load, voice: Path) -> None:
    _, net = load("infer_song").load_plain(voice)
    net.config = dataclasses.replace(net.config, use_transformer_flow=True)
    with pytest.raises(ValueError, match="plain path"):
        load("infer_plain").PlainNets(net)


# ---- stages --------------------------------------------------------------------------------------


@pytest.fixture
def clock(load: Load, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that moves when it is told."""
    now = [0.0]
    monkeypatch.setitem(load("infer_stages").CLOCKS, "wall", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_what_a_stage_does_inside_another_counts_once(
    load: Load, clock: Callable[[float], None]
) -> None:
    stages = load("infer_stages").Stages()
    inner = stages.timed("generator", clock)

    def outer() -> None:
        clock(1)
        inner(4)
        inner(2)
        clock(2)

    stages.timed("prior and flow", outer)()
    clock(3)
    assert stages.seconds == {"generator": 6, "prior and flow": 3}
    assert stages.shares(12) == {"prior and flow": 3, "generator": 6, "rest": 3}


def test_a_generator_counts_while_it_works(load: Load, clock: Callable[[float], None]) -> None:
    stages = load("infer_stages").Stages()

    class Owner:
        def blocks(self, n: int) -> Iterator[int]:
            for i in range(n):
                clock(1)
                yield i
            clock(0.5)

    stages.method("read", Owner, "blocks")
    for _ in Owner().blocks(3):
        clock(10)
    assert stages.seconds == {"read": 3.5}


def test_threads_have_stages_of_their_own(load: Load, clock: Callable[[float], None]) -> None:
    stages = load("infer_stages").Stages()

    def beside() -> None:
        with stages.stage("F0"):
            clock(2)

    with stages.stage("generator"):
        thread = threading.Thread(target=beside)
        thread.start()
        thread.join()
        clock(1)
    assert stages.seconds == {"F0": 2, "generator": 3}


# ---- work and peak -------------------------------------------------------------------------------


def test_operations_are_those_counted_by_hand(load: Load) -> None:
    operations = load("infer_work").operations
    x = torch.zeros(1, 6, 50, device="meta")
    conv = nn.Conv1d(6, 10, 5, padding=2, device="meta")
    assert operations(lambda: conv(x)) == 2 * 50 * 10 * 6 * 5
    up = nn.ConvTranspose1d(6, 4, 8, stride=4, padding=2, device="meta")
    assert operations(lambda: up(x)) == 2 * 50 * 6 * 4 * 8
    linear = nn.Linear(6, 7, device="meta")
    assert operations(lambda: F.gelu(linear(x.transpose(1, 2)))) == 2 * 50 * 6 * 7
    assert operations(lambda: x @ x.transpose(1, 2)) == 2 * 6 * 6 * 50


def test_a_measured_net_says_how_much_it_did(load: Load, voice: Path) -> None:
    order = {"net": "generator", "name": "plain", "device": "cpu", "quick": True, "audio": 0.2,
             "runs": 1, "folder": str(voice), "kind": "net", "clock": "cpu"}  # fmt: skip
    plain = load("infer_row").measure(order)
    folded = load("infer_row").measure({**order, "name": "folded"})
    assert plain["seconds"] > 0
    assert "snr" not in plain
    assert folded["snr"] > 60
    # 17 frames: every sample alone costs the last convolution 7 multiply-adds.
    assert folded["operations"] == plain["operations"] > 2 * 7 * 17 * 512


def test_the_peak_is_measured_in_both_precisions(load: Load) -> None:
    order = {"kind": "peak", "device": "cpu", "size": 64, "clock": "wall"}
    peaks = load("infer_row").measure(order)
    assert set(peaks) == {"fp32", "bf16"}
    assert all(1e6 < peak < 1e16 for peak in peaks.values())


# ---- tables --------------------------------------------------------------------------------------


def answer(seconds: float, **more: Any) -> dict[str, Any]:
    stages = {"generator": seconds / 2, "rest": seconds / 2}
    return {"seconds": seconds, "audio": 10.0, "first": seconds / 4, "ready": 3.0, "peak": 2e6,
            "stages": stages, **more}  # fmt: skip


def test_gains_are_medians_over_rounds(load: Load) -> None:
    tables, rows = load("infer_tables"), load("infer_rows")
    table = [rows.Row("plain"), rows.Row("fast")]
    # The machine is three times as slow in the second round; gains are 2, 4 and 5.
    answers = [
        [answer(2), answer(6), answer(2)],
        [answer(1), answer(1.5), answer(0.4, peak=3e6, stages={"F0": 0.1, "rest": 0.3})],
    ]
    plain, fast = tables.song_figures(table, answers)
    assert plain["gain"] == 1
    assert fast["gain"] == pytest.approx(4)
    assert fast["rtf"] == pytest.approx(0.1)
    assert fast["peak"] == 3e6
    assert fast["stages"] == pytest.approx({"F0": 0, "generator": 0.05, "rest": 0.05})
    text = tables.song_tables([plain, fast], device="cpu")
    assert "| fast | 0.100 | 4.00 | 0.25 | 3 | 3.0 |" in text
    assert "| | F0 | generator | rest |" in text
    assert "| plain | - | 100 | 100 |" in text
    (alone,) = tables.song_figures(table[1:], answers[1:])
    assert alone["gain"] is None
    assert "| fast | 0.100 | - | 0.25 | 3 | 3.0 |" in tables.song_tables([alone], device="cpu")


def test_shares_are_those_of_the_precision(load: Load) -> None:
    tables, rows = load("infer_tables"), load("infer_rows")
    table = [rows.NetRow("encoder", "plain", "plain"), rows.NetRow("encoder", "b", "bf16", "bf16")]
    peaks = [{"fp32": 100e9, "bf16": 1000e9}, {"fp32": 50e9, "bf16": 500e9}]
    answers = [
        [
            {"seconds": 1.0, "new": 1.5, "operations": 60e9},
            {"seconds": 2.0, "new": 2.5, "operations": 60e9},
        ],
        [
            {"seconds": 0.5, "new": 1.5, "operations": 60e9, "snr": 38.2},
            {"seconds": 1.0, "new": 1.5, "operations": 60e9},
        ],
    ]
    plain, half = tables.net_figures(table, peaks, answers)
    assert plain["share"] == pytest.approx(0.6)
    assert half["share"] == pytest.approx(0.12)
    assert half["gain"] == 2
    text = tables.net_table([plain, half], peaks, seconds=5)
    assert text[0].endswith("75 GFLOP/s in fp32, 750 GFLOP/s in bf16.")
    assert text[-2] == "| encoder | plain | 0.300 | 1.00 | 0.400 | 45 | 60% | - |"
    assert text[-1] == "| encoder | b | 0.150 | 2.00 | 0.300 | 90 | 12% | 38 |"
    exact = {**half, "snr": float("inf")}
    assert tables.net_table([exact], peaks, seconds=5)[-1].endswith("| same |")


def test_the_first_row_of_every_table_is_plain(load: Load) -> None:
    rows = load("infer_rows")
    table = rows.rows("cpu", compiled=True)
    labels = [row.label for row in table]
    assert len(labels) == len(set(labels))
    assert labels[0] == "plain"
    assert table[0] == rows.Row("plain", always=True)
    assert sum(row.always for row in table) >= 2
    assert any("--compile" in label for label in labels)
    nets = rows.net_rows("cpu", compiled=False)
    assert {row.net for row in nets if row.name == "plain"} == {row.net for row in nets}


# ---- the command ---------------------------------------------------------------------------------


def test_no_gpu_is_one_line(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert load("infer").main(["--device", "cuda"]) == 0
    assert capsys.readouterr().out == "no CUDA device here: nothing is measured\n"


def test_processor_time_is_for_one_thread(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load("infer").main(["--clock", "cpu", "--threads", "2"])
    assert "--threads 1" in capsys.readouterr().err


def test_a_song_is_as_long_as_asked_and_never_twice_the_same(load: Load, tmp_path: Path) -> None:
    songs = load("infer_song")
    wav = np.linspace(-0.5, 0.5, 1000, dtype=np.float32)
    songs.write_song(tmp_path / "song.wav", wav, 4000, 0.625)
    found, sr = read_audio(tmp_path / "song.wav")
    assert (found.size, sr) == (2500, 4000)
    assert 0.9 < np.abs(found[1000:2000]).max() / np.abs(found[:1000]).max() < 0.999


@pytest.mark.slow
def test_a_quick_run_writes_its_tables(load: Load, tmp_path: Path) -> None:
    doc, figures = tmp_path / "performance.md", tmp_path / "figures.json"
    arguments = ["--quick", "--threads", "1", "--seconds", "1.6", "--rows", "svc infer, fp32"]
    assert (
        load("infer").main([*arguments, "--no_nets", "--out", str(doc), "--json", str(figures)])
        == 0
    )
    rows = json.loads(figures.read_text())["song 2 cpu 1"]
    assert [row["row"] for row in rows] == ["plain", "svc infer, fp32"]
    assert all(row["peak"] > 0 and row["first"] > 0 and row["ready"] > 0 for row in rows)
    # Every stage of ours was met, so its wrapping still fits the engine.
    assert set(rows[1]["stages"]) == set(load("infer_stages").STAGES) - {"retrieval"} | {"rest"}
    assert min(rows[1]["stages"].values()) >= 0
    text = doc.read_text()
    assert "<!-- song 2 cpu 1: begin -->" in text
    assert text.count("\n| svc infer, fp32 | ") == 2
