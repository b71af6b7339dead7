from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from svc.audio.io import write_audio
from svc.demo.singer import DEMO_HIGH, DEMO_LOW, SAMPLING_RATE, sing_contour
from svc.errors import AudioError, ConfigError
from svc.evaluation.figures import analyse, compare, level_figures, pitch_figures

SECONDS = 2.4


def contour(semitones: float = 0.0) -> np.ndarray:
    """A tune with a rest in the middle."""
    time = np.arange(round(SECONDS * SAMPLING_RATE)) / SAMPLING_RATE
    f0 = 250.0 * 2 ** ((3 * np.sin(2 * np.pi * 0.5 * time) + semitones) / 12)
    return np.where((time > 0.1) & (time < 2.3) & ((time < 1.0) | (time > 1.5)), f0, 0.0)


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same tune by both singers, and relatives of it."""
    folder = tmp_path_factory.mktemp("songs")
    rng = np.random.default_rng(0)
    high = sing_contour(contour(), voice=DEMO_HIGH, rng=rng).wav
    waves = {
        "high": high,
        "low": sing_contour(contour(-12), voice=DEMO_LOW, rng=rng).wav,
        "quiet": 0.25 * high,
        "noise": 0.1 * rng.standard_normal(len(high)).astype(np.float32),
        "silence": np.zeros_like(high),
    }
    return {
        name: _written(folder / f"{name}.wav", wav) for name, wav in waves.items()
    }  # one file each


def _written(path: Path, wav: np.ndarray) -> Path:
    write_audio(path, wav, SAMPLING_RATE, subtype="FLOAT")
    return path


def test_a_song_agrees_with_itself(songs):
    figures = compare(songs["high"], songs["high"])
    assert figures.f0_median_cents == figures.f0_p95_cents == figures.f0_gross_percent == 0
    assert figures.voiced_right_percent == 100
    assert figures.loudness_error_db == figures.gain_db == 0
    assert figures.distance_to_source == 0
    assert figures.distance_to_target is None
    assert figures.source_seconds == figures.output_seconds == pytest.approx(SECONDS)


def test_a_perfect_conversion_is_close_to_the_target_and_far_from_the_source(songs):
    figures = compare(songs["high"], songs["low"], target_clips=[songs["low"]], transpose=-12)
    assert figures.f0_median_cents is not None
    assert figures.f0_median_cents < 8
    assert figures.f0_octave_percent == 0
    assert figures.voiced_right_percent > 95
    assert figures.loudness_error_db is not None
    assert figures.loudness_error_db < 2
    assert figures.distance_to_target == 0
    assert figures.distance_to_source is not None
    assert figures.distance_before is not None
    assert min(figures.distance_to_source, figures.distance_before) > 1


def test_a_forgotten_transposition_shows_as_octave_jumps(songs):
    figures = compare(songs["high"], songs["low"])
    assert figures.f0_octave_percent is not None
    assert figures.f0_octave_percent > 90
    assert figures.f0_median_cents == pytest.approx(1200, abs=20)


def test_gain_is_told_apart_from_loudness_error(songs):
    figures = compare(songs["high"], songs["quiet"])
    assert figures.gain_db == pytest.approx(-12.04, abs=0.05)
    assert figures.loudness_error_db == pytest.approx(0, abs=0.05)
    full = compare(songs["high"], songs["high"])
    assert full.lufs is not None
    assert figures.lufs == pytest.approx(full.lufs - 12.04, abs=0.05)
    assert figures.peak_dbfs == pytest.approx(full.peak_dbfs - 12.04, abs=0.01)


def test_noise_in_silence_is_reported(songs):
    assert (compare(songs["high"], songs["high"]).silence_dbfs or 0) < -70
    assert compare(songs["high"], songs["noise"]).silence_dbfs == pytest.approx(-20, abs=0.5)


@pytest.mark.parametrize("name", ["noise", "silence"])
def test_an_output_without_voice_gives_none_not_a_crash(songs, name):
    figures = compare(songs["high"], songs[name], target_clips=[songs["high"]])
    assert figures.distance_to_target is None
    assert figures.distance_to_source is None
    assert figures.distance_before == 0
    assert figures.voiced_right_percent < 60
    assert json.loads(json.dumps(figures.as_dict(), allow_nan=False))["summary"] == figures.summary


def test_a_silent_source_gives_none_not_a_crash(songs):
    figures = compare(songs["silence"], songs["high"])
    assert figures.f0_median_cents is figures.loudness_error_db is figures.gain_db is None
    assert "no frame voiced in both" in figures.summary


def test_the_summary_is_one_line_with_the_figures(songs):
    figures = compare(songs["high"], songs["low"], target_clips=[songs["low"]], transpose=-12)
    assert "\n" not in figures.summary
    for part in ("cents", "voiced frames right", "loudness error", "target voice", "source voice"):
        assert part in figures.summary


def test_lengths_and_rates_may_differ(songs, tmp_path):
    wav = sing_contour(contour(), voice=DEMO_HIGH, rng=np.random.default_rng(0)).wav
    shorter = tmp_path / "shorter.flac"
    write_audio(shorter, wav[: SAMPLING_RATE * 2 : 2], SAMPLING_RATE // 2)
    comparison = analyse(songs["high"], shorter)
    assert comparison.figures.output_seconds == pytest.approx(2.0)
    assert comparison.figures.f0_median_cents is not None
    assert comparison.figures.f0_median_cents < 3
    assert len(comparison.source.f0) == round(SECONDS * SAMPLING_RATE) // 512
    assert len(comparison.source.f0) == len(comparison.source.level_db)


def test_trouble_is_named(songs, tmp_path):
    with pytest.raises(ConfigError, match="transpose"):
        compare(songs["high"], songs["high"], transpose=100)
    with pytest.raises(ConfigError, match="predictor"):
        compare(songs["high"], songs["high"], f0_predictor="praat")
    short = _written(tmp_path / "short.wav", np.zeros(100, np.float32))
    with pytest.raises(AudioError, match=r"short\.wav"):
        compare(short, songs["high"])
    with pytest.raises(AudioError, match="voiced sound"):
        compare(songs["high"], songs["high"], target_clips=[songs["noise"]])


def test_pitch_figures_count_what_they_say():
    wanted = np.array([100.0] * 10 + [0.0] * 10)
    got = np.array(
        [100.0, 100.0, 100.0, 101.0, 200.0, 400.0, 50.0, 150.0, 0.0, 0.0] + [0.0] * 9 + [9]
    )
    figures = pitch_figures(wanted, got)
    assert figures["voiced_right_percent"] == pytest.approx(100 * 17 / 20)
    assert figures["f0_gross_percent"] == pytest.approx(100 * 4 / 8)
    assert figures["f0_octave_percent"] == pytest.approx(100 * 3 / 8)
    errors = [0, 0, 0, 1200 * np.log2(1.01), 1200, 2400, 1200, 1200 * np.log2(1.5)]
    assert figures["f0_median_cents"] == pytest.approx(np.median(errors))
    assert figures["f0_p95_cents"] == pytest.approx(np.percentile(errors, 95))


def test_level_figures_of_a_known_error():
    source = np.array([-20.0] * 20 + [-90.0] * 20)
    output = source + np.tile([2.0, -2.0], 20) - 6.0
    output[20:] = -50.0
    figures = level_figures(source, output)
    assert figures["gain_db"] == pytest.approx(-6.0)
    assert figures["loudness_error_db"] == pytest.approx(2.0)
    assert figures["silence_dbfs"] == pytest.approx(-50.0)
    assert level_figures(source[:20], output[:20])["silence_dbfs"] is None
