"""How much content units carry: the arithmetic on made-up frames, the figures on real speech."""

from __future__ import annotations

import numpy as np
import pytest

from svc.audio.io import write_audio
from svc.errors import DatasetError
from svc.evaluation.content import (
    CHANCE,
    HOP,
    SAMPLING_RATE,
    Voice,
    active_frames,
    cosine_cost,
    dtw,
    find_frames,
    find_sentences,
    measure_content,
    normalise,
    voice_from_folder,
)
from svc.evaluation.frame_features import BASELINES, encoder_features, mel_features, moved

SENTENCES = ("200003", "200006", "200008", "200010", "200016")


def cheapest(cost: np.ndarray) -> float:
    """Symmetric dynamic time warping, written as the paper's recursion."""
    n, m = cost.shape
    total = np.full((n, m), np.inf)
    total[0, 0] = 2 * cost[0, 0]
    for i in range(n):
        for j in range(m):
            if i:
                total[i, j] = min(total[i, j], total[i - 1, j] + cost[i, j])
            if j:
                total[i, j] = min(total[i, j], total[i, j - 1] + cost[i, j])
            if i and j:
                total[i, j] = min(total[i, j], total[i - 1, j - 1] + 2 * cost[i, j])
    return total[-1, -1] / (n + m)


# --------------------------------------------------------------------------------- time warping


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (7, 1), (9, 13), (20, 8)])
def test_dtw_finds_the_cheapest_path(rng, shape):
    cost = rng.random(shape)
    found = dtw(cost)
    assert found.distance == pytest.approx(cheapest(cost), abs=1e-12)
    steps = np.diff(found.path, axis=0)
    assert found.path[0].tolist() == [0, 0]
    assert found.path[-1].tolist() == [shape[0] - 1, shape[1] - 1]
    assert ((steps >= 0) & (steps <= 1)).all()
    assert (steps.sum(axis=1) >= 1).all()
    weights = np.concatenate([[2], steps.sum(axis=1)])
    along = (weights * cost[found.path[:, 0], found.path[:, 1]]).sum() / sum(shape)
    assert along == pytest.approx(found.distance, abs=1e-12)


def test_dtw_of_even_costs_is_that_cost_for_any_lengths():
    assert dtw(np.full((5, 9), 0.25)).distance == pytest.approx(0.25, abs=1e-12)


def test_dtw_undoes_a_change_of_tempo(rng):
    frames = rng.standard_normal((30, 16)).astype(np.float32)
    repeats = rng.integers(1, 4, 30)
    slow = np.repeat(np.arange(30), repeats)
    a, b = normalise({"a": frames})["a"], normalise({"b": frames[slow]})["b"]
    path = dtw(cosine_cost(a, b)).path
    assert (slow[path[:, 1]] == path[:, 0]).mean() > 0.95


@pytest.mark.parametrize("cost", [np.zeros((0, 3)), np.zeros(4), np.array([[1.0, np.nan]])])
def test_dtw_refuses_what_is_no_matrix_of_costs(cost):
    with pytest.raises(ValueError, match="finite costs"):
        dtw(cost)


# ------------------------------------------------------------------------------------- finding


def test_ranks_count_nearer_candidates_and_share_ties():
    distances = np.array([[0.3, 0.1, 0.2], [0.5, 0.5, 0.5], [0.1, 0.1, 0.1]], dtype=np.float32)
    ranks = find_sentences(distances, ["a", "b", "unknown"], ["a", "b", "c"])
    assert ranks.tolist() == [3.0, 2.0]


def frames_of(*numbers: int) -> np.ndarray:
    """One frame per number, equal numbers alike and others at right angles."""
    return np.eye(12, dtype=np.float32)[list(numbers)]


def straight(n: int) -> np.ndarray:
    return np.stack([np.arange(n), np.arange(n)], axis=1)


