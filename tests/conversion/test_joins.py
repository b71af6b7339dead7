"""Joins that nobody hears: levels and clicks where stretches meet, against what is beside them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svc.audio.io import read_audio
from svc.audio.resample import resample
from svc.conversion import Converter, InferOptions
from svc.conversion.chunks import Piece, plan_pieces
from svc.conversion.sources import ArraySource
from svc.conversion.survey import survey_song

SR = 44100
FRAME = round(0.005 * SR)  # 5 ms
NEAR = round(0.4 * SR)  # what counts as the surroundings of a join, on both sides

FORCED = [
    InferOptions(clip_seconds=1.3),
    InferOptions(clip_seconds=1.3, crossfade_seconds=0.1),
    InferOptions(clip_seconds=1.3, crossfade_seconds=0.5, crossfade_retain=1.0),
    InferOptions(max_chunk_seconds=1.5),
]
SINGING = "audio/singing/gts_en_tenor_1/EN_Tenor_1_Breathy_Control.flac"


def joins_of(wav: np.ndarray, options: InferOptions) -> list[tuple[int, int]]:
    """First and last sample of every cross-fade of a song at the model's rate."""
    segments = survey_song(ArraySource(wav, SR), options.slice_db).segments
    pieces = list(plan_pieces(segments, lambda a, b: wav[a:b], len(wav), SR, SR, options))
    return [(after.start, before.end) for before, after in joined(pieces)]


def joined(pieces: list[Piece]) -> list[tuple[Piece, Piece]]:
    return [(a, b) for a, b in itertools.pairwise(pieces) if a.joins_next]


def levels(wav: np.ndarray, *, edges: bool) -> np.ndarray:
    """dB of every 5 ms: of the signal, or of its second difference, in which clicks stand out."""
    signal = np.diff(wav.astype(np.float64), 2) if edges else wav.astype(np.float64)
    n = len(signal) // FRAME
    power = np.square(signal[: n * FRAME]).reshape(n, FRAME).mean(axis=1)
    return np.asarray(10 * np.log10(np.maximum(power, 1e-20)))


