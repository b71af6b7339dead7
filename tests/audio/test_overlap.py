"""Fades and cross-fades."""

from __future__ import annotations

import numpy as np
import pytest

from svc.audio.overlap import crossfade, crossfade_append, smooth_ramp


@pytest.mark.parametrize("n", [0, 1, 2, 101])
def test_ramp_rises_and_mirrors_to_one(n: int) -> None:
    ramp = smooth_ramp(n)
    assert ramp.shape == (n,)
    assert (np.diff(ramp) > 0).all()
    np.testing.assert_allclose(ramp + ramp[::-1], 1.0, atol=1e-6)


def test_equal_signals_pass_a_crossfade_unchanged(rng: np.random.Generator) -> None:
    wav = rng.standard_normal(441).astype(np.float32)
    np.testing.assert_allclose(crossfade(wav, wav), wav, atol=1e-6)


def test_unrelated_signals_keep_their_power(rng: np.random.Generator) -> None:
    n = 200_000
    tail, head = rng.standard_normal((2, n)).astype(np.float32)
    mixed = crossfade(tail, head)
    for part in np.array_split(mixed, 8):
        assert np.sqrt(np.mean(part**2)) == pytest.approx(1.0, abs=0.03)


def test_a_crossfade_runs_from_one_to_the_other() -> None:
    mixed = crossfade(np.full(1000, 1.0, np.float32), np.full(1000, 3.0, np.float32))
    assert mixed[0] == pytest.approx(1.0, abs=2e-3)
    assert mixed[-1] == pytest.approx(3.0, abs=2e-3)
    assert np.all(np.diff(mixed) > 0)


@pytest.mark.parametrize("value", [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (1.0, -1.0)])
def test_silence_and_opposite_signals_stay_finite(value: tuple[float, float]) -> None:
    mixed = crossfade(*(np.full(100, x, np.float32) for x in value))
    assert np.isfinite(mixed).all()
    assert np.abs(mixed).max() <= 1.0


def test_no_overlap_is_no_sample() -> None:
    empty = np.zeros(0, np.float32)
    assert crossfade(empty, empty).shape == (0,)
    assert smooth_ramp(0).shape == (0,)


def test_append_of_matching_audio_is_seamless(rng: np.random.Generator) -> None:
    wav = rng.standard_normal(1000)
    for overlap in (0, 1, 2, 200):
        joined = crossfade_append(wav[:600], wav[600 - overlap :], overlap)
        np.testing.assert_allclose(joined, wav, atol=1e-12)


def test_append_uses_the_original_linear_gains() -> None:
    joined = crossfade_append(np.zeros(6, np.float32), np.ones(5), 4)
    assert joined.dtype == np.float32
    np.testing.assert_allclose(joined, [0, 0, 0, 1 / 3, 2 / 3, 1, 1], atol=1e-7)


def test_append_bounds_the_overlap() -> None:
    assert len(crossfade_append(np.ones(3), np.ones(10), 50)) == 10
    assert len(crossfade_append(np.zeros(0), np.ones(10), 5)) == 10
    assert len(crossfade_append(np.ones(10), np.zeros(0), 5)) == 10
    assert len(crossfade_append(np.ones(10), np.ones(10), -3)) == 20
