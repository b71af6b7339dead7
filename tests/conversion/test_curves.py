"""Singing an edited pitch curve: the right frames reach the net, and the command line's errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.audio.io import read_audio, write_audio
from svc.audio.pitch import F0Track
from svc.audio.resample import resample
from svc.conversion import Converter, InferOptions, plan_jobs
from svc.conversion.curves import attach_curves
from svc.conversion.options import HearingChoice
from svc.conversion.sources import ArraySource
from svc.errors import ConfigError, CurveError, MissingFileError
from svc.f0 import build_f0_predictor
from svc.f0.curve import FrameGrid, read_curve, write_curve
from svc.f0.extract import curve_from_file

Make = Callable[..., Converter]
Song = Callable[..., np.ndarray]
Run = Callable[..., Any]
Sine = Callable[..., np.ndarray]
SR, HOP = 44100, 512
GRID = FrameGrid()

WAYS = [
    InferOptions(),
    InferOptions(pad_seconds=0),
    InferOptions(pad_seconds=0.123, clip_seconds=0.7),
    InferOptions(clip_seconds=1.1, crossfade_seconds=0.3),
    InferOptions(max_chunk_seconds=1.5),
    InferOptions(transpose=3.5),
]


@pytest.mark.parametrize(
    ("options", "sr"), [*((options, SR) for options in WAYS), (InferOptions(), 48000)]
)
def test_what_the_predictor_hears_as_a_curve_gives_the_same_samples(
    make_converter: Make, song: Song, options: InferOptions, sr: int
) -> None:
    """Bit for bit, with a predictor whose frames depend on nothing but their own samples. Real ones
    depend on their surroundings, so there the curve is compared with a run on the whole song.
    """
    wav = song([(0.2, 0), (1.6, 0.5), (1, 0), (0.9, 0.3), (0.2, 0)], sr)
    converter = make_converter()
    curve = converter.voice.f0_predictor(resample(wav, sr, SR))  # type: ignore[misc]
    expected = converter.convert(wav, sr, 0, options)
    assert np.abs(expected).max() > 1e-3
    assert np.array_equal(converter.convert(wav, sr, 0, options, f0=curve), expected)
    octave = F0Track(curve.f0 * 2, curve.uv)
    assert not np.array_equal(converter.convert(wav, sr, 0, options, f0=octave), expected)


@pytest.mark.parametrize("options", WAYS)
def test_every_stretch_takes_its_own_frames(echo: Any, options: InferOptions) -> None:
    wav = np.linspace(0.2, 0.7, 16 * SR, dtype=np.float32)  # a sample tells its place
    wav[5 * SR : 13 * SR] /= 100
    n = len(wav) // HOP
    begins: list[int] = []

    def place(window: np.ndarray, call: int) -> np.ndarray:
        first = int(np.flatnonzero(window)[0])
        value = float(window[first]) * (1 if window[first] > 0.1 else 100)
        begins.append(round((value - 0.2) / 0.5 * (len(wav) - 1)) - first)
        return window

    voice = echo(place)
    index = F0Track(np.arange(n) + 1000.0, np.ones(n))
    Converter(voice).convert(wav, SR, 0, options, f0=index)
    assert len(begins) >= 2
    for begin, length, track in zip(begins, voice.windows, voice.tracks):
        assert begin % HOP == 0
        expected = np.arange(begin // HOP, (begin + length) // HOP)
        assert np.array_equal(track.f0, np.clip(expected, 0, n - 1) + 1000)
        assert np.array_equal(track.uv, (expected >= 0) & (expected < n))


def test_compat_calls_take_the_nearest_frames(echo: Any, song: Song) -> None:
    wav = song([(5, 0.5), (8, 0), (3, 0.5)], 48000)
    n = -(-len(wav) * SR // 48000) // HOP
    index = F0Track(np.arange(n) + 1000.0, np.ones(n))
    voice = echo(compat=True)
    Converter(voice).convert(wav, 48000, 0, InferOptions(clip_seconds=2), f0=index)
    starts: list[float] = []
    for length, track in zip(voice.windows, voice.tracks):
        assert len(track) == length // HOP
        pad = 0.5 * SR / HOP
        voiced = np.flatnonzero(track.uv)
        assert voiced[0] == pytest.approx(pad, abs=1)
        assert len(track) - 1 - voiced[-1] == pytest.approx(pad, abs=2)
        starts.append((track.f0[voiced[0]] - 1000) * GRID.frame_seconds)
    assert starts[0] == pytest.approx(0, abs=0.012)
    assert starts[1] - starts[0] == pytest.approx(2, abs=0.02)
    sung = np.unique(np.concatenate([track.f0[track.uv > 0] for track in voice.tracks])) - 1000
    seconds = np.arange(n) * GRID.frame_seconds
    assert set(np.flatnonzero((seconds < 4.9) | (seconds > 13.1))[2:-2]) <= set(sung.astype(int))


def test_transposition_is_added_and_unvoiced_frames_stay(
    make_converter: Make, song: Song, monkeypatch: pytest.MonkeyPatch
) -> None:
    converter = make_converter()
    heard: list[tuple[torch.Tensor, torch.Tensor]] = []
    infer = converter.voice.synthesizer.infer

    def spy(units: Any, f0: torch.Tensor, uv: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        heard.append((f0, uv))
        return infer(units, f0, uv, *args, **kwargs)

    monkeypatch.setattr(converter.voice.synthesizer, "infer", spy)
    wav = song([(1.0, 0.5)])
    n = len(wav) // HOP
    f0 = np.linspace(100, 300, n).astype(np.float32)
    uv = (np.arange(n) % 7 > 2).astype(np.float32)
    converter.convert(wav, SR, 0, InferOptions(transpose=12, pad_seconds=0), f0=F0Track(f0, uv))
    got_f0, got_uv = (value[0, :n].numpy() for value in heard[0])
    assert np.array_equal(got_f0, 2 * f0)
    assert np.array_equal(got_uv, uv)


def test_no_predictor_is_needed(make_converter: Make, song: Song) -> None:
    wav = song([(0.5, 0.5)])
    n = len(wav) // HOP
    curve = F0Track(np.full(n, 200.0), np.ones(n))
    expected = make_converter().convert(wav, SR, 0, f0=curve)
    converter = Converter(dataclasses.replace(make_converter().voice, f0_predictor=None))
    assert np.array_equal(converter.convert(wav, SR, 0, f0=curve), expected)
    with pytest.raises(ConfigError, match="without an F0 predictor"):
        converter.stream(ArraySource(wav, SR), 0)


def test_what_does_not_go_together(make_converter: Make, song: Song) -> None:
    wav = song([(1.0, 0.5)])
    converter = make_converter()
    short = F0Track(np.full(60, 200.0), np.ones(60))
    with pytest.raises(CurveError, match=r"the pitch curve lasts 0\.70 s, the song 1\.00 s"):
        converter.convert(wav, SR, 0, f0=short)
    fits = F0Track(np.full(90, 200.0), np.ones(90))  # 4 frames too many
    assert converter.convert(wav, SR, 0, f0=fits).shape == wav.shape
    with pytest.raises(ConfigError, match="choose one of them"):
        converter.convert(wav, SR, 0, InferOptions(auto_f0=True), f0=fits)


# ------------------------------------------------------------------------------ many files


def test_curves_find_their_songs(tmp_path: Path, sine: Sine) -> None:
    for name in ("a.wav", "b.wav", "c.wav", "d.wav"):
        write_audio(tmp_path / "in" / name, sine(220, 1.0), SR)
    n = SR // HOP
    for i, name in enumerate(("a.f0.csv", "b.wav.csv", "d.csv")):
        track = F0Track(np.full(n if i < 2 else n // 2, 100.0 + i), np.ones(n if i < 2 else n // 2))
        write_curve(tmp_path / "curves" / name, track, GRID)
    jobs, _ = plan_jobs([str(tmp_path / "in")], ["x", "y"], InferOptions(), f0_name="curve")
    found, failures = attach_curves(jobs, tmp_path / "curves", GRID)
    assert [(job.source.name, job.speaker) for job in found] == [
        ("a.wav", "x"), ("a.wav", "y"), ("b.wav", "x"), ("b.wav", "y"),
    ]  # fmt: skip
    assert [job.curve.f0[0] for job in found if job.curve] == [100, 100, 101, 101]
    assert [failure.name for failure in failures] == ["c.wav", "d.wav"]
    assert "no pitch curve for c.wav" in failures[0].error
    assert "lasts 0.50 s, the song 1.00 s" in failures[1].error
    with pytest.raises(ConfigError, match="is one curve and there are 4 songs"):
        attach_curves(jobs, tmp_path / "curves/a.f0.csv", GRID)
    with pytest.raises(MissingFileError, match="make it with  svc f0 extract"):
        attach_curves(jobs[:1], tmp_path / "no.csv", GRID)
    (one,), _ = attach_curves(jobs[:1], tmp_path / "curves/b.wav.csv", GRID)
    assert one.curve is not None
    assert one.curve.f0[0] == 101


def test_songs_of_one_name_in_sub_folders_have_their_own_curves(tmp_path: Path, sine: Sine) -> None:
    n = SR // HOP

    def curve(name: str, hz: float) -> None:
        write_curve(tmp_path / "curves" / name, F0Track(np.full(n, hz), np.ones(n)), GRID)

    def sung() -> dict[str, float]:
        jobs, _ = plan_jobs(
            [str(tmp_path / "in")], ["x"], InferOptions(), f0_name="curve", recursive=True
        )
        found, failures = attach_curves(jobs, tmp_path / "curves", GRID)
        heard = {job.source.shown: float(job.curve.f0[0]) for job in found if job.curve}
        return heard | {failure.name: 0.0 for failure in failures}

    for name in ("a.wav", "p/a.wav", "q/a.wav", "q/b.wav"):
        write_audio(tmp_path / "in" / name, sine(220, 1.0), SR)
    for name, hz in {"a.csv": 100, "p/a.f0.csv": 200, "b.csv": 400}.items():
        curve(name, hz)
    # The curve of the top folder's "a" is not that of q's; "b" is there only once.
    assert sung() == {"a.wav": 100, "p/a.wav": 200, "q/a.wav": 0, "q/b.wav": 400}
    curve("q/a.wav.csv", 300)
    curve("q/b.csv", 500)
    assert sung() == {"a.wav": 100, "p/a.wav": 200, "q/a.wav": 300, "q/b.wav": 500}


def test_a_name_too_long_for_a_curve_stops_no_other_song(tmp_path: Path, sine: Sine) -> None:
    for name in ("a.wav", f"{'b' * 250}.wav"):
        write_audio(tmp_path / "in" / name, sine(220, 1.0), SR)
    n = SR // HOP
    write_curve(tmp_path / "curves/a.csv", F0Track(np.full(n, 100.0), np.ones(n)), GRID)
    jobs, _ = plan_jobs([str(tmp_path / "in")], ["x"], InferOptions(), f0_name="curve")
    found, failures = attach_curves(jobs, tmp_path / "curves", GRID)
    assert [job.source.name for job in found] == ["a.wav"]
    assert "File name too long" in failures[0].error


# ------------------------------------------------------------------------------ the command line


@pytest.fixture
def curve(work: Path, sine: Sine) -> Path:
    """The song's unedited pitch, found on the whole song."""
    write_audio("raw/song.wav", np.concatenate([sine(220, 0.6), sine(330, 0.6, 44100, 0.2)]), SR)
    write_curve("song.csv", curve_from_file("raw/song.wav", build_f0_predictor("dio"), GRID), GRID)
    return Path("song.csv")