def excess(wav: np.ndarray, joins: list[tuple[int, int]], *, edges: bool) -> float:
    """By how many dB the loudest 5 ms of any join exceed the loudest of its surroundings."""
    found = levels(wav, edges=edges)
    worst = -np.inf
    for start, end in joins:
        inside = slice(max(0, start // FRAME - 1), end // FRAME + 2)
        before = found[max(0, (start - NEAR) // FRAME) : inside.start]
        after = found[inside.stop : (end + NEAR) // FRAME]
        worst = max(worst, found[inside].max() - np.concatenate([before, after]).max())
    return float(worst)


@pytest.fixture(scope="module")
def singing(shared: Path) -> np.ndarray:
    wav, sr = read_audio(shared / SINGING)
    return resample(wav, sr, SR)


def phase_of_chance(window: np.ndarray, call: int) -> np.ndarray:
    """A tone that starts anew in every window, as loud everywhere."""
    phase = np.random.default_rng(call).random()
    return 0.3 * np.sin(2 * np.pi * (220 * np.arange(len(window)) / SR + phase))


def noise_of_chance(window: np.ndarray, call: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(call).standard_normal(len(window))


@pytest.mark.parametrize("options", FORCED)
def test_tones_and_noise_that_start_anew(echo: Any, options: InferOptions) -> None:
    """The worst a net can do. No 5 ms of a join are more than 1.5 dB above what is beside it; noise
    has 0.9 dB of its own chance in 5 ms. Nor do clicks stand out.
    """
    wav = np.full(12 * SR, 0.5, np.float32)
    joins = joins_of(wav, options)
    assert len(joins) >= 7
    tone = Converter(echo(phase_of_chance)).convert(wav, SR, 0, options)
    assert excess(tone, joins, edges=False) < 1.5
    noise = Converter(echo(noise_of_chance)).convert(wav, SR, 0, options)
    assert excess(noise, joins, edges=False) < 1.5
    assert excess(noise, joins, edges=True) < 1.5
    # A hole would be heard as well: noise that is unrelated keeps its level in the middle of a join.
    middle = [noise[a:b] for a, b in joins]
    level = float(np.sqrt(np.mean(np.square(np.concatenate(middle)))))
    assert abs(20 * np.log10(level / 0.1)) < 1.0


@pytest.mark.parametrize("options", FORCED)
def test_real_singing_that_is_only_passed_on(
    echo: Any, singing: np.ndarray, options: InferOptions
) -> None:
    """Here the truth is known: the joins add nothing, to the last bits of a float."""
    joins = joins_of(singing, options)
    assert len(joins) >= 5
    made = Converter(echo()).convert(singing, SR, 0, options)
    for start, end in joins:
        np.testing.assert_allclose(made[start:end], singing[start:end], atol=1e-6)


@pytest.mark.parametrize("options", FORCED)
def test_real_singing_by_windows_of_other_level(
    echo: Any, singing: np.ndarray, options: InferOptions
) -> None:
    """Every window comes back up to 3 dB louder or softer, and up to 0.3 ms late: against the same
    places of the song as it is, a join has at most 3 dB of its own, and no click.
    """

    def change(window: np.ndarray, call: int) -> np.ndarray:
        rng = np.random.default_rng(call)
        return np.roll(window, int(rng.integers(0, 14))) * 10 ** (rng.uniform(-3, 3) / 20)

    joins = joins_of(singing, options)
    made = Converter(echo(change)).convert(singing, SR, 0, options)
    for edges in (False, True):
        was, now = levels(singing, edges=edges), levels(made, edges=edges)
        for start, end in joins:
            at = slice(max(0, start // FRAME - 1), end // FRAME + 2)
            sounding = was[at] > was.max() - 50
            assert (now[at] - was[at])[sounding].max(initial=-99) < 3.5


@pytest.mark.parametrize("options", FORCED[1:])
def test_a_net_through_every_kind_of_cut(
    make_converter: Callable[..., Converter], singing: np.ndarray, options: InferOptions
) -> None:
    """A small net on real singing: 5 ms of a join exceed the loudest beside it by at most 1 dB."""
    wav = singing[2 * SR : 6 * SR]
    joins = joins_of(wav, options)
    assert len(joins) >= 2
    made = make_converter().convert(wav, SR, 0, options)
    assert made.shape == wav.shape
    assert excess(made, joins, edges=False) < 1.0
    assert excess(made, joins, edges=True) < 1.0


def test_slicer_cuts_of_real_singing(
    make_converter: Callable[..., Converter], singing: np.ndarray
) -> None:
    """Phrases with a pause of half a second: cut by the slicer, joined by 10 ms."""
    quiet = (0.0005 * np.random.default_rng(0).standard_normal(SR // 2)).astype(np.float32)
    wav = np.concatenate([singing[2 * SR : 7 * SR], quiet, singing[3 * SR : 4 * SR]])
    joins = joins_of(wav, InferOptions())
    assert len(joins) == 1
    made = make_converter().convert(wav, SR, 0)
    assert excess(made, joins, edges=False) < 1.0
    assert excess(made, joins, edges=True) < 1.0


# ------------------------------------------------------------------------------ length, silence


@pytest.mark.parametrize("sr", [8000, 22050, 44100, 48000, 96000])
def test_the_length_is_kept_to_the_sample(echo: Any, rng: np.random.Generator, sr: int) -> None:
    for _ in range(5):
        wav = (0.2 * rng.standard_normal(int(rng.integers(1, 3 * sr)))).astype(np.float32)
        made = Converter(echo(noise_of_chance)).convert(wav, sr, 0, FORCED[1])
        assert made.shape == (-(-len(wav) * SR // sr),)


@pytest.mark.parametrize(("sr", "seconds"), [(44100, 0.5), (48000, 12.0), (8000, 2.0)])
@pytest.mark.parametrize("options", [InferOptions(), FORCED[1], InferOptions(slice_db=-79)])
def test_silence_stays_silent_however_loudly_the_model_whispers(
    echo: Any, song: Any, sr: int, seconds: float, options: InferOptions
) -> None:
    """Pauses that the slicer leaves to their phrases too: exact zeros, but for 20 ms at each side."""
    wav = song([(0.7, 0.4), (seconds, 0.0), (0.6, 0.4)], sr)
    dither = np.random.default_rng(0).uniform(-1, 1, len(wav)) / 32768
    for source in (wav, (wav + dither).astype(np.float32)):
        made = Converter(echo(noise_of_chance)).convert(source, sr, 0, options)
        # 8 kHz ring a little longer beside the edges of the tone.
        reach = 0.021 if sr > 8000 else 0.03
        pause = made[round((0.7 + reach) * SR) : round((0.7 + seconds - reach) * SR)]
        assert not pause.any()
        for part in (made[: round(0.69 * SR)], made[round((0.71 + seconds) * SR) :]):
            assert 0.08 < float(np.sqrt(np.mean(np.square(part)))) < 0.12


def test_a_net_in_silence(make_converter: Callable[..., Converter], song: Any) -> None:
    wav = song([(0.3, 0.4), (0.5, 0.0), (0.3, 0.4)])
    made = make_converter().convert(wav, SR, 0)
    assert not made[round(0.33 * SR) : round(0.77 * SR)].any()
    assert made[: round(0.3 * SR)].any()
