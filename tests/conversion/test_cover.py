"""Covers: stems in, sung, mixed and written; with a stand-in voice, and from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svc.audio.io import audio_info, read_audio, read_tags, write_audio
from svc.audio.limiter import true_peak
from svc.audio.mixdown import gated_loudness
from svc.cli.main import main
from svc.conversion import InferOptions
from svc.conversion.converter import Converter
from svc.conversion.cover import CoverOptions, make_cover, plan_layout
from svc.conversion.cover_key import deciding_stem, key_note, share_key
from svc.conversion.cover_plan import Defaults, Entry, Stem, make_stems, read_plan
from svc.conversion.results import ResultOptions
from svc.errors import AudioError, ConfigError
from svc.f0.voice_range import VoiceRange

Echo = type[Any]
Result = Any
SECONDS = 2.0
BURST = (0.6, 0.02)  # middle and width, seconds
FLOATS = ResultOptions(bit_depth="32f", channels="keep")


def burst(sr: int, seconds: float, gain: float = 0.3) -> np.ndarray:
    """A click of 1 kHz, the same moment at every rate, (T,)."""
    time = np.arange(round(seconds * sr)) / sr
    middle, width = BURST
    envelope = np.exp(-(((time - middle) / width) ** 2))
    return (gain * envelope * np.cos(2 * np.pi * 1000 * (time - middle))).astype(np.float32)


def lag(found: np.ndarray, wanted: np.ndarray, reach: int = 50) -> int:
    """By how many samples `found` is late, where the two are most alike."""
    n = min(found.size, wanted.size)
    a, b = found[:n].astype(np.float64), wanted[:n].astype(np.float64)
    return max(
        range(-reach, reach + 1),
        key=lambda k: float(a[reach + k : n - reach + k] @ b[reach : n - reach]),
    )


@pytest.fixture
def song(tmp_path: Path) -> Path:
    """Three stems of different rates, lengths and channels, with the same burst in each."""
    write_audio(tmp_path / "lead.wav", burst(44100, SECONDS), 44100, bit_depth="32f")
    back = np.stack((burst(22050, 1.5, 0.1), burst(22050, 1.5, 0.2)))
    write_audio(tmp_path / "back.wav", back, 22050, bit_depth="32f")
    inst = np.stack((burst(48000, 1.8, 0.2), burst(48000, 1.8, 0.1)))
    write_audio(tmp_path / "inst.wav", inst, 48000, bit_depth="32f")
    return tmp_path


def stems_of(folder: Path, **options: Any) -> list[Stem]:
    entries = [
        Entry(folder / "lead.wav", "lead"),
        Entry(folder / "back.wav", "backing"),
        Entry(folder / "inst.wav", "keep"),
    ]
    return make_stems(entries, Defaults("alice", InferOptions(), **options))


def test_everything_stays_where_it_is_to_the_sample(song: Path, echo: Echo) -> None:
    options = CoverOptions(song / "out/mix.wav", song / "out/stems", FLOATS)
    with Converter(echo()) as converter:
        cover = make_cover(converter, stems_of(song), options)
    assert (cover.layout.rate, cover.layout.n_channels) == (48000, 2)
    mix, sr = read_audio(options.output, mono=False)
    assert mix.shape == (2, 96000)
    assert sr == 48000
    parts = {}
    for name, seconds in (("lead", SECONDS), ("backing", 1.5), ("instrumental", 1.8)):
        parts[name], _ = read_audio(song / f"out/stems/{name}.wav", mono=False)
        assert parts[name].shape == (2, round(seconds * 48000))
        for channel in parts[name]:
            assert lag(channel, burst(48000, SECONDS)) == 0, name
    assert lag(mix[0], burst(48000, SECONDS)) == 0
    # The mono lead is in both channels, and the written stems add up to the mix.
    assert np.array_equal(parts["lead"][0], parts["lead"][1])
    total = np.zeros_like(mix)
    for wav in parts.values():
        total[:, : wav.shape[1]] += wav
    assert cover.limited_db == 0
    np.testing.assert_allclose(mix, total, rtol=0, atol=1e-6)
    # An instrumental at the rate of the mix is not touched.
    assert np.array_equal(parts["instrumental"], read_audio(song / "inst.wav", mono=False)[0])


def test_a_stereo_stem_keeps_its_sides(song: Path, echo: Echo) -> None:
    options = CoverOptions(song / "mix.wav", song / "stems", FLOATS)
    with Converter(echo()) as converter:
        make_cover(converter, stems_of(song), options)
    wav, _ = read_audio(song / "stems/backing.wav", mono=False)
    assert np.abs(wav[1]).max() / np.abs(wav[0]).max() == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("seconds", [0.3, 2.0])
def test_a_sung_stem_is_as_loud_as_what_it_replaces(
    tmp_path: Path, echo: Echo, sine: Callable[..., np.ndarray], seconds: float
) -> None:
    write_audio(tmp_path / "lead.wav", sine(220, seconds, 44100, 0.3), 44100, bit_depth="32f")
    quiet = echo(lambda window, call: 0.2 * window)
    for gain in (0.0, -4.0):
        stems = make_stems(
            [Entry(tmp_path / "lead.wav", "lead")],
            Defaults("alice", InferOptions(), lead_gain=gain),
        )
        with Converter(quiet) as converter:
            made = make_cover(converter, stems, CoverOptions(tmp_path / "mix.wav", None, FLOATS))
        assert made.parts[0].matched_db == pytest.approx(14.0, abs=0.3)
        old, _ = read_audio(tmp_path / "lead.wav", mono=False)
        new, sr = read_audio(tmp_path / "mix.wav", mono=False)
        difference = gated_loudness(np.atleast_2d(new), sr) - gated_loudness(np.atleast_2d(old), sr)
        assert difference == pytest.approx(gain, abs=0.1)


def test_silence_is_not_raised(tmp_path: Path, echo: Echo) -> None:
    write_audio(tmp_path / "lead.wav", np.zeros(44100, dtype=np.float32), 44100)
    stems = make_stems([Entry(tmp_path / "lead.wav", "lead")], Defaults("bob", InferOptions()))
    with Converter(echo()) as converter:
        cover = make_cover(converter, stems, CoverOptions(tmp_path / "mix.flac", lufs=-14))
    assert not read_audio(tmp_path / "mix.flac")[0].any()
    assert cover.gain_db == 0
    assert cover.loudness == -np.inf


def test_a_voice_that_fails_is_not_turned_up_without_end(
    song: Path, echo: Echo, caplog: pytest.LogCaptureFixture
) -> None:
    stems = stems_of(song, keep_backing=True)
    with Converter(echo(lambda window, call: 0.01 * window)) as converter:
        cover = make_cover(converter, stems, CoverOptions(song / "mix.wav"))
    assert cover.parts[0].matched_db == 24
    assert not cover.parts[1].stem.sung
    assert "40 dB softer" in caplog.text


def test_the_mix_is_limited_and_says_so(song: Path, echo: Echo) -> None:
    options = CoverOptions(song / "mix.wav", song / "stems", FLOATS, lufs=-5)
    with Converter(echo()) as converter:
        cover = make_cover(converter, stems_of(song), options)
    mix, sr = read_audio(options.output, mono=False)
    assert cover.gain_db > 0
    assert cover.limited_db > 0
    assert 0.5 < true_peak(mix, sr) <= 10 ** (-1 / 20)


def test_pan_and_rate(song: Path, echo: Echo) -> None:
    entries = [Entry(song / "lead.wav", "lead", {"pan": -1})]
    stems = make_stems(entries, Defaults("alice", InferOptions()))
    options = CoverOptions(
        song / "mix.wav", results=ResultOptions(bit_depth="32f", channels="keep", rate=32000)
    )
    with Converter(echo()) as converter:
        make_cover(converter, stems, options)
    mix, sr = read_audio(song / "mix.wav", mono=False)
    assert (sr, mix.shape) == (32000, (2, 64000))
    assert not mix[1].any()
    assert mix[0].max() > 0.1


def test_layouts(song: Path) -> None:
    lead = stems_of(song)[:1]
    assert plan_layout(lead, CoverOptions(song / "x.wav")).n_channels == 1
    assert plan_layout(stems_of(song)[:2], CoverOptions(song / "x.wav")).rate == 44100
    # A format that cannot have the rate gets the one it has.
    assert plan_layout(lead, CoverOptions(song / "x.opus")).rate == 48000
    write_audio(song / "lead.wav", np.zeros((6, 100), dtype=np.float32), 44100)
    with pytest.raises(AudioError, match="6 channels"):
        plan_layout(lead, CoverOptions(song / "x.wav"))


def test_no_result_goes_over_an_input(song: Path) -> None:
    stems = stems_of(song)
    for options in (CoverOptions(song / "lead.wav"), CoverOptions(song / "x.wav", song)):
        with pytest.raises(ConfigError, match="one of the inputs"):
            plan_layout(stems, options)
    with pytest.raises(ConfigError, match="one of the inputs"):
        plan_layout(stems, CoverOptions(song / "s.wav", song=song / "s.wav"))
    with pytest.raises(ConfigError, match="the mix itself"):
        plan_layout(stems, CoverOptions(song / "out/lead.wav", song / "out"))


# ----------------------------------------------------------------------------------- key


class Listener:
    """A pitch predictor that hears the gain of the stem: 0.3 sings low, 0.1 high."""

    def __call__(self, wav: np.ndarray) -> Any:
        from svc.audio.pitch import F0Track

        n = len(wav) // 512
        level = np.abs(wav[: n * 512].reshape(n, 512)).max(axis=1)
        uv = (level > 0.01).astype(np.float32)
        return F0Track(np.where(level > 0.2, 110.0, 130.0).astype(np.float32) * uv, uv)


def test_one_octave_for_all(song: Path, echo: Echo) -> None:
    for name, gain in (("lead", 0.3), ("back", 0.1)):
        tone = gain * np.sin(2 * np.pi * 220 * np.arange(44100) / 44100)
        write_audio(song / f"{name}.wav", tone.astype(np.float32), 44100)
    voice = echo()
    voice.ranges = {"alice": VoiceRange.between(215, 270)}
    voice.f0_predictor = Listener()
    stems = make_stems(
        [
            Entry(song / "back.wav", "backing", {"transpose": "auto", "speaker": "bob"}),
            Entry(song / "lead.wav", "lead"),
            Entry(song / "inst.wav", "keep"),
        ],
        Defaults("alice", InferOptions(fit_to_voice="octaves")),
    )
    assert deciding_stem(stems) == stems[1]
    told: list[str] = []
    shared = share_key(Converter(voice), stems, told.append)
    assert [stem.options.transpose for stem in shared[:2]] == [12, 12]
    assert [stem.options.fit_to_voice for stem in shared] == ["no"] * 3
    assert shared[2] is stems[2]
    assert len(told) == 1
    assert told[0].startswith("all vocals: -t 12")


def test_other_keys_are_told(song: Path) -> None:
    moved = make_stems(
        [
            Entry(song / "lead.wav", "lead", {"transpose": 3}),
            Entry(song / "back.wav", "backing", {"transpose": -12}),
            Entry(song / "inst.wav", "keep"),
        ],
        Defaults("alice", InferOptions()),
    )
    assert "by +3 semitones" in key_note(moved)
    assert key_note(moved[1:]) == ""
    assert key_note(moved[:2]) == ""


# ---------------------------------------------------------------------------------- plans


def write_plan(folder: Path, stems: object) -> Path:
    path = folder / "cover.json"
    path.write_text(json.dumps(stems))
    return path


def test_a_plan_says_what_holds_for_each_stem(tmp_path: Path) -> None:
    stems = [
        {"file": "a.wav", "role": "lead", "speaker": "bob", "cluster_ratio": 0.5, "seed": 3},
        {"file": "b.wav", "role": "backing", "transpose": 12, "gain_db": -3, "pan": 0.5},
        {"file": "c.wav", "role": "backing"},
        {"file": "d.wav", "role": "keep", "gain_db": 1},
    ]
    usual = InferOptions(transpose=2, noise_scale=0.2)
    defaults = Defaults("alice", usual, backing_transpose=5, backing_gain=-6, keep_gain=-1)
    for plan in (stems, {"stems": stems}):
        a, b, c, d = make_stems(read_plan(write_plan(tmp_path, plan)), defaults)
        assert a.path == tmp_path / "a.wav"
        assert (a.name, b.name, c.name, d.name) == (
            "lead", "backing_1", "backing_2", "instrumental",
        )  # fmt: skip
        assert (a.speaker, b.speaker, d.speaker) == ("bob", "alice", "")
        assert a.options == InferOptions(transpose=2, noise_scale=0.2, cluster_ratio=0.5, seed=3)
        assert [b.options.transpose, c.options.transpose] == [12, 5]
        assert [stem.gain_db for stem in (a, b, c, d)] == [0, -3, -6, 1]
        assert b.pan == 0.5


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ({"file": "a.wav", "role": "lead", "gain": 3}, '"gain"; did you mean "gain_db"?'),
        ({"file": "a.wav", "role": "lead", "clip_second": 3}, 'mean "clip_seconds"?'),
        ({"file": "a.wav", "role": "main"}, "lead, backing, keep"),
        ({"role": "lead"}, '"file"'),
        ({"file": "a.wav"}, '"role"'),
        ({"file": "a.wav", "role": "lead", "cluster_ratio": "0.5"}, '"cluster_ratio" is "0.5"'),
        ({"file": "a.wav", "role": "lead", "cluster_ratio": 2}, "stem 1: -cr"),
        ({"file": "a.wav", "role": "lead", "auto_f0": 1}, "true or false"),
        ({"file": "a.wav", "role": "lead", "seed": 1.5}, "a whole number"),
        ({"file": "a.wav", "role": "lead", "mode": "sing"}, "sovits"),
        ({"file": "a.wav", "role": "lead", "transpose": "high"}, '"transpose" is "high"'),
        ({"file": "a.wav", "role": "lead", "transpose": 99}, "-t/--trans"),
        ({"file": "a.wav", "role": "lead", "transpose": "auto", "auto_f0": True}, "-t auto"),
        ({"file": "a.wav", "role": "lead", "pan": 2}, "-1 to 1"),
        ({"file": "a.wav", "role": "lead", "gain_db": 100}, "-60 to 60"),
        ({"file": "a.wav", "role": "keep", "speaker": "bob"}, "no effect"),
        ("a.wav", "stem 1 is 'a.wav'"),
    ],
)
def test_slips_in_a_plan(tmp_path: Path, item: object, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_stems(read_plan(write_plan(tmp_path, [item])), Defaults("alice", InferOptions()))
    assert text in str(caught.value)
    assert "stem 1" in str(caught.value)


# ------------------------------------------------------------------------ the command line


@pytest.fixture
def cover(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(["cover", *arguments, "-d", "cpu"])
        return (code, *capsys.readouterr())

    return call


Cover = Callable[..., tuple[int, str, str]]


def test_from_stems_to_a_song(song: Path, work: Path, stub_encoder: None, cover: Cover) -> None:
    code, out, err = cover(
        "--lead", "lead.wav", "--backing", "back.wav", "--instrumental", "inst.wav",
        "-s", "alice", "-t", "3", "--backing_gain", "-3", "-o", "results/song.wav",
    )  # fmt: skip
    assert code == 0, err
    assert audio_info("results/song.wav").n_samples == 96000
    assert sorted(path.name for path in Path("results/song_stems").iterdir()) == [
        "backing.wav", "instrumental.wav", "lead.wav",
    ]  # fmt: skip
    assert "svc: note: vocals are transposed by +3 semitones" in err
    assert "lead.wav -> results/song_stems/lead.wav  (alice, -t 3, matched by" in out
    assert "results/song.wav  (2.0 s, 48000 Hz, stereo" in out
    told = json.loads(Path("results/song.wav.json").read_text())
    assert [stem["role"] for stem in told["cover"]["stems"]] == ["lead", "backing", "keep"]
    assert told["cover"]["stems"][0]["options"]["transpose"] == 3
    assert len(told["files"]["source"]) == 3
    # The same command gives the same bytes.
    before = Path("results/song.wav").read_bytes()
    again = cover(
        "--lead", "lead.wav", "--backing", "back.wav", "--instrumental", "inst.wav", "--no_stems",
        "-t", "3", "--backing_gain", "-3", "-o", "results/again.wav", "--no_manifest",
    )  # fmt: skip
    assert again[0] == 0, again[2]
    assert Path("results/again.wav").read_bytes() == before
    assert not list(Path("results").glob("again?*.json"))
    assert not Path("results/again_stems").exists()


_SEPARATE = """
import pathlib, shutil, sys
song, folder = map(pathlib.Path, sys.argv[1:])
target = folder / "model" / song.stem
target.mkdir(parents=True)
shutil.copy(song.with_name("lead.wav"), target / "vocals.wav")
shutil.copy(song.with_name("inst.wav"), target / "no_vocals.wav")
"""


def test_from_a_whole_song(song: Path, work: Path, stub_encoder: None, cover: Cover) -> None:
    write_audio("all.flac", burst(44100, 1), 44100, tags={"title": "A song"})
    Path("separate.py").write_text(_SEPARATE)
    command = f"'{sys.executable}' separate.py {{input}} {{output}}"
    code, _, err = cover("all.flac", "--separator", command)
    assert code == 0, err
    assert audio_info("results/all_cover.flac").n_samples == 96000
    assert read_tags("results/all_cover.flac")["title"] == "A song"
    told = json.loads(Path("results/all_cover.flac.json").read_text())
    assert [stem["source"] for stem in told["cover"]["stems"]] == ["vocals.wav", "no_vocals.wav"]
    assert [Path(file["path"]).name for file in told["files"]["source"]] == ["all.flac"]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--lead", "lead.wav", "-s", "zoe"], '"zoe"'),
        (["--lead", "nowhere.wav"], "nowhere.wav is not there"),
        (["--lead", "lead.wav", "-o", "lead.wav"], "one of the inputs"),
        (["--lead", "lead.wav", "lead.wav"], "twice"),
        (["--lead", "lead.wav", "-o", "x.wav", "--bit_depth", "8"], "--bit_depth"),
        (["--lead", "lead.wav", "-t", "auto"], "svc voice-range"),
        (["--lead", "lead.wav", "-cr", "0.5"], "kmeans"),
        (["--lead", "lead.wav", "--plan", "no.json"], "--plan no.json is not there"),
    ],
)
def test_bad_input_is_one_line(
    song: Path, work: Path, stub_encoder: None, cover: Cover, flags: list[str], text: str
) -> None:
    code, out, err = cover(*flags)
    assert code == 2
    assert out == ""
    errors = [line for line in err.splitlines() if line.startswith("svc: error: ")]
    assert len(errors) == 1
    assert text in errors[0]
    assert "Traceback" not in err
    assert not [path for path in Path.cwd().glob("results/*") if path.suffix]
