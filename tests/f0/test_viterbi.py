"""Viterbi in a band against the textbook's version over all pairs of bins."""

from __future__ import annotations

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest

from svc.f0 import viterbi as module
from svc.f0.viterbi import Transitions, triangular_transitions, viterbi

Array = npt.NDArray[np.float64]
TINY = float(np.finfo(np.float32).tiny)


def plain_transitions(n_bins: int, width: int, leap: float, closed: bool) -> Array:
    """log P(i -> j) as a full matrix."""
    bins = np.arange(n_bins)
    weight = np.maximum(width - np.abs(bins[:, None] - bins), 0).astype(float)
    total = weight.sum(axis=1, keepdims=True) if closed else float(width**2)
    with np.errstate(divide="ignore"):
        log = np.log(weight / total)
    return np.where(weight > 0, log, leap)


def plain_viterbi(scores: Array, log_transitions: Array) -> npt.NDArray[np.int64]:
    value = scores[0].astype(float) - np.log(scores.shape[1])
    origins = []
    for score in scores[1:]:
        steps = value[:, None] + log_transitions
        origins.append(steps.argmax(axis=0))
        value = score + steps.max(axis=0)
    path = [int(value.argmax())]
    for origin in reversed(origins):
        path.append(int(origin[path[-1]]))
    return np.array(path[::-1])


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("leap", [-np.inf, np.log(TINY), -6.0])
@pytest.mark.parametrize(("n_bins", "width"), [(360, 12), (40, 12), (7, 12), (5, 1), (1, 12)])
def test_equal_to_the_plain_algorithm(
    rng: np.random.Generator, n_bins: int, width: int, leap: float, closed: bool
) -> None:
    transitions = triangular_transitions(n_bins, width=width, leap=leap, closed=closed)
    matrix = plain_transitions(n_bins, width, leap, closed)
    for n_frames, strength in ((1, 1.0), (2, 5.0), (60, 1.0), (60, 30.0), (200, 8.0)):
        scores = strength * rng.random((n_frames, n_bins))
        np.testing.assert_array_equal(
            viterbi([scores], transitions)[0], plain_viterbi(scores, matrix)
        )


def test_equal_to_the_plain_algorithm_with_forbidden_bins(rng: np.random.Generator) -> None:
    """As in compat mode: float32 log-probabilities with a range cut out."""
    scores = rng.random((80, 360)).astype(np.float32)
    scores[:, :39] = scores[:, 308:] = np.log(TINY)
    scores[30:50, 100:] = -np.inf
    transitions = triangular_transitions(360, leap=float(np.log(TINY)))
    matrix = plain_transitions(360, 12, float(np.log(TINY)), True)
    path = viterbi([scores], transitions)[0]
    np.testing.assert_array_equal(path, plain_viterbi(scores.astype(float), matrix))
    assert path[30:50].max() < 100


@pytest.mark.parametrize("n_bins", [3, 11, 12, 13, 50])
def test_what_leaves_a_bin_adds_up_to_one(n_bins: int) -> None:
    band = triangular_transitions(n_bins).band
    reach = len(band) // 2
    leaving = np.zeros(n_bins)
    for row, offset in enumerate(range(-reach, reach + 1)):
        for target in range(n_bins):
            if 0 <= target + offset < n_bins:
                leaving[target + offset] += np.exp(band[row, target])
            else:
                assert band[row, target] == -np.inf
    np.testing.assert_allclose(leaving, 1, rtol=1e-12)


def test_a_leap_is_taken_only_where_it_pays() -> None:
    """Twenty frames on bin 10, then bin 60: beyond the reach of one step."""
    scores = np.zeros((40, 80))
    scores[:20, 10] = scores[20:, 60] = 2.0
    free = viterbi([scores], triangular_transitions(80, leap=-8.0))[0]
    np.testing.assert_array_equal(free, np.repeat([10, 60], 20))
    bound = viterbi([scores], triangular_transitions(80))[0]
    assert np.abs(np.diff(bound)).max() <= 11
    assert bound[0] == 10
    assert bound[-1] == 60
    brief = np.zeros((40, 80))
    brief[:, 10] = 2.0
    brief[20:22, 10], brief[20:22, 70] = 0.0, 2.0  # two frames are not worth two leaps
    np.testing.assert_array_equal(viterbi([brief], triangular_transitions(80, leap=-8.0))[0], 10)


def test_clips_of_any_length_together(rng: np.random.Generator) -> None:
    clips = [rng.random((n, 50)).astype(np.float32) * 9 for n in (0, 3, 100, 57, 1, 100)]
    transitions = triangular_transitions(50, leap=-6.0)
    together = viterbi(clips, transitions)
    for clip, path in zip(clips, together):
        assert len(path) == len(clip)
        np.testing.assert_array_equal(path, viterbi([clip], transitions)[0])
    assert viterbi([], transitions) == []
    assert [len(path) for path in viterbi([clips[0]], transitions)] == [0]


@pytest.mark.parametrize("frames_per_block", [1, 2, 7, 99, 100])
def test_blocks_change_nothing(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, frames_per_block: int
) -> None:
    clips = [rng.random((n, 30)) * 9 for n in (100, 41)]
    transitions = triangular_transitions(30, leap=-6.0)
    whole = viterbi(clips, transitions)
    monkeypatch.setattr(module, "_BLOCK_BYTES", frames_per_block * 8 * 30 * len(clips))
    for path, expected in zip(viterbi(clips, transitions), whole):
        np.testing.assert_array_equal(path, expected)


def test_memory_is_bounded(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """4000 frames of 360 bins are 11.5 MB of path scores; half a megabyte of them is kept."""
    monkeypatch.setattr(module, "_BLOCK_BYTES", 500_000)
    scores = rng.random((4000, 360)).astype(np.float32)
    transitions = triangular_transitions(360)
    tracemalloc.start()
    try:
        viterbi([scores], transitions)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_500_000


def test_reach() -> None:
    assert triangular_transitions(360).reach == 11
    assert triangular_transitions(5).reach == 4
    assert Transitions(np.zeros((1, 4))).reach == 0
