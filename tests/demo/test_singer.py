from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from svc.demo.singer import (
    DEMO_HIGH,
    DEMO_LOW,
    HOP,
    SAMPLING_RATE,
    VOICES,
    Performance,
    _sum_harmonics,
    sing_contour,
    smooth,
)
from svc.demo.tract import NASAL_POLE, NOISES, PHONEMES, noise_spectrum, tract_response
from svc.f0 import build_f0_predictor

TIME = np.arange(SAMPLING_RATE) / SAMPLING_RATE


def spectrum(wav: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies and power of the middle half."""
    middle = wav[len(wav) // 4 : -len(wav) // 4].astype(np.float64)
    power = np.abs(np.fft.rfft(middle * np.hanning(len(middle)))) ** 2
    return np.fft.rfftfreq(len(middle), 1 / SAMPLING_RATE), power


@pytest.mark.parametrize("f0", [60.0, 97.3, 220.0, 440.0, 700.0, 1200.0])
@pytest.mark.parametrize("voice", VOICES, ids=lambda voice: voice.name)
def test_energy_lies_on_the_harmonics_of_the_given_pitch(voice, f0, rng):
    clean = dataclasses.replace(voice, breath=0.0, shimmer_db=0.0)
    performance = sing_contour(np.full(SAMPLING_RATE, f0), voice=clean, rng=rng)
    frequencies, power = spectrum(performance.wav)
    nearest = f0 * np.maximum(np.round(frequencies / f0), 1)
    outside = power[np.abs(frequencies - nearest) > 8.0].sum() / power.sum()
    assert (
        outside < 1e-4
    )  # -40 dB: the room noise; an aliased harmonic or a wrong pitch is far more
    assert np.all(performance.f0[performance.voiced] == f0)
    assert performance.voiced.mean() > 0.95


@pytest.mark.parametrize(
    "contour",
    [
        220.0 * 2 ** (50 / 1200 * np.sin(2 * np.pi * 5.5 * TIME)),  # vibrato
        110.0 * 2 ** (2 * TIME),  # two octaves up in a second
        600.0 * 2 ** (-1.5 * TIME),
    ],
    ids=["vibrato", "rise", "fall"],
)
def test_moving_pitch_is_heard_where_it_is_said_to_be(contour, rng):
    performance = sing_contour(contour, rng=rng)
    track = build_f0_predictor("harvest", sampling_rate=SAMPLING_RATE, hop_length=441)(
        performance.wav
    )
    truth, voiced = performance.frames(441)
    both = voiced & (track.uv > 0)
    assert both.mean() > 0.9
    error = 1200 * np.abs(np.log2(track.f0[both] / truth[both]))
    # Two octaves a second are 2.4 cents a millisecond, and harvest is a few of them late.
    assert np.median(error) < 15


def test_truth_is_silent_where_the_contour_is(rng):
    contour = np.where((TIME > 0.3) & (TIME < 0.7), 300.0, 0.0)
    performance = sing_contour(contour, rng=rng)
    assert not performance.voiced[TIME < 0.27].any()
    assert not performance.voiced[TIME > 0.73].any()
    assert performance.voiced[(TIME > 0.33) & (TIME < 0.67)].all()
    assert np.all((performance.f0 > 0) == performance.voiced)
    loud = np.sqrt(np.mean(performance.wav[(TIME > 0.4) & (TIME < 0.6)] ** 2))
    quiet = np.sqrt(np.mean(performance.wav[TIME < 0.25] ** 2))
    assert 20 * np.log10(loud / quiet) > 50


@pytest.mark.parametrize("bad", [np.zeros(100), np.full(100, 30.0), np.full(100, 3000.0)])
def test_impossible_contours_are_refused(bad, rng):
    with pytest.raises(ValueError, match="f0 must"):
        sing_contour(bad, rng=rng)


@pytest.mark.parametrize("length", [1, HOP - 1, HOP, HOP + 1, 5000])
def test_length_is_that_of_the_contour(length, rng):
    performance = sing_contour(np.full(length, 200.0), rng=rng)
    assert performance.wav.shape == performance.f0.shape == performance.voiced.shape == (length,)
    assert performance.wav.dtype == np.float32
    assert np.isfinite(performance.wav).all()


def test_the_same_generator_state_gives_the_same_samples():
    contour = np.full(8000, 250.0)
    first = sing_contour(contour, rng=np.random.default_rng(5)).wav
    assert np.array_equal(first, sing_contour(contour, rng=np.random.default_rng(5)).wav)
    assert not np.array_equal(first, sing_contour(contour, rng=np.random.default_rng(6)).wav)


def test_horner_sum_equals_the_plain_sum_of_harmonics(rng):
    gains = (rng.normal(size=(9, 20)) + 1j * rng.normal(size=(9, 20))).astype(np.complex64)
    gains[:, 15:] = 0
    phase = np.cumsum(rng.uniform(0.01, 0.05, 8 * HOP))
    weight = np.tile(np.arange(HOP) / HOP, 8)
    frame = np.repeat(np.arange(8), HOP)
    expected = np.zeros(8 * HOP)
    for k in range(20):
        gain = gains[frame, k] * (1 - weight) + gains[frame + 1, k] * weight
        expected += np.real(gain * np.exp(1j * (k + 1) * phase))
    assert np.allclose(_sum_harmonics(phase, gains), expected, atol=2e-4)


def test_vowels_keep_about_the_same_level(rng):
    levels = []
    for vowel in "aeiou":
        for f0 in (150.0, 300.0, 500.0):
            wav = sing_contour(np.full(20000, f0), vowel=vowel, rng=rng).wav[5000:15000]
            levels.append(20 * np.log10(np.sqrt(np.mean(wav**2))))
    assert np.ptp(levels) < 3.0


def test_the_low_voice_is_darker_than_the_high_one(rng):
    def brightness(voice):
        frequencies, power = spectrum(
            sing_contour(np.full(SAMPLING_RATE, 220.0), voice=voice, rng=rng).wav
        )
        return np.sum(power[frequencies > 3500]) / np.sum(power)

    assert 10 * np.log10(brightness(DEMO_HIGH) / brightness(DEMO_LOW)) > 6


def test_tract_peaks_at_its_formants():
    frequencies = np.arange(20.0, 6000.0, 5.0)
    for name in "aeiou":
        formants = np.array([PHONEMES[name].formants])
        widths = np.array([PHONEMES[name].bandwidths])
        gain = np.abs(tract_response(frequencies[None], formants, widths, np.array([NASAL_POLE])))[
            0
        ]
        peaks = frequencies[1:-1][(gain[1:-1] > gain[:-2]) & (gain[1:-1] > gain[2:])]
        for formant in formants[0]:
            assert np.min(np.abs(peaks - formant)) < 0.05 * formant, (name, formant)


def test_nasal_zero_is_a_dip():
    frequencies = np.array([[200.0, 1000.0, 1800.0]])
    m = PHONEMES["m"]
    gain = np.abs(
        tract_response(
            frequencies, np.array([m.formants]), np.array([m.bandwidths]), np.array([m.nasal_zero])
        )
    )[0]
    assert gain[1] < 0.1 * gain[0]


def test_noise_spectra_have_unit_power_and_their_place():
    frequencies = np.fft.rfftfreq(512, 1 / SAMPLING_RATE)
    centre = {}
    for name in NOISES:
        amplitude = noise_spectrum(name, frequencies, 1.0)
        assert np.isclose(np.mean(amplitude**2), 1.0)
        centre[name] = np.sum(frequencies * amplitude**2) / np.sum(amplitude**2)
    assert centre["k"] < centre["sh"] < centre["s"]


def test_smoothing_keeps_constants_and_shape():
    assert np.allclose(smooth(np.full(40, 3.0), 0.05), 3.0)
    assert smooth(np.zeros((40, 5)), 0.05).shape == (40, 5)


def test_frames_are_taken_at_multiples_of_the_hop():
    f0 = np.arange(1.0, 1001.0)
    performance = Performance(np.zeros(1000, np.float32), f0, np.ones(1000, bool))
    values, voiced = performance.frames(300)
    assert values.tolist() == [1.0, 301.0, 601.0]
    assert voiced.shape == (3,)
