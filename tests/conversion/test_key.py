"""Transpositions that are chosen by the range of the voice: `svc infer -t auto`."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svc.audio.io import read_audio, write_audio
from svc.audio.pitch import F0Track
from svc.checkpoint import load_checkpoint, save_checkpoint
from svc.conversion import Converter, InferOptions, convert_files, plan_jobs
from svc.conversion.jobs import Outcome
from svc.conversion.key import fit_key
from svc.conversion.options import with_transposition
from svc.conversion.sources import ArraySource
from svc.errors import ConfigError
from svc.f0.range_files import RANGE_FILE, plain_ranges, write_ranges
from svc.f0.remember import RememberingPredictor
from svc.f0.settings import F0Settings
from svc.f0.voice_range import Pitches, VoiceRange, note_hz

SR = 44100
Run = Callable[..., Any]
AUTO = InferOptions(fit_to_voice="semitones")
OCTAVE = InferOptions(fit_to_voice="octaves")


def between(low: str, high: str) -> VoiceRange:
    return VoiceRange.between(note_hz(low), note_hz(high))


# ---- options -------------------------------------------------------------------------------------


def test_values_of_the_flag() -> None:
    options = InferOptions(seed=3)
    assert with_transposition(options, -12.0) == InferOptions(seed=3, transpose=-12)
    assert with_transposition(options, "auto").fit_to_voice == "semitones"
    assert with_transposition(options, "auto-octave").fit_to_voice == "octaves"
    with pytest.raises(ConfigError, match="semitones, auto or auto-octave"):
        with_transposition(options, "autos")
    with pytest.raises(ConfigError, match=r"-t/--trans is 61"):
        with_transposition(options, 61.0)


def test_no_key_to_choose_where_the_pitch_is_predicted() -> None:
    for fit in ("semitones", "octaves"):
        with pytest.raises(ConfigError, match="-t auto and -a/--auto_predict_f0"):
            InferOptions(auto_f0=True, fit_to_voice=fit)
    with pytest.raises(ConfigError, match="fit_to_voice"):
        InferOptions(fit_to_voice="yes")  # type: ignore[arg-type]


# ---- words ---------------------------------------------------------------------------------------


def song_of(*notes: str) -> Pitches:
    midi = [f0 for note in notes for f0 in [note_hz(note)] * 50]
    track = F0Track(np.array(midi, "f4"), np.ones(len(midi), "f4"))
    return Pitches.of([track], 0.01)


def test_what_is_told_about_a_choice() -> None:
    voice = between("G2", "D4")
    fit = fit_key(song_of("E4", "A4", "B4"), voice, "alice", OCTAVE)
    assert fit.options == InferOptions(transpose=-12)
    assert fit.chosen == (
        "-t -12 (it fits); song E4-B4, voice G2-D4; outside of the voice's range: "
        "100% of the song as it is, 0% transposed"
    )
    assert not fit.warning
    fit = fit_key(song_of("A2", "C3"), voice, "alice", AUTO)
    assert fit.options == InferOptions()
    assert fit.chosen == (
        "-t 0 (the song fits as it is); song A2-C3, voice G2-D4; outside of the voice's range: "
        "0% of the song"
    )
    fit = fit_key(Pitches(np.zeros(0), 0.01), voice, "alice", AUTO)
    assert fit.options == InferOptions()
    assert fit.chosen == "-t 0 (nothing in the song is voiced)"


def test_warning_of_a_given_shift() -> None:
    voice, song = between("G2", "D4"), song_of("A4", "B4", "C4")
    fit = fit_key(song, voice, "alice", InferOptions(transpose=2))
    assert fit.options == InferOptions(transpose=2)
    assert not fit.chosen
    assert fit.warning.startswith(
        '67% of the song (C4-B4) at -t 2 lies outside of what "alice" sings (G2-D4); -t -'
    )
    assert fit.warning.endswith(" would leave 0% (-t auto)")
    assert not fit_key(song, voice, "alice", InferOptions(transpose=-12)).warning
    wide = song_of("C2", "C3", "C4", "C5", "C6")
    warning = fit_key(wide, between("B2", "C#4"), "alice", InferOptions()).warning
    assert warning.endswith("and no other transposition helps")


# ---- the converter -------------------------------------------------------------------------------


def with_ranges(converter: Converter, **ranges: VoiceRange) -> Converter:
    return Converter(dataclasses.replace(converter.voice, ranges=ranges))


@pytest.mark.parametrize("compat", [False, True])
def test_a_chosen_shift_sounds_like_the_same_shift_given(
    make_converter: Any, song: Any, compat: bool
) -> None:
    """The stub hears 220 Hz, A3."""
    converter = with_ranges(make_converter(compat=compat), alice=between("A4", "C5"))
    wav = song([(0.4, 0.3), (0.7, 0.0), (0.5, 0.3)])
    fit = converter.fit_key(ArraySource(wav, SR), "alice", AUTO)
    assert 12 <= fit.options.transpose <= 15
    auto = converter.convert(wav, SR, "alice", AUTO)
    given = converter.convert(wav, SR, "alice", InferOptions(transpose=fit.options.transpose))
    np.testing.assert_array_equal(auto, given)
    other = converter.convert(wav, SR, "alice", InferOptions())
    assert not np.array_equal(auto, other)
    octave = converter.fit_key(ArraySource(wav, SR), 0, OCTAVE)
    assert octave.options == InferOptions(transpose=12)


def test_only_sound_is_listened_to(make_converter: Any, song: Any) -> None:
    converter = with_ranges(make_converter(), alice=between("A4", "C5"))
    silent = converter.fit_key(ArraySource(np.zeros(SR, np.float32), SR), "alice", AUTO)
    assert silent.chosen == "-t 0 (nothing in the song is voiced)"
    nothing = converter.fit_key(ArraySource(np.zeros(0, np.float32), SR), "alice", AUTO)
    assert nothing.chosen == silent.chosen
    short = converter.fit_key(ArraySource(song([(0.12, 0.3)]), SR), "alice", AUTO)
    assert short.options.transpose >= 12


def test_a_curve_is_taken_instead_of_what_is_heard(make_converter: Any, song: Any) -> None:
    converter = with_ranges(make_converter(), alice=between("A4", "C5"))
    wav = song([(1.0, 0.3)])
    n = SR // 512
    curve = F0Track(np.full(n, 880.0, "f4"), np.ones(n, "f4"))
    listened = len(converter.voice.f0_predictor.lengths)
    fit = converter.fit_key(ArraySource(wav, SR), "alice", OCTAVE, f0=curve)
    assert fit.options.transpose == -12
    fit = converter.fit_key(ArraySource(wav, SR), "alice", AUTO, f0=curve)
    assert -12 <= fit.options.transpose <= -9
    assert len(converter.voice.f0_predictor.lengths) == listened
    edited = converter.convert(wav, SR, "alice", AUTO, f0=curve)
    given = InferOptions(transpose=fit.options.transpose)
    np.testing.assert_array_equal(edited, converter.convert(wav, SR, "alice", given, f0=curve))


def test_a_voice_whose_range_is_not_known(make_converter: Any, song: Any) -> None:
    converter = with_ranges(make_converter(), alice=between("A4", "C5"))
    wav = song([(0.3, 0.3)])
    source = ArraySource(wav, SR)
    for call in (converter.stream, converter.fit_key):
        with pytest.raises(ConfigError, match=r"which notes \"bob\" sings.*svc voice-range"):
            call(source, "bob", AUTO)
    # Given shifts need no range, and nothing is listened to for them.
    listened = len(converter.voice.f0_predictor.lengths)
    assert converter.fit_key(ArraySource(wav, SR), "bob", InferOptions(transpose=3)).warning == ""
    assert len(converter.voice.f0_predictor.lengths) == listened


# ---- files ---------------------------------------------------------------------------------------


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, song: Any) -> Path:
    monkeypatch.chdir(tmp_path)
    write_audio("raw/a.wav", song([(0.3, 0.3)]), SR)
    write_audio("x/a.wav", song([(0.3, 0.3)]), SR)
    return tmp_path


def test_results_carry_the_chosen_shift(raw: Path, make_converter: Any) -> None:
    ranges = {"alice": between("G#4", "A#4"), "bob": between("G#3", "A#3")}
    converter = with_ranges(make_converter(), **ranges)
    jobs, _ = plan_jobs(
        ["a.wav"], ["alice", "bob"], InferOptions(), f0_name="pm", transposes=["auto"]
    )
    told: list[str] = []
    outcomes = convert_files(converter, jobs, on_key=told.append)
    assert [outcome.output.name for outcome in outcomes if outcome.output] == [
        "a.wav_12key_alice_sovits_pm.flac",
        "a.wav_0key_bob_sovits_pm.flac",
    ]
    assert [line.split(" (")[0] for line in told] == [
        "a.wav for alice: -t 12",
        "a.wav for bob: -t 0",
    ]


def test_equal_names_stay_apart_whatever_is_chosen(raw: Path, make_converter: Any) -> None:
    converter = with_ranges(make_converter(), alice=between("G#4", "A#4"))
    for transposes in (["auto"], ["auto", 12.0], [12.0, "auto-octave"]):
        jobs, _ = plan_jobs(
            ["a.wav", "x/a.wav"], ["alice"], InferOptions(), f0_name="pm", transposes=transposes
        )
        names = [outcome.output.name for outcome in convert_files(converter, jobs)]  # type: ignore[union-attr]
        assert names == ["a.wav_12key_alice_sovits_pm.flac", "a.wav(2)_12key_alice_sovits_pm.flac"]


def test_a_given_output_keeps_its_name(raw: Path, make_converter: Any) -> None:
    converter = with_ranges(make_converter(), alice=between("G#4", "A#4"))
    jobs, _ = plan_jobs(
        ["a.wav"], ["alice"], InferOptions(), f0_name="pm", transposes=["auto"],
        output=Path("mine.wav"),
    )  # fmt: skip
    (outcome,) = convert_files(converter, jobs)
    assert outcome.output == Path("mine.wav")
    assert Path("mine.wav").is_file()


def test_songs_far_out_of_reach_are_told(
    raw: Path, make_converter: Any, caplog: pytest.LogCaptureFixture
) -> None:
    converter = with_ranges(make_converter(), alice=between("G#4", "A#4"))
    jobs, _ = plan_jobs(["a.wav"], ["alice"], InferOptions(), f0_name="pm", transposes=[0.0])
    with caplog.at_level(logging.WARNING, logger="svc.conversion"):
        (outcome,) = convert_files(converter, jobs)
    assert not outcome.error
    (message,) = caplog.messages
    assert message == (
        'a.wav: 100% of the song (A3-A3) lies outside of what "alice" sings (G#4-A#4); '
        "-t 12 would leave 0% (-t auto)"
    )
    caplog.clear()
    jobs, _ = plan_jobs(["a.wav"], ["alice"], InferOptions(), f0_name="pm", transposes=["auto"])
    convert_files(converter, jobs)
    assert not caplog.messages


@pytest.mark.parametrize("compat", [False, True])
def test_singing_does_not_wait_for_the_pitch_of_the_whole_song(
    raw: Path, echo: Any, rng: np.random.Generator, caplog: pytest.LogCaptureFixture, compat: bool
) -> None:
    """A given shift is judged by what was heard while it was sung, by the same numbers."""
    events: list[str] = []

    class Loudness:
        """The louder, the higher."""

        name, settings = "stub", F0Settings()

        def __call__(self, wav: np.ndarray) -> F0Track:
            events.append("hear")
            frames = wav[: wav.size // 512 * 512].reshape(-1, 512)
            level = np.sqrt(np.square(frames).mean(1))
            return F0Track((200 + 1000 * level).astype("f4"), (level > 0.01).astype("f4"))

    class Voice(echo):  # type: ignore[misc]
        ranges = {"alice": VoiceRange.between(200, 350)}  # noqa: RUF012
        f0_predictor = RememberingPredictor(Loudness())  # type: ignore[arg-type]

        def render(self, window: np.ndarray, *rest: Any) -> Any:
            events.append("sing")
            self.f0_predictor(window)
            return super().render(window, *rest)

    level = np.repeat(np.linspace(0.02, 0.3, 40), SR // 10)
    wav = (level * rng.standard_normal(level.size)).clip(-0.9, 0.9).astype("f4")
    write_audio("raw/long.wav", wav, SR)
    converter = Converter(Voice(compat=compat))
    options = InferOptions(clip_seconds=0.9)
    jobs, _ = plan_jobs(["long.wav"], ["alice"], options, f0_name="pm", transposes=[0.0])
    with caplog.at_level(logging.WARNING, logger="svc.conversion"):
        (outcome,) = convert_files(converter, jobs)
    assert not outcome.error
    assert len(events) >= 8
    assert events == ["sing", "hear"] * (len(events) // 2)
    wav, sr = read_audio("raw/long.wav")
    expected = converter.fit_key(ArraySource(wav, sr), "alice", options).warning
    assert expected
    assert "100%" not in expected
    assert caplog.messages == [f"long.wav: {expected}"]


def test_a_voice_without_a_range_fails_its_job_only(raw: Path, make_converter: Any) -> None:
    converter = with_ranges(make_converter(), bob=between("G#4", "A#4"))
    jobs, _ = plan_jobs(
        ["a.wav"], ["alice", "bob"], InferOptions(), f0_name="pm", transposes=["auto"]
    )
    told: list[Outcome] = []
    convert_files(converter, jobs, on_outcome=told.append)
    assert [bool(outcome.error) for outcome in told] == [True, False]


# ---- the command line ----------------------------------------------------------------------------


@pytest.fixture
def own_voice(work: Path, voice_folder: Path) -> Path:
    """A copy of the voice that tests may add to."""
    folder = work / "voice"
    folder.mkdir()
    for file in voice_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder / "G_100.pth"


def test_auto_with_a_checkpoint_that_knows(run: Run, own_voice: Path, stub_encoder: None) -> None:
    content = load_checkpoint(own_voice)
    ranges = plain_ranges({"alice": between("C#4", "F#5")})
    save_checkpoint({**content, "svc": {"voice_range": ranges}}, own_voice)
    done = run("-m", str(own_voice), "-n", "song", "-t", "auto-octave")
    assert done.code == 0, done.err
    chosen, result, *more = done.out.splitlines()
    assert not more
    assert chosen == (
        "song for alice: -t 12 (it fits); song A3-A3, voice C#4-F#5; outside of the voice's range: "
        "100% of the song as it is, 0% transposed"
    )
    assert "song_12key_alice_sovits_pm.flac" in result
    given = run("-m", str(own_voice), "-n", "song", "--transpose", "12", "--output", "given.flac")
    assert given.code == 0, given.err
    auto, _ = read_audio("results/song_12key_alice_sovits_pm.flac")
    np.testing.assert_array_equal(auto, read_audio("given.flac")[0])


def test_auto_with_the_side_car(run: Run, own_voice: Path, stub_encoder: None) -> None:
    write_ranges(own_voice.with_name(RANGE_FILE), {"alice": between("A1", "A2")})
    write_audio("raw/two.wav", read_audio("raw/song.wav")[0], SR)
    done = run("-m", str(own_voice), "-n", "song", "two", "-t", "AUTO", "-2")
    assert done.code == 0, done.err
    names = sorted(path.name for path in Path("results").glob("*.flac"))
    assert len(names) == 2
    shift = int(names[0].split("_")[1].removesuffix("key"))
    assert -24 < shift <= -12
    assert names[1] == "two_-2key_alice_sovits_pm.flac"
    # The second song has a shift that does not fit.
    assert "two: 100% of the song (A3-A3) at -t -2 lies outside of what" in done.err
    assert "WARNING" in done.err


def test_auto_with_a_model_that_does_not_know(
    run: Run, work: Path, no_reading: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "svc.conversion.voice.load_synthesizer", lambda *_, **__: pytest.fail("a model was loaded")
    )
    done = run("-n", "song", "-t", "auto")
    assert done.code == 2
    assert "svc voice-range RECORDINGS -s alice -o logs/44k/voice_range.json" in done.error
    assert not Path("results").exists() or not list(Path("results").iterdir())


def test_the_command_that_the_error_names_helps(
    run: Run, own_voice: Path, stub_encoder: None, sine: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    import re
    import shlex

    from svc.cli.main import main

    error = run("-m", str(own_voice), "-n", "song", "-t", "auto").error
    found = re.search(r"svc (voice-range .*)$", error)
    assert found is not None
    write_audio("her songs/1.wav", sine(440, 1.0), SR)
    words = shlex.split(found.group(1))
    words[words.index("RECORDINGS")] = "her songs"
    assert main(words) == 0
    capsys.readouterr()
    done = run("-m", str(own_voice), "-n", "song", "-t", "auto")
    assert done.code == 0, done.err
    assert "song for alice: -t 12" in done.out


def test_auto_and_a_predicted_melody(run: Run, own_voice: Path) -> None:
    done = run("-m", str(own_voice), "-n", "song", "-t", "auto", "-a")
    assert done.code == 2
    assert "-t auto and -a/--auto_predict_f0" in done.error


def test_a_word_that_is_no_transposition(run: Run, work: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        run("-n", "song", "-t", "automatic")
    assert caught.value.code == 2
    assert '"automatic" is neither a number of semitones nor auto' in capsys.readouterr().err


def test_a_damaged_side_car_stops_auto_only(run: Run, own_voice: Path, stub_encoder: None) -> None:
    own_voice.with_name(RANGE_FILE).write_text("{")
    done = run("-m", str(own_voice), "-n", "song", "-t", "auto")
    assert done.code == 2
    assert "voice_range.json holds no ranges of voices" in done.error
    done = run("-m", str(own_voice), "-n", "song", "-t", "2")
    assert done.code == 0
    assert "voice_range.json holds no ranges of voices" in done.err


def test_every_further_voice_sings_what_was_heard_once(
    run: Run, own_voice: Path, stub_encoder: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from svc.f0.praat import PraatPredictor

    calls: list[int] = []
    original = PraatPredictor.__call__

    def counted(self: PraatPredictor, wav: Any) -> F0Track:
        calls.append(len(wav))
        return original(self, wav)

    monkeypatch.setattr(PraatPredictor, "__call__", counted)
    write_ranges(own_voice.with_name(RANGE_FILE), {"alice": between("A1", "A2")})
    assert run("-m", str(own_voice), "-n", "song", "-t", "auto").code == 0
    assert len(calls) == 1
