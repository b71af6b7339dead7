"""One pitch out of several opinions: octaves, jumps in time, medians."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from svc.f0.consensus import agree

Array = npt.NDArray[np.float64]
NOTE = 1200 * np.log2(220.0)  # cents
LOW, HIGH = 1200 * np.log2(50.0), 1200 * np.log2(1100.0)


def find(opinions: Array, certainty: Array | float = 0.8) -> Array:
    sure = np.broadcast_to(certainty, opinions.shape) * np.isfinite(opinions)
    frame = 512 / 44100
    return agree(opinions, sure, frame_seconds=frame, low=LOW, high=HIGH).cents


def test_the_median_of_those_that_agree() -> None:
    opinions = NOTE + np.array([[0.0, 10.0], [4.0, -40.0], [-10.0, 0.0]])
    np.testing.assert_allclose(find(opinions), NOTE + np.array([0.0, 0.0]))
    # The third names a fifth above: it is left out, not averaged in.
    opinions = NOTE + np.array([[0.0], [6.0], [700.0]])
    np.testing.assert_allclose(find(opinions), NOTE + 3)


@pytest.mark.parametrize("octaves", [-2, -1, 1])
def test_an_opinion_an_octave_off_is_moved_and_still_counts(octaves: int) -> None:
    opinions = NOTE + np.array([[0.0], [6.0], [20.0 + 1200 * octaves]])
    np.testing.assert_allclose(find(opinions), NOTE + 6)
    found = agree(opinions, np.full((3, 1), 0.8), frame_seconds=0.01, low=LOW, high=HIGH)
    np.testing.assert_array_equal(found.agreement, [[1], [1], [0.5]])


def test_of_two_the_surer_one_decides_the_octave() -> None:
    opinions = NOTE + np.array([[0.0] * 5, [1200.0] * 5])
    certainty = np.array([[0.9], [0.6]])
    np.testing.assert_allclose(find(opinions, certainty), NOTE)
    np.testing.assert_allclose(find(opinions, certainty[::-1]), NOTE + 1200)


@pytest.mark.parametrize("frames", [1, 2, 4])
@pytest.mark.parametrize("octave", [-1200.0, 1200.0])
def test_a_jump_of_a_few_frames_between_sure_ones_is_repaired(frames: int, octave: float) -> None:
    """All three err at once, but not surely, in the midst of a note."""
    opinions = np.full((3, 60), NOTE)
    certainty = np.full((3, 60), 0.9)
    wrong = slice(30, 30 + frames)
    opinions[:, wrong] += octave
    certainty[:, wrong] = 0.3
    np.testing.assert_allclose(find(opinions, certainty), NOTE)


@pytest.mark.parametrize("certainty", [0.3, 0.9])
def test_a_leap_that_lasts_is_kept(certainty: float) -> None:
    """A tenth of a second in another octave is a note, to the frame."""
    opinions = np.full((3, 60), NOTE)
    opinions[:, 30:39] += 1200
    np.testing.assert_allclose(find(opinions, certainty), opinions[0])
    opinions[:, 30:] = NOTE - 1200
    np.testing.assert_allclose(find(opinions, certainty), opinions[0])


def test_one_that_errs_for_long_changes_nothing() -> None:
    opinions = np.full((3, 200), NOTE)
    opinions[0, 50:150] -= 1200
    opinions[1, 120:180] += 1200
    np.testing.assert_allclose(find(opinions), NOTE)


def test_after_a_rest_the_voice_may_begin_anywhere() -> None:
    """A short unsure note after a pause is taken as it is; without a pause it is a blip."""
    opinions = np.full((2, 60), NOTE)
    certainty = np.full((2, 60), 0.9)
    opinions[:, 40:43] += 1200
    certainty[:, 40:43] = 0.3
    np.testing.assert_allclose(find(opinions, certainty), NOTE)
    opinions[:, 20:40] = np.nan
    opinions[:, 43:] = np.nan
    found = find(opinions, certainty)
    np.testing.assert_allclose(found[:20], NOTE)
    np.testing.assert_allclose(found[40:43], NOTE + 1200)
    assert np.isnan(found[20:40]).all()
    assert np.isnan(found[43:]).all()


def test_glides_are_no_jumps() -> None:
    """An octave in 0.12 s, each opinion a little late: the path keeps to them."""
    glide = NOTE + np.interp(np.arange(60), [20, 30], [0, 1200])
    opinions = np.stack([glide, np.roll(glide, 1), glide])
    np.testing.assert_allclose(find(opinions)[1:], glide[1:])


def test_nothing_is_moved_out_of_the_range() -> None:
    """Two octaves below the range is no candidate, whoever is surer there."""
    opinions = np.array([[LOW + 100.0] * 8, [LOW + 1300.0] * 8])
    assert np.all(find(opinions, np.array([[0.9], [0.5]])) >= LOW)
    high = np.array([[HIGH - 50.0] * 8, [HIGH - 1250.0] * 8])
    assert np.all(find(high, np.array([[0.5], [0.9]])) <= HIGH)


@pytest.mark.parametrize("shape", [(2, 0), (3, 5)])
def test_without_any_voice(shape: tuple[int, int]) -> None:
    found = agree(np.zeros(shape), np.zeros(shape), frame_seconds=0.01, low=LOW, high=HIGH)
    assert found.cents.shape == (shape[1],)
    assert np.isnan(found.cents).all()
    np.testing.assert_array_equal(found.agreement, np.zeros(shape))