def test_the_unedited_curve_is_the_predictors_on_the_whole_song(
    run: Run, curve: Path, stub_encoder: None
) -> None:
    """To the last bit of the file: the same floats go into the net."""
    done = run("-n", "song", "--f0", "song.csv", "-wf", "wav", "--no_tags", "--precision", "fp32")
    assert done.code == 0, done.err
    wav, sr = read_audio("raw/song.wav")
    choice = HearingChoice(device="cpu", f0_predictor="dio")
    with Converter.from_files("logs/44k/G_100.pth", choice=choice) as converter:
        whole = converter.voice.f0_predictor(wav)  # type: ignore[misc]
        expected = converter.convert(wav, sr, 0, f0=whole)
    write_audio("expected.wav", expected, sr)
    result = Path("results/song_0key_alice_sovits_curve.wav")
    assert result.read_bytes() == Path("expected.wav").read_bytes()


def test_edits_are_sung_and_the_predictor_is_not_even_built(
    run: Run, curve: Path, stub_encoder: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "svc.conversion.listening.build_f0_predictor",
        lambda *_, **__: pytest.fail("a predictor was built"),
    )
    results = {}
    track = read_curve(curve, GRID)
    write_curve("edited.csv", F0Track(track.f0 * 2, track.uv), GRID)
    write_curve("song.mid", track, GRID)
    for name, flags in {
        "plain": ["--f0", "song.csv"],
        "up": ["--f0", "song.csv", "-t", "12"],
        "edited": ["--f0", "edited.csv"],
        "both": ["--f0", "edited.csv", "-t", "-12"],
        "midi": ["--f0", "song.mid"],
    }.items():
        done = run("-n", "song", "--output", f"{name}.wav", *flags)
        assert done.code == 0, done.err
        results[name] = read_audio(f"{name}.wav")[0]
    assert np.array_equal(results["up"], results["edited"])  # doubling is exact
    assert np.array_equal(results["both"], results["plain"])
    assert not np.array_equal(results["edited"], results["plain"])
    assert results["midi"].shape == results["plain"].shape