def test_a_frame_is_found_at_its_place_and_within_the_tolerance_only():
    queries = {"a": frames_of(0, 1, 2, 3), "b": frames_of(4, 5, 6, 7)}
    # "a" is the same, the second half of "b" comes two frames late, 7 was said in "a" alone
    candidates = {"a": frames_of(0, 1, 2, 3, 7), "b": frames_of(4, 5, 8, 9, 6, 10)}
    paths = {"a": straight(4), "b": straight(4)}
    everything = {name: np.ones(4, dtype=bool) for name in queries}
    hits, chance = find_frames(queries, candidates, paths, everything, tolerance=1)
    assert hits.tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    assert np.allclose(chance, np.array([2, 3, 3, 3, 2, 3, 3, 3]) / 11)
    hits, _ = find_frames(queries, candidates, paths, everything, tolerance=2)
    assert hits.tolist() == [1, 1, 1, 1, 1, 1, 1, 0]


def test_pauses_do_not_count_and_equal_frames_share_the_hit():
    queries = {"a": frames_of(0, 1)}
    candidates = {"a": frames_of(0, 1), "b": frames_of(1, 1, 1)}
    active = {"a": np.array([False, True])}
    hits, chance = find_frames(queries, candidates, {"a": straight(2)}, active, tolerance=0)
    assert hits.tolist() == [0.25]
    assert chance.tolist() == pytest.approx([0.2])


def test_all_columns_that_the_path_gives_a_row_are_right():
    queries = {"a": frames_of(0, 1)}
    candidates = {"a": frames_of(5, 6, 0, 1)}
    path = np.array([[0, 0], [0, 1], [0, 2], [1, 3]])
    active = {"a": np.ones(2, dtype=bool)}
    hits, chance = find_frames(queries, candidates, {"a": path}, active, tolerance=0)
    assert hits.tolist() == [1, 1]
    assert chance.tolist() == [0.75, 0.25]


def test_normalising_takes_off_what_a_speaker_adds_to_every_frame(rng):
    clips = {name: rng.standard_normal((20, 8)).astype(np.float32) for name in "ab"}
    other = {name: 3 * frames + 100 for name, frames in clips.items()}
    mine, theirs = normalise(clips), normalise(other)
    for name in clips:
        assert np.abs(mine[name] - theirs[name]).max() < 1e-4
        assert np.allclose(np.linalg.norm(mine[name], axis=1), 1)
        assert np.abs(np.diag(cosine_cost(mine[name], theirs[name]))).max() < 1e-4


def test_pauses_are_told_from_speech_whatever_the_level(rng):
    wav = np.concatenate([np.zeros(SAMPLING_RATE), rng.standard_normal(SAMPLING_RATE)])
    for gain in (1.0, 1e-3):
        active = active_frames((gain * wav).astype(np.float32))
        assert active.shape == (100,)
        assert not active[:49].any()
        assert active[51:].all()


# ------------------------------------------------------------------------------------- measuring


def murmur(rng: np.random.Generator, seconds: float = 1.0) -> np.ndarray:
    """Sound whose spectrum moves: tones of 0.1 s."""
    time = np.arange(round(0.1 * SAMPLING_RATE)) / SAMPLING_RATE
    tones = [np.sin(2 * np.pi * rng.uniform(200, 4000) * time) for _ in range(round(10 * seconds))]
    return (0.3 * np.concatenate(tones)).astype(np.float32)


