"""How long stretches are by default, and that silence is silent however little of it they hold."""

from __future__ import annotations

import types
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from svc.audio.resample import resampled_length
from svc.audio.slicer import Segment
from svc.conversion import Converter, InferOptions
from svc.conversion.chunks import plan_pieces
from svc.conversion.stretches import usual_chunk_seconds

SR = 44100


@pytest.mark.parametrize(("model_sr", "hop"), [(44100, 512), (48000, 512), (32000, 320)])
@pytest.mark.parametrize("sr", [8000, 44100, 48000])
@pytest.mark.parametrize("pad", [0.0, 0.37, 0.5])
def test_no_window_is_longer_than_the_encoder_is_at_home_with(
    model_sr: int, hop: int, sr: int, pad: float
) -> None:
    """It may hold a graph that refuses one sample more."""
    voice: Any = types.SimpleNamespace(usual_seconds=30.0, hop_length=hop, sampling_rate=model_sr)
    options = InferOptions(pad_seconds=pad)
    options = replace(options, max_chunk_seconds=usual_chunk_seconds(voice, options))
    noise = np.random.default_rng(0).standard_normal(62 * model_sr).astype(np.float32)
    seconds = np.concatenate([np.arange(28.5, 30.5, 0.001), [57.0, 57.9, 58.0, 59.0]])
    longest = 0
    for n in np.rint(seconds * sr).astype(int):
        before = int(n) % 997
        n_samples = resampled_length(before + int(n), sr, model_sr)
        segments = [Segment(0, before, True), Segment(before, before + int(n), False)]
        for piece in plan_pieces(
            segments, lambda a, b: noise[a:b], n_samples, sr, model_sr, options
        ):
            longest = max(longest, piece.window(round(pad * model_sr), hop)[1])
    assert 28.5 * model_sr < longest <= 30 * model_sr


def test_the_longest_stretch_without_a_cut(echo: Any) -> None:
    """29 s of sound are one stretch and half a second of context at both sides."""
    rng = np.random.default_rng(0)
    for n in range(round(28.9 * SR), round(29.05 * SR), 97):
        voice = echo()
        wav = (0.1 * rng.standard_normal(n)).astype(np.float32)
        Converter(voice).convert(wav, SR, 0)
        assert max(voice.windows) <= 30 * SR


@pytest.mark.parametrize("pad", [0.0, 0.001, 0.01, 0.05, 0.09, 0.1, 0.2, 0.5])
@pytest.mark.parametrize("seconds", [0.3, 2.0, 14.0])
def test_silence_is_silent_with_any_context(
    echo: Any, song: Any, pad: float, seconds: float
) -> None:
    wav = song([(6.0, 0.4), (seconds, 0.0), (6.0, 0.4)])
    rng = np.random.default_rng(1)

    def hiss(window: np.ndarray, call: int) -> np.ndarray:
        return 0.1 * rng.standard_normal(window.size).astype(np.float32)

    options = InferOptions(pad_seconds=pad)
    made = Converter(echo(hiss)).convert(wav, SR, 0, options)
    pause = made[round(6.021 * SR) : round((6.0 + seconds - 0.021) * SR)]
    assert not pause.any()
    assert np.abs(made[: 6 * SR].reshape(-1, 441)).max(axis=1).min() > 0.05


def test_pauses_of_a_consonant_are_sung_with_any_context(echo: Any, song: Any) -> None:
    wav = song([(0.7, 0.4), (0.09, 0.0), (0.6, 0.4)])
    for pad in (0.0, 0.05, 0.5):
        made = Converter(echo(lambda window, call: window + 0.1)).convert(
            wav, SR, 0, InferOptions(pad_seconds=pad)
        )
        assert np.abs(made[round(0.7 * SR) : round(0.79 * SR)] - 0.1).max() < 0.05
