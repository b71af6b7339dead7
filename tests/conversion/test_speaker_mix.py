"""The arithmetic of mixes along a song: the original's arrays (spec_core 8.6, 12), then ours."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svc.audio.io import read_audio, write_audio
from svc.audio.slicer import Segment
from svc.checkpoint import load_checkpoint, save_checkpoint
from svc.conversion import Converter, InferOptions
from svc.conversion.compat import plan_calls
from svc.conversion.mix_segments import MixSegment
from svc.conversion.speaker_mix import SpeakerMix, total_frames
from svc.errors import ConfigError

Make = Callable[..., Converter]
Song = Callable[..., np.ndarray]
Run = Callable[..., Any]
HOP = 512
TABLE = {"alice": 0, "bob": 1}


def levels_of(facts: dict[str, Any]) -> dict[str, list[tuple[Any, ...]]]:
    """The map of the stored run is not stored: a map of two levels, one for each call, with its sums."""
    (first, second), border = facts["mix"]["calls"], facts["mix"]["calls"][1][1]
    total = first[3][1]
    place = (border + 0.5) / total  # whole frames begin before it, in the original's rounding
    return {
        name: [(0, place, *[low] * 2), (place, 1, *[high] * 2)]
        for name, low, high in zip(
            TABLE,
            np.array(first[2]) / (first[0] // HOP),
            np.array(second[2]) / (second[0] // HOP),
        )
    }


def mix_of(
    tracks: dict[str, list[tuple[Any, ...]]],
    speakers: dict[str, int] | None = None,
    **more: Any,
) -> SpeakerMix:
    table = dict.fromkeys(tracks) if speakers is None else speakers
    return SpeakerMix.of(
        {name: [MixSegment(*segment) for segment in track] for name, track in tracks.items()},
        {name: i for i, name in enumerate(table)} if speakers is None else speakers,
        **more,
    )


# ------------------------------------------------------------------------------ the original


@pytest.fixture
def facts(golden: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((golden / "golden_slice_inference.json").read_text())
    return loaded


def segments_of(facts: dict[str, Any]) -> list[Segment]:
    chunks = facts["chunks"].values()
    places = [(map(int, chunk["split_time"].split(",")), chunk["slice"]) for chunk in chunks]
    return [Segment(*place, silent) for place, silent in places]


def test_weights_of_every_call_are_the_originals(facts: dict[str, Any]) -> None:
    segments = segments_of(facts)
    options = InferOptions()
    total = total_frames(segments, 8000, 8000, HOP, options)
    weights = mix_of(levels_of(facts)).compat_weights(total)
    assert weights.dtype == np.float32
    calls = [c for c in plan_calls(segments, 8000, 8000, HOP, options) if not c.silent]
    assert len(calls) == len(facts["mix"]["calls"]) == 2
    for call, (length, first, sums, shape) in zip(calls, facts["mix"]["calls"], strict=True):
        assert (call.input_length, call.first_frame) == (length, first)
        assert list(weights.T.shape) == shape
        found = weights[first : first + length // HOP].sum(axis=0, dtype=np.float64)
        np.testing.assert_allclose(found, sums, rtol=1e-6)


def test_the_converter_sings_the_originals_mix(
    echo: Any, golden: Path, facts: dict[str, Any]
) -> None:
    seen: list[np.ndarray] = []

    class Watching(echo):  # type: ignore[misc]
        def render(self, window: np.ndarray, speaker: Any, *rest: Any, **more: Any) -> np.ndarray:
            seen.append(speaker)
            whole: np.ndarray = super().render(window, speaker, *rest, **more)
            return whole

    wav, sr = read_audio(golden / "golden_slice_inference_in.wav")
    voice = Watching(
        lambda window, call: window * np.float32(0.5 + 0.1 * (call % 3)),
        sampling_rate=sr,
        compat=True,
    )
    result = Converter(voice).convert(wav, sr, mix_of(levels_of(facts)))
    with np.load(golden / "golden_slice_inference.npz") as arrays:
        assert np.abs(result - arrays["mix"]).max() <= 1e-7
    sums = [weights.sum(axis=0, dtype=np.float64) for weights in seen]
    np.testing.assert_allclose(sums, [call[2] for call in facts["mix"]["calls"]], rtol=1e-6)


def test_total_frames_counts_silence_padding_and_segments() -> None:
    segments = [
        Segment(0, 16000, True),
        Segment(16000, 48000, False),
        Segment(48000, 48000, True),
        Segment(48000, 50000, False),
    ]
    # ceil(1 s) // 512 + (ceil(2 s) + 2 * 8000) // 512 + (ceil(0.125 s) + 2 * 8000) // 512 + 3
    expected = 44100 // HOP + (88200 + 16000) // HOP + (5513 + 16000) // HOP + 3
    assert total_frames(segments, 16000, 44100, HOP, InferOptions()) == expected
    cut = InferOptions(clip_seconds=1, crossfade_seconds=0.5, pad_seconds=0)
    assert total_frames(segments, 16000, 44100, HOP, cut) == (
        44100 // HOP + 44100 // HOP + 66150 // HOP + 5513 // HOP + 3
    )


def test_where_nobody_sings_all_do_alike() -> None:
    mix = mix_of({"a": [(0, 0.5, 1, 1), (0.5, 1, 0, 0)], "b": [(0, 1, 0, 0)], "c": [(0, 1, 0, 0)]})
    for weights in (mix.weights(10), mix.compat_weights(10)):
        assert np.array_equal(weights[:5], np.tile(np.float32([1, 0, 0]), (5, 1)))
        np.testing.assert_allclose(weights[5:], 1 / 3, rtol=1e-7)
    # Only among speakers that there are: id 1 is nobody's.
    gap = mix_of({"a": [(0, 1, 0, 0)], "b": [(0, 1, 0, 0)]}, {"a": 0, "b": 2})
    assert gap.weights(1).tolist() == gap.compat_weights(1).tolist() == [[0.5, 0, 0.5]]


# ------------------------------------------------------------------------------ ours


def test_a_fade_is_a_straight_line() -> None:
    mix = mix_of({"a": [(0, 1, 1, 0)], "b": [(0, 1, 0, 1)]})
    weights = mix.weights(100)
    np.testing.assert_allclose(weights[:, 1], np.arange(100) / 100, atol=1e-7)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-7)
    assert np.array_equal(mix.compat_weights(100), weights)


def test_a_jump_falls_on_its_frame() -> None:
    mix = mix_of({"a": [(0, 2.0, 1, 1), (2.0, None, 0, 0)], "b": [(0, None, 0.001, 0.001)]}, TABLE_AB,
                 unit="seconds")  # fmt: skip
    weights = mix.weights(400, frame_seconds=0.01)
    assert (weights[:200, 0] > 0.99).all()
    assert not weights[200:, 0].any()


TABLE_AB = {"a": 0, "b": 1}


def random_mix(rng: np.random.Generator, unit: str) -> SpeakerMix:
    length = 1.0 if unit == "fraction" else float(rng.uniform(1, 300))
    table = {f"s{i}": int(k) for i, k in enumerate(rng.permutation(7)[: rng.integers(1, 6)])}
    tracks: dict[str | int, list[MixSegment]] = {}
    for name in list(table)[: rng.integers(1, len(table) + 1)]:
        inner = np.sort(rng.uniform(0, length, rng.integers(0, 5)))
        borders = [0.0, *inner.tolist(), length]
        values = rng.choice([0, 0, 1e-300, 1e-9, 0.3, 1, 1e6], (len(borders), 2)).tolist()
        tracks[name] = [MixSegment(a, b, *v) for a, b, v in zip(borders, borders[1:], values)]
    return SpeakerMix.of(tracks, table, unit=unit)  # type: ignore[arg-type]


@pytest.mark.parametrize("unit", ["fraction", "seconds"])
def test_rows_of_any_mix_add_up_to_one(unit: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(150):
        mix = random_mix(rng, unit)
        n = int(rng.integers(0, 60))
        step = (mix.seconds or 1) / max(n, 1) * float(rng.uniform(0.3, 1))
        weights = mix.weights(n, frame_seconds=step)
        compat = mix.compat_weights(n, seconds=n * step)
        for found in (weights, compat):
            assert found.shape == (n, len(mix.speakers))
            assert found.dtype == np.float32
            assert (found >= 0).all()
            np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
            assert not found[:, [name is None for name in mix.speakers]].any()
        first, count = (int(x) for x in rng.integers(-20, 60, 2))
        count = abs(count)
        rows = mix.rows(first, count, n, frame_seconds=step)
        assert rows.shape == (count, len(mix.speakers))
        if n:
            at = np.clip(np.arange(first, first + count), 0, n - 1)
            assert np.array_equal(rows, weights[at])
        places, shares = mix.as_fractions(n * step).outline()
        assert (np.diff(places) >= 0).all()
        assert (places[0], places[-1]) == (0, 1)
        np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)


def test_seconds_are_fractions_of_their_song() -> None:
    seconds = mix_of(
        {"a": [(0, 3, 1, 0.5), (3, None, 0.2, 1)], "b": [(0, 12, 0.5, 1)]}, unit="seconds"
    )
    assert seconds.seconds == 12
    fraction = mix_of({"a": [(0, 0.3, 1, 0.5), (0.3, 1, 0.2, 1)], "b": [(0, 1, 0.5, 11 / 12)]})
    found, wanted = seconds.weights(500, frame_seconds=0.02), fraction.weights(500)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert seconds.as_fractions(10).seconds is None
    np.testing.assert_allclose(
        seconds.compat_weights(777, seconds=10), fraction.compat_weights(777), atol=1e-6
    )
    for call in (seconds.as_fractions, lambda: seconds.weights(5), lambda: seconds.rows(0, 5, 5)):
        with pytest.raises(ValueError, match="needs the length"):
            call()
    with pytest.raises(ValueError, match="as_fractions first"):
        seconds.spans()


def test_a_track_that_is_too_short_says_by_how_much() -> None:
    mix = mix_of({"a": [(0, None, 1, 1)], "b": [(0, 5, 0, 0), (5, 180, 1, 1)]}, unit="seconds",
                 what="m.json")  # fmt: skip
    message = (
        r'm\.json: speaker "b", segment 2, the last, ends at 180 s, 12\.50 s before the song '
        r'\(192\.50 s\); write "end"'
    )
    for fails in (lambda: mix.require_length(192.5), lambda: mix.weights(385, frame_seconds=0.5)):
        with pytest.raises(ConfigError, match=message):
            fails()
    mix.require_length(180.09)  # a few frames are held
    held = mix.weights(1801, frame_seconds=0.09999)
    assert held[-1].tolist() == [0.5, 0.5]
    mix.require_length(20)


def test_one_speaker_is_that_speaker(make_converter: Make, song: Song) -> None:
    """I11: whatever the weights are; and the samples are those of the speaker alone."""
    alone = mix_of({"alice": [(0, 1, 0, 0.5)]}, {"alice": 3})
    entry = mix_of({"bob": [(0, 0.5, 0, 0), (0.5, 1, 1, 0)]}, TABLE)
    zero = SpeakerMix.constant({"alice": 0.0, "bob": 2.0}, TABLE)
    assert (alone.only, entry.only, zero.only) == (3, 1, 1)
    assert mix_of({"alice": [(0, 1, 1, 1)], "bob": [(0, 1, 0, 0)]}, TABLE).only is None
    for mix in (alone, entry, zero):
        for weights in (mix.weights(4), mix.compat_weights(4)):
            assert weights.sum() == weights[:, mix.only].sum() == 4
    wav = song([(0.5, 0.5)])
    converter = make_converter()
    expected = converter.convert(wav, 44100, "bob")
    assert np.array_equal(converter.convert(wav, 44100, entry), expected)


def test_a_mix_is_heard_where_it_is_written(make_converter: Make, song: Song) -> None:
    """With the speakers' own samples at both ends, and neither's between."""
    wav = song([(3.0, 0.5)])
    converter = make_converter()
    alice, bob = (converter.convert(wav, 44100, name) for name in TABLE)
    mix = mix_of({"alice": [(0, 0.4, 1, 1), (0.4, 0.6, 1, 0), (0.6, 1, 0, 0)],
                  "bob": [(0, 0.4, 0, 0), (0.4, 0.6, 0, 1), (0.6, 1, 1, 1)]}, TABLE)  # fmt: skip
    mixed = converter.convert(wav, 44100, mix)
    head, middle, tail = slice(0, 44100), slice(64000, 68000), slice(2 * 44100, None)

    def close(a: np.ndarray, b: np.ndarray, part: slice) -> bool:
        return bool(np.abs(a[part] - b[part]).max() < 1e-3 * np.abs(b).max())

    assert close(mixed, alice, head)
    assert close(mixed, bob, tail)
    assert not close(alice, bob, head)
    assert not close(mixed, alice, middle)
    assert not close(mixed, bob, middle)
    assert np.isfinite(mixed).all()


def test_a_constant_mix(make_converter: Make, song: Song) -> None:
    mix = SpeakerMix.constant({"bob": 3, "0": 1}, TABLE)
    assert np.array_equal(mix.weights(3), np.tile(np.float32([0.25, 0.75]), (3, 1)))
    with pytest.raises(ConfigError, match="all weights are 0"):
        SpeakerMix.constant({"bob": 0, "alice": 0}, TABLE)
    with pytest.raises(ConfigError, match="names no speaker"):
        SpeakerMix.constant({}, TABLE)
    converter = make_converter(n_speakers=2)
    wav = song([(0.3, 0.5)])
    first = converter.convert(wav, 44100, mix)
    assert np.array_equal(converter.convert(wav, 44100, mix), first)


def test_a_mix_from_the_command_line(
    run: Run, work: Path, make_config: Any, save_voice: Any, shared: Path
) -> None:
    """Two seconds of real singing, by the bundled encoder and a voice with two speakers."""
    wav, sr = read_audio(shared / "audio/singing/gts_en_tenor_1/EN_Tenor_1_Breathy_Control.flac")
    write_audio("raw/song.wav", wav[2 * sr : 4 * sr], sr)
    config = make_config(n_speakers=2)
    model = save_voice(Path("voice"), dataclasses.replace(config, spk=TABLE))
    content = load_checkpoint(model)
    content["model"]["dec.conv_post.weight_g"].mul_(
        0.01
    )  # an untrained pair of singers that differ
    content["model"]["emb_g.weight"].mul_(100)
    save_checkpoint(content, model)
    Path("duet.csv").write_text(
        "speaker,start_s,end_s,from,to\nalice,0,0.8,1,1\nalice,0.8,1.2,1,0\nalice,1.2,end,0,0\n"
        "bob,0,0.8,0,0\nbob,0.8,1.2,0,1\nbob,1.2,end,1,1\n"
    )
    Path("short.csv").write_text("speaker,start_s,end_s,from,to\nalice,0,1.5,1,1\nbob,0,2,1,1\n")
    found = {}
    for name, flags in {
        "alice": ["-s", "alice"],
        "bob": ["-s", "bob"],
        "duet": ["-usm", "--spk_mix", "duet.csv"],
        "half": ["-usm", "--spk_mix", "alice=1,bob=1"],
        "all bob": ["-usm", "--spk_mix", "bob=1"],
    }.items():
        done = run("-m", str(model), "-n", "song", "--output", f"{name}.wav", *flags)
        assert done.code == 0, done.err
        found[name] = read_audio(f"{name}.wav")[0]
    assert np.array_equal(found["all bob"], found["bob"])
    head, tail = slice(0, 44100 // 2), slice(-44100 // 2, None)
    for part, who, other in ((head, "alice", "bob"), (tail, "bob", "alice")):
        near, far = (rms(found["duet"][part] - found[name][part]) for name in (who, other))
        assert near < 0.002 * far
        assert rms(found["half"][part] - found[who][part]) > 0.2 * far
    done = run("-m", str(model), "-n", "song", "-usm", "--spk_mix", "short.csv")
    assert done.code == 2
    assert "ends at 1.5 s, 0.50 s before the song (2.00 s)" in done.err


def rms(wav: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(wav, dtype=np.float64))))


def test_auto_f0_of_a_single_frame_of_a_mix(make_converter: Make) -> None:
    """M11: one frame and one row of weights."""
    converter = make_converter()
    mix = SpeakerMix.constant({"alice": 1, "bob": 1}, TABLE)
    wav = np.full(HOP, 0.3, np.float32)
    options = InferOptions(auto_f0=True, pad_seconds=0)
    result = converter.convert(wav, 44100, mix, options)
    assert result.shape == (HOP,)
    assert np.isfinite(result).all()


# ------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("track", "message"),
    [
        ([], 'has no segments; leave the speaker out'),
        ([(0, 1, -0.5, 1)], "segment 1: the weight -0.5 is not in 0..1e.06; write 0"),
        ([(0, 1, 0, float("nan"))], "segment 1: the weight nan is not in"),
        ([(0, 1, 0, 2e6)], "segment 1: the weight 2e.06 is not in"),
        ([(0, float("inf"), 0, 1)], "segment 1: its end is inf; write a number"),
        ([(float("nan"), 1, 0, 1)], "segment 1: its start is nan; write a number"),
        ([(0, 0.5, 0, 1), (0.5, 0.2, 0, 1)], "segment 2 ends at 0.2, not after its start 0.5"),
        ([(0, 0.5, 0, 1), (0.5, 0.5, 0, 1)], "segment 2 ends at 0.5, not after its start 0.5"),
        ([(0, 0.5, 0, 1), (0.6, 1, 0, 1)], "segment 2 leaves a gap: it begins at 0.6 and segment 1"),
        ([(0, 0.5, 0, 1), (0.4, 1, 0, 1)], "segment 2 overlaps: it begins at 0.4 and segment 1 ends"),
        ([(0.1, 1, 0, 1)], "segment 1, the first, begins at 0.1; write 0, with the weight 0"),
        ([(-0.1, 1, 0, 1)], "segment 1, the first, begins at -0.1; write 0"),
        ([(0, 0.9, 0, 1)], "segment 1, the last, ends at 0.9; write 1, the end of the song$"),
        ([(0, 30, 0, 1)], 'ends at 30; write 1, .* or say that these are seconds: "unit"'),
        ([(0, None, 0, 1), (0.5, 1, 0, 1)], "segment 2 comes after one .* segment 1 the end 0.5"),
    ],
)  # fmt: skip
def test_what_is_no_track(track: list[tuple[Any, ...]], message: str) -> None:
    with pytest.raises(ConfigError, match=f'^m.json: speaker "bob".*{message}'):
        mix_of({"alice": [(0, 1, 1, 1)], "bob": track}, TABLE, what="m.json")


def test_borders_may_differ_by_rounding() -> None:
    third = 0.3333333
    mix = mix_of({"a": [(0, third, 1, 1), (1 / 3, 0.9999999, 0, 0)], "b": [(0, 1, 1, 1)]})
    assert mix.weights(3)[:, 1].tolist() == [0.5, 1, 1]


def test_who_is_meant() -> None:
    one = [MixSegment(0, 1, 1, 1)]
    table = {"alice": 0, "0": 1, "bob": 5}
    mix = SpeakerMix.of({"0": one, "5": one}, table)  # a name wins over a number
    assert mix.weights(1).tolist() == [[0, 0.5, 0, 0, 0, 0.5]]
    assert SpeakerMix.of({0: one, "bob": one}, table).weights(1)[0, 0] == 0.5
    with pytest.raises(ConfigError, match=r'^x: unknown speaker "bop": .* "bob" \(5\), '):
        SpeakerMix.of({"bop": one}, table, what="x")
    with pytest.raises(ConfigError, match=r'^x: "bob" and "5" are the same speaker'):
        SpeakerMix.of({"bob": one, "5": one}, table, what="x")
    with pytest.raises(ConfigError, match="empty"):
        SpeakerMix.of({"bob": one}, {})