def test_a_voice_is_found_in_itself_and_noise_finds_nothing_but_by_chance(rng):
    clips = {f"s{i}": murmur(rng, 1.0 + 0.2 * i) for i in range(5)}
    voices = [Voice("a", clips), Voice("b", {n: 0.1 * w for n, w in reversed(clips.items())})]

    def noise(wav: np.ndarray) -> np.ndarray:
        return rng.standard_normal((len(wav) // HOP, 24)).astype(np.float32)

    told: list[str] = []
    (pair,) = measure_content(
        voices,
        {"mel": mel_features, "noise": noise},
        progress=lambda done, total, what: told.append(what),
    )
    mel, blind, chance = pair.scores["mel"], pair.scores["noise"], pair.scores[CHANCE]
    assert (pair.voices, pair.n_sentences, pair.n_candidates) == (("a", "b"), 5, 5)
    assert (mel.top1, mel.top5, mel.reciprocal_rank) == (1, 1, 1)
    assert mel.frames > 0.95
    assert chance.top1 == pytest.approx(0.2)
    assert chance.top5 == 1
    assert chance.reciprocal_rank == pytest.approx(np.mean(1 / np.arange(1, 6)))
    assert 0.01 < chance.frames < 0.06
    assert abs(blind.frames - chance.frames) < 0.04
    assert told[-1] == "a and b"
    assert len(told) == 11


def test_clips_that_only_one_voice_has_are_candidates_but_no_queries(rng):
    a = {name: murmur(rng) for name in ("x", "y", "z")}
    b = {"y": a["y"], "z": a["z"], "w": murmur(rng)}
    (pair,) = measure_content([Voice("a", a), Voice("b", b)], {"mel": mel_features})
    assert (pair.n_sentences, pair.n_candidates) == (2, 3)
    assert pair.scores["mel"].top1 == 1


def test_every_pair_is_compared_and_a_frame_more_or_less_is_no_matter(rng):
    clips = {name: murmur(rng) for name in "xy"}
    voices = [Voice(name, clips) for name in "abc"]
    pairs = measure_content(voices, {"mel": mel_features, "short": lambda w: mel_features(w)[:-1]})
    assert [pair.voices for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert all(pair.scores["short"].frames > 0.95 for pair in pairs)


def test_what_cannot_be_compared_is_said(rng):
    one, other = Voice("a", {"x": murmur(rng)}), Voice("b", {"y": murmur(rng)})
    with pytest.raises(DatasetError, match="two speakers"):
        measure_content([one], {"mel": mel_features})
    with pytest.raises(DatasetError, match="a and b have no sentence in common"):
        measure_content([one, other], {"mel": mel_features})
    with pytest.raises(DatasetError, match="recordings of c hold nothing but silence"):
        measure_content([one, Voice("c", {"x": np.zeros(4000, np.float32)})], {"m": mel_features})
    with pytest.raises(ValueError, match="no feature"):
        measure_content([one, one], {})


def test_a_voice_is_read_from_a_folder_at_any_rate(tmp_path, sine):
    write_audio(tmp_path / "one.wav", sine(300, 0.5), 44100)
    write_audio(tmp_path / "two.wav", sine(300, 0.25, sr=16000), 16000)
    voice = voice_from_folder(tmp_path)
    assert voice.name == tmp_path.name
    assert {name: len(wav) for name, wav in voice.clips.items()} == {"one": 8000, "two": 4000}
    assert list(voice_from_folder(tmp_path, ["two", "absent"]).clips) == ["two"]
    for place, names in ((tmp_path / "nowhere", None), (tmp_path, ["absent"])):
        with pytest.raises(DatasetError, match="one folder per speaker"):
            voice_from_folder(place, names)


def test_whisper_units_say_what_is_said_whoever_says_it(shared):
    """Two women and a man; the whole table is made by scripts/bench/content.py."""
    from svc.speech import build_speech_encoder

    folder = shared / "audio" / "speech"
    voices = [voice_from_folder(folder / f"vcc16_{v}", SENTENCES) for v in ("sf1", "sm1", "tf2")]
    assert all(len(voice.clips) == len(SENTENCES) for voice in voices)
    units = encoder_features(build_speech_encoder("whisper-ppg-tiny"))
    pairs = measure_content(voices, {"units": units, **BASELINES})
    assert len(pairs) == 3
    for pair in pairs:
        scores = pair.scores
        units_score, wide_mel = scores["units"], scores["log-mel, 0.8 s"]
        assert units_score.top1 == 1, pair
        assert units_score.frames > 0.85, pair
        assert units_score.frames > 50 * scores[CHANCE].frames, pair
        assert units_score.frames > 5 * scores["log-mel"].frames, pair
        assert units_score.frames > wide_mel.frames + 0.1, pair
        assert scores["time alone"].frames < 0.15, pair


def test_whisper_units_hold_when_clips_begin_elsewhere(shared):
    """Without what the encoder knows of the place in its input, units still beat mels by far."""
    from svc.speech import build_speech_encoder

    folder = shared / "audio" / "speech"
    voices = [voice_from_folder(folder / f"vcc16_{v}", SENTENCES[:3]) for v in ("sm1", "tf2")]
    units = moved(encoder_features(build_speech_encoder("whisper-ppg-tiny")))
    (pair,) = measure_content(voices, {"units": units, "log-mel": mel_features})
    assert pair.scores["units"].top1 == 1
    assert pair.scores["units"].frames > 4 * pair.scores["log-mel"].frames
    assert pair.scores["units"].frames > 20 * pair.scores[CHANCE].frames
