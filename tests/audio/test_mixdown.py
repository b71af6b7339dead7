from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from svc.audio.mixdown import (
    Mixdown,
    balance,
    db_to_factor,
    fit_length,
    gated_loudness,
    in_channels,
    matching_gain_db,
    mix_down,
)

SR = 48000
Sine = Callable[..., np.ndarray]


def test_the_sum_is_exact() -> None:
    # Numbers that float32 adds without rounding.
    long = np.array([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]], dtype=np.float32) / 16
    short = np.array([[1, 1, 1], [2, 2, 2]], dtype=np.float32) / 16
    want = np.array([[2, 3, 4, 4, 5], [7, 6, 5, 2, 1]], dtype=np.float32) / 16
    for stems in ([long, short], [short, long]):
        assert np.array_equal(mix_down(stems), want)
    assert np.array_equal(short, np.array([[1, 1, 1], [2, 2, 2]]) / 16)  # left as it was


def test_a_stem_of_other_channels_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"\(2, T\)"):
        Mixdown(2).add(np.zeros((1, 4), dtype=np.float32))
    with pytest.raises(ValueError, match=r"\(2, T\)"):
        in_channels(np.zeros((3, 4), dtype=np.float32), 2)


def test_mono_goes_into_both_channels_unchanged() -> None:
    wav = np.arange(4, dtype=np.float32)[None]
    assert np.array_equal(in_channels(wav, 2), np.concatenate((wav, wav)))
    assert np.array_equal(in_channels(wav, 1), wav)


def test_balance() -> None:
    assert balance(0) == (1, 1)
    assert balance(-1) == (1, 0)
    assert balance(0.25) == (0.75, 1)
    with pytest.raises(ValueError, match="-1 to 1"):
        balance(1.5)


def test_fit_length() -> None:
    wav = np.ones((2, 3), dtype=np.float32)
    assert fit_length(wav, 5).tolist() == [[1, 1, 1, 0, 0]] * 2
    assert fit_length(wav, 2).tolist() == [[1, 1]] * 2


def test_loudness_of_the_reference_tone(sine: Sine) -> None:
    # ITU-R BS.1770-4, annex 1: a 997 Hz sine at 0 dBFS in one front channel reads -3.01 LKFS;
    # EBU Tech 3341 allows 0.1.
    assert gated_loudness(sine(997, 2, SR, 1.0)[None], SR) == pytest.approx(-3.01, abs=0.1)


def test_pauses_do_not_count(sine: Sine) -> None:
    tone = sine(300, 4, SR)[None]
    paused = np.concatenate((tone, np.zeros_like(tone)), axis=1)
    assert gated_loudness(paused, SR) == pytest.approx(gated_loudness(tone, SR), abs=0.2)


@pytest.mark.parametrize("seconds", [0.1, 3.0])
def test_a_match_is_as_loud(sine: Sine, seconds: float) -> None:
    old, new = sine(300, seconds, SR, 0.2)[None], sine(800, seconds, SR, 0.7)[None]
    gain = matching_gain_db(new, old, SR)
    matched = new * np.float32(db_to_factor(gain))
    assert gated_loudness(matched, SR) == pytest.approx(gated_loudness(old, SR), abs=0.05)
    assert gain < -8


def test_silence_is_not_turned_up(sine: Sine) -> None:
    tone, nothing = sine(300, 1, SR)[None], np.zeros((1, SR), dtype=np.float32)
    assert gated_loudness(nothing, SR) == -np.inf
    assert gated_loudness(np.zeros((1, 0), dtype=np.float32), SR) == -np.inf
    assert gated_loudness(1e-5 * tone, SR) == -np.inf  # below the gate
    assert matching_gain_db(nothing, tone, SR) == 0
    assert matching_gain_db(tone, nothing, SR) == 0
