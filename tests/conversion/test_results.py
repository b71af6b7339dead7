"""Results as they are asked for: rate, bit depth, channels, tags, and the manifest beside them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from svc.audio.io import audio_info, read_audio, read_tags, write_audio
from svc.audio.resample import resample
from svc.conversion import Converter, InferOptions, convert_files, plan_jobs
from svc.conversion.file_hashes import FileHashes
from svc.conversion.jobs import Outcome, split_existing
from svc.conversion.manifest import RunFacts, manifest_path, shown
from svc.conversion.results import SOFTWARE, ResultOptions, shape_result
from svc.errors import ConfigError

SR = 44100
Sine = Callable[..., np.ndarray]


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sine: Sine) -> Path:
    monkeypatch.chdir(tmp_path)
    tags = {"title": "歌", "artist": "A", "comment": "c"}
    write_audio("raw/mono.wav", sine(220, 0.25, 48000), 48000, tags=tags)
    left = sine(220, 0.25, 22050)
    write_audio("raw/stereo.flac", np.stack((left, 0.25 * left)), 22050)
    return Path("raw")


def convert(voice: Any, names: list[str], suffix: str = "flac", **settings: Any) -> list[Outcome]:
    jobs, failures = plan_jobs(names, ["alice"], InferOptions(), f0_name="pm", suffix=suffix)
    assert not failures
    return convert_files(Converter(voice), jobs, **settings)


def output_of(outcomes: list[Outcome]) -> Path:
    (outcome,) = outcomes
    assert not outcome.error
    assert outcome.output is not None
    return outcome.output


@pytest.mark.parametrize(("rate", "expected"), [(None, 44100), (16000, 16000), ("source", 48000)])
def test_rates(raw: Path, echo: Any, rate: Any, expected: int) -> None:
    path = output_of(convert(echo(), ["mono"], results=ResultOptions(rate=rate)))
    info = audio_info(path)
    assert info.sr == expected
    assert info.n_samples == -(-12000 * expected // 48000)  # exactly as long as the song
    wav, _ = read_audio(path)
    source, _ = read_audio(raw / "mono.wav")
    middle = slice(round(0.05 * expected), round(0.2 * expected))
    np.testing.assert_allclose(wav[middle], resample(source, 48000, expected)[middle], atol=2e-3)


@pytest.mark.parametrize(
    ("suffix", "bit_depth", "subtype"),
    [
        ("wav", None, "PCM_16"),
        ("wav", "24", "PCM_24"),
        ("wav", "32f", "FLOAT"),
        ("flac", "24", "PCM_24"),
        ("aiff", "16", "PCM_16"),
        ("w64", "32f", "FLOAT"),
    ],
)
def test_bit_depths(raw: Path, echo: Any, suffix: str, bit_depth: str | None, subtype: str) -> None:
    path = output_of(convert(echo(), ["mono"], suffix, results=ResultOptions(bit_depth=bit_depth)))
    assert soundfile.info(path).subtype == subtype


def test_opus_takes_a_rate_it_can_have(raw: Path, echo: Any) -> None:
    assert audio_info(output_of(convert(echo(), ["mono"], "opus"))).sr == 48000


def test_what_a_format_cannot_have_is_found_before_singing(raw: Path, echo: Any) -> None:
    voice = echo()
    for suffix, options, message in (
        ("flac", ResultOptions(bit_depth="32f"), "no bit depth"),
        ("mp3", ResultOptions(rate=96000), "96000 Hz"),
        ("m4a", ResultOptions(rate=192000), "192000 Hz"),
    ):
        (outcome,) = convert(voice, ["mono"], suffix, results=options)
        assert message in outcome.error
    assert voice.windows == []


def test_the_channels_of_a_song(raw: Path, echo: Any) -> None:
    """The echo gives back what it hears, so `keep` gives back the song."""
    source = resample(read_audio(raw / "stereo.flac", mono=False)[0], 22050, SR)
    for mode in ("keep", "mid-side"):
        options = ResultOptions(channels=mode, bit_depth="32f")  # type: ignore[arg-type]
        wav, _ = read_audio(
            output_of(convert(echo(), ["stereo"], "wav", results=options)), mono=False
        )
        assert wav.shape == source.shape
        middle = slice(2000, 9000)
        np.testing.assert_allclose(wav[:, middle], source[:, middle], atol=2e-3)
        mono = audio_info(output_of(convert(echo(), ["mono"], "wav", results=options)))
        assert mono.channels == 1
    assert audio_info(output_of(convert(echo(), ["stereo"]))).channels == 1


def test_too_many_channels_for_mid_side_stop_one_file_only(raw: Path, echo: Any) -> None:
    write_audio(raw / "five.wav", np.zeros((5, 1000), np.float32), SR)
    options = ResultOptions(channels="mid-side")
    first, second = convert(echo(), ["five", "mono"], results=options)
    assert "this has 5 channels" in first.error
    assert not second.error


def test_a_singer_on_one_side_does_not_clip(caplog: pytest.LogCaptureFixture) -> None:
    voice = np.full(SR, 0.8, np.float32)
    left = np.zeros((2, SR), np.float32)
    left[0] = 0.5
    made = shape_result(voice, SR, SR, left, SR, "keep")
    assert np.abs(made).max() == pytest.approx(1.0)
    assert not made[1].any()
    assert "turned down by 4.1 dB" in caplog.text
    loud = shape_result(3 * voice, SR, SR, left[:1], SR, "keep")
    np.testing.assert_array_equal(loud, 3 * voice[None])  # a mono result is clipped as ever


def test_channels_that_cancel_each_other_are_told(
    raw: Path, echo: Any, sine: Sine, caplog: pytest.LogCaptureFixture
) -> None:
    wav = sine(220, 0.2)
    write_audio(raw / "anti.wav", np.stack((wav, -wav)), SR)
    convert(echo(), ["anti", "stereo"])
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "anti: its channels cancel each other" in record.getMessage()


def test_tags_go_with_the_song(raw: Path, echo: Any) -> None:
    for suffix in ("flac", "mp3", "ogg"):
        tags = read_tags(output_of(convert(echo(), ["mono"], suffix)))
        assert tags.pop("software").startswith(SOFTWARE)
        assert tags == {"title": "歌", "artist": "A", "comment": "c"}
    path = output_of(convert(echo(), ["mono"], results=ResultOptions(tags=False)))
    assert read_tags(path) == {}


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"bit_depth": "32"}, "--bit_depth"),
        ({"rate": 100}, "--rate"),
        ({"rate": 400_000}, "--rate"),
        ({"channels": "left"}, "--channels"),
    ],
)
def test_wrong_settings_name_their_flag(settings: dict[str, Any], flag: str) -> None:
    with pytest.raises(ConfigError, match=flag):
        ResultOptions(**settings)


# ---------------------------------------------------------------- folders


def test_sub_folders_are_kept(raw: Path, echo: Any, sine: Sine) -> None:
    for name in ("in/a.wav", "in/x/a.wav", "in/x/y/b.ogg", "in/.hidden/c.wav", "in/out/old.wav"):
        write_audio(name, sine(220, 0.1), SR)
    plan: dict[str, Any] = {"f0_name": "pm", "suffix": "wav", "output_dir": Path("in/out")}
    jobs, _ = plan_jobs(["in"], ["alice"], InferOptions(), recursive=True, **plan)
    outcomes = convert_files(Converter(echo()), jobs)
    ending = "_0key_alice_sovits_pm.wav"
    assert [str(outcome.output) for outcome in outcomes] == [
        f"in/out/a.wav{ending}",
        f"in/out/x/a.wav{ending}",
        f"in/out/x/y/b.ogg{ending}",
    ]  # what is in in/out is no song
    assert [outcome.name for outcome in outcomes] == ["a.wav", "x/a.wav", "x/y/b.ogg"]
    assert all(outcome.output.is_file() for outcome in outcomes)  # type: ignore[union-attr]
    jobs, _ = plan_jobs(["in"], ["alice"], InferOptions(), **plan)
    assert [job.source.name for job in jobs] == ["a.wav"]


def test_what_is_there_is_left_alone(raw: Path, echo: Any) -> None:
    path = output_of(convert(echo(), ["mono"]))
    path.write_bytes(b"mine")
    jobs, _ = plan_jobs(["mono", "stereo"], ["alice"], InferOptions(), f0_name="pm")
    left, done = split_existing(jobs)
    assert [job.source.name for job in left] == ["stereo"]
    assert [(outcome.output, outcome.skipped, outcome.error) for outcome in done] == [
        (path, True, "")
    ]
    voice = echo()
    outcomes = convert(voice, ["mono", "stereo"], skip_existing=True)
    assert [outcome.skipped for outcome in outcomes] == [True, False]
    assert path.read_bytes() == b"mine"
    assert len(voice.windows) == 1


# ---------------------------------------------------------------- manifests


@pytest.fixture
def run_facts(raw: Path) -> Any:
    Path("G.pth").write_bytes(b"model")
    with FileHashes() as hashes:
        yield RunFacts(
            ["infer", "-n", "mono"],
            {"model": [Path("G.pth")], "config": [Path("gone.json")]},
            {"device": "cpu"},
            hashes,
        )


def test_a_manifest_says_how_a_result_was_made(raw: Path, echo: Any, run_facts: RunFacts) -> None:
    (outcome,) = convert(echo(), ["mono"], run=run_facts)
    assert outcome.output is not None
    assert outcome.manifest == manifest_path(outcome.output)
    assert outcome.manifest.name == "mono_0key_alice_sovits_pm.flac.json"
    told = json.loads(outcome.manifest.read_text(encoding="utf-8"))
    assert told["command"] == ["svc", "infer", "-n", "mono"]
    assert told["speaker"] == "alice"
    assert told["options"]["seed"] == InferOptions().seed
    assert told["output"]["channels"] == "mono"
    assert told["settings"] == {"device": "cpu"}
    assert {"svc", "python", "numpy", "torch"} <= set(told["versions"])
    digest = hashlib.sha256(outcome.output.read_bytes()).hexdigest()
    assert told["result"]["sha256"] == digest
    assert told["result"]["seconds"] == pytest.approx(0.25)
    assert (told["source"]["sampling_rate"], told["source"]["channels"]) == (48000, 1)
    files = told["files"]
    assert files["source"][0]["path"] == "raw/mono.wav"
    assert (
        files["source"][0]["sha256"] == hashlib.sha256((raw / "mono.wav").read_bytes()).hexdigest()
    )
    assert files["model"][0]["sha256"] == hashlib.sha256(b"model").hexdigest()
    assert files["config"][0]["sha256"] is None  # was removed in between
    assert told["timings"]["total"] > 0
    assert told["timings"].keys() >= {"read", "convert", "write", "real_time_factor"}


def test_manifests_hold_names_of_any_kind(raw: Path, echo: Any, run_facts: RunFacts) -> None:
    name = os.fsdecode(b"raw/\xc9\xe6\xad\x8c.wav") if os.name != "nt" else "raw/歌.wav"
    (raw / "mono.wav").rename(name)
    (outcome,) = convert(echo(), [name], run=run_facts)
    assert outcome.manifest is not None
    told = json.loads(outcome.manifest.read_bytes())
    assert told["files"]["source"][0]["path"] == name


def test_manifests_name_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert shown(tmp_path / "songs" / "a.wav") == "~/songs/a.wav"
    assert shown(f"--encoder_path=vec768l12={tmp_path}/x.pt") == "--encoder_path=vec768l12=~/x.pt"
    assert shown(str(tmp_path)) == "~"
    assert shown(f"{tmp_path}er/a.wav") == f"{tmp_path}er/a.wav"
    assert shown("raw/a.wav") == "raw/a.wav"
    home = str(tmp_path)
    assert shown(f"vec={home}/x,whisper={home}/y") == "vec=~/x,whisper=~/y"
    assert (
        shown(f"python '{home}/sep.py' {home} --out={home}//o") == "python '~/sep.py' ~ --out=~//o"
    )
    assert shown(f"-m{home}/G.pth file://{home}/a") == "-m~/G.pth file:~/a"
    assert shown(f"{home}/a:{home}/b ({home}).") == "~/a:~/b (~)."
    for other in (f"{home}.old/a", f"{home}-2", f"/mnt{home}/a", f"./{home[1:]}/a", "~/a"):
        assert shown(other) == other
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    monkeypatch.setenv("HOME", f"{home}/link")
    assert shown(f"{home}/link/a {home}/real/b {home}/c") == f"~/a ~/b {home}/c"
    monkeypatch.setenv("HOME", "raw")
    assert shown("raw/a.wav") == "raw/a.wav"
    monkeypatch.setenv("HOME", "/")
    assert shown("/data/a.wav") == "/data/a.wav"


def test_no_fact_of_a_manifest_names_the_home(
    raw: Path, monkeypatch: pytest.MonkeyPatch, run_facts: RunFacts
) -> None:
    monkeypatch.setenv("HOME", str(raw.resolve()))
    (raw / "a.flac").write_bytes(b"")
    facts = {"speaker": f"{raw.resolve()}/mix.json", "more": [{"plan": f"x={raw.resolve()}/p"}]}
    run = dataclasses.replace(run_facts, command=["infer", f"{raw.resolve()}/a"])
    text = run.write(raw / "a.flac", facts, {"source": [raw.resolve() / "a"]}).read_text()
    assert str(raw.resolve()) not in text
    assert json.loads(text)["speaker"] == "~/mix.json"
    assert json.loads(text)["more"] == [{"plan": "x=~/p"}]


def test_a_manifest_that_cannot_be_written_is_a_failure_of_its_song(
    raw: Path, echo: Any, run_facts: RunFacts
) -> None:
    Path("results/mono_0key_alice_sovits_pm.flac.json").mkdir(parents=True)
    first, second = convert(echo(), ["mono", "stereo"], run=run_facts)
    assert "cannot write results/mono_0key_alice_sovits_pm.flac.json" in first.error
    assert not second.error
    assert second.manifest is not None