def test_a_folder_of_curves(run: Run, curve: Path, stub_encoder: None, sine: Sine) -> None:
    write_audio("raw/two.wav", sine(220, 0.3), SR)
    Path("curves").mkdir()
    curve.rename("curves/song.f0.csv")
    done = run("-n", "song", "two", "--f0", "curves")
    assert done.code == 1
    assert "svc: failed: two: no pitch curve for two.wav in curves" in done.err
    assert [path.name for path in Path("results").glob("*.flac")] == [
        "song_0key_alice_sovits_curve.flac"
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--f0", "no.csv"], "--f0 no.csv is not there"),
        (["--f0", "raw/song.wav"], "neither CSV in UTF-8 nor MIDI"),
        (["--f0", "short.csv"], "short.csv lasts 0.12 s, the song 1.20 s"),
        (["--f0", "bad.csv"], 'bad.csv, line 2: f0_hz is "x"'),
        (["--f0", "song.csv", "-a"], "--f0 and -a/--auto_predict_f0"),
        (["--f0", "song.csv", "-n", "song", "song2"], "is one curve and there are 2 songs"),
    ],
)
def test_errors_come_before_the_models(
    run: Run, curve: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], message: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        pytest.fail("the model was loaded first")

    monkeypatch.setattr("svc.conversion.voice.load_synthesizer", fail)
    write_audio("raw/song2.wav", np.zeros(4410, np.float32), SR)
    Path("short.csv").write_text("\n".join(curve.read_text().splitlines()[:11]))
    Path("bad.csv").write_text("time_s,f0_hz\n0,x\n")
    done = run("-n", "song", *flags)
    assert done.code == 2
    assert message in done.error
    assert not Path("results").exists() or not list(Path("results").iterdir())


def test_a_predictor_beside_a_curve_is_worth_a_note(
    run: Run, curve: Path, stub_encoder: None
) -> None:
    done = run("-n", "song", "--f0", "song.csv", "-f0p", "dio")
    assert done.code == 0
    assert "note: -f0p has no effect with --f0" in done.err
