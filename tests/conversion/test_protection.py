"""Breaths and consonants of the source in a conversion.

Synthetic signals have known sounds at known places; the recordings are measured by what comes back of
unvoiced sounds that a voice has lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from svc.audio.io import read_audio
from svc.audio.pitch import F0Track
from svc.audio.resample import resample
from svc.conversion.converter import Converter
from svc.conversion.options import InferOptions
from svc.conversion.protection import BREATH, CONSONANT, KEPT, protect, sounds
from svc.f0 import build_f0_predictor

SR, HOP = 44100, 512
BOTH = InferOptions(keep_breath=1.0, keep_unvoiced=1.0)
RECORDINGS = {
    "sung, alto": "singing/m4_alto_1/Alto_1_1.flac",
    "sung, soprano": "singing/gts_fr_soprano_1/fr03_Control.flac",
    "spoken": "speech/ljspeech/LJ001-0001.flac",
}


@dataclass(frozen=True)
class Phrase:
    """Known sounds: samples (n,), voiced (N,) and what each frame is (N,)."""

    wav: np.ndarray
    uv: np.ndarray
    kinds: np.ndarray

    def at(self, kind: int, *, inside: int = 0) -> np.ndarray:
        """Samples (n,) of frames of a kind, without so many frames at both ends of each stretch."""
        frames = self.kinds == kind
        for _ in range(inside):
            padded = np.pad(frames, 1)
            frames = frames & padded[:-2] & padded[2:]
        return np.repeat(frames, HOP)


def noise(rng: np.random.Generator, n: int, low: float, high: float) -> np.ndarray:
    """Noise of one band, RMS 1."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    hz = np.fft.rfftfreq(n, 1 / SR)
    wav = np.fft.irfft(np.where((hz >= low) & (hz <= high), spectrum, 0), n)
    return wav / np.sqrt(np.mean(wav**2))


@pytest.fixture
def phrase(rng: np.random.Generator) -> Phrase:
    """A vowel, a breath between two pauses, vowels around an s and around a t with its closure."""
    plan = [
        (KEPT, 1, 40), (KEPT, 0, 8), (BREATH, 0.06, 30), (KEPT, 0, 8), (KEPT, 1, 30),
        (CONSONANT, 0.2, 12), (KEPT, 1, 30), (KEPT, 0, 5), (CONSONANT, 0.3, 3), (KEPT, 1, 30),
    ]  # fmt: skip
    parts, kinds, voiced = [], [], []
    for kind, gain, frames in plan:
        n = frames * HOP
        time = np.arange(n) / SR
        if kind == KEPT:
            part = sum(np.sin(2 * np.pi * 220 * k * time) / k for k in range(1, 15))
        elif kind == BREATH:
            part = noise(rng, n, 500, 6000)
        else:
            part = noise(rng, n, 4500, 10000) if frames > 5 else noise(rng, n, 500, 9000)
        parts.append(0.3 * gain * part)
        kinds += [kind] * frames
        voiced += [kind == KEPT and gain == 1] * frames
    room = 1e-4 * rng.standard_normal(len(kinds) * HOP)
    wav = (np.concatenate(parts) + room).astype(np.float32)
    return Phrase(wav, np.array(voiced, dtype=np.float32), np.array(kinds))


def level_db(wav: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(wav, dtype=np.float64)) + 1e-20))


# ---------------------------------------------------------------------------- what a frame is


def test_known_sounds_are_told_apart(phrase: Phrase) -> None:
    found = sounds(phrase.wav, phrase.uv > 0, HOP, SR)
    wrong = found != phrase.kinds
    borders = np.flatnonzero(np.diff(phrase.kinds)) + 1
    near = np.zeros(found.size, dtype=bool)
    for border in borders:
        near[border - 1 : border + 1] = True
    assert not wrong[~near].any()
    assert not found[phrase.uv > 0].any()
    assert {BREATH, CONSONANT} <= set(found)


@pytest.mark.parametrize("sr", [16000, 24000, 32000, 48000])
def test_other_rates_hear_the_same(phrase: Phrase, sr: int) -> None:
    hop = round(HOP * sr / SR)
    wav = resample(phrase.wav, SR, sr)
    frames = np.minimum(np.arange(wav.size // hop) * hop * SR // (sr * HOP), phrase.uv.size - 1)
    found = sounds(wav, phrase.uv[frames] > 0, hop, sr)
    assert np.mean(found == phrase.kinds[frames]) > 0.93


def test_loudness_does_not_matter(phrase: Phrase) -> None:
    voiced = phrase.uv > 0
    soft = sounds(phrase.wav * np.float32(0.03), voiced, HOP, SR)
    np.testing.assert_array_equal(soft, sounds(phrase.wav, voiced, HOP, SR))


@pytest.mark.parametrize("n", [0, 1, 511, 512, 5000])
def test_any_length(n: int, rng: np.random.Generator) -> None:
    wav = rng.standard_normal(n).astype(np.float32)
    made = np.ones(n // HOP * HOP, dtype=np.float32)
    assert protect(made, wav, np.zeros(n // HOP), HOP, SR, BOTH).shape == made.shape


def test_digital_silence_is_nothing() -> None:
    found = sounds(np.zeros(20 * HOP, dtype=np.float32), np.zeros(20, dtype=bool), HOP, SR)
    assert not found.any()


# ---------------------------------------------------------------------------- what is put in


def converted(phrase: Phrase, rng: np.random.Generator) -> np.ndarray:
    """What a voice might have made: another pitch, and a buzz in all that is unvoiced."""
    time = np.arange(phrase.wav.size) / SR
    tone = 0.2 * np.sin(2 * np.pi * 330 * time)
    made = np.where(np.repeat(phrase.uv > 0, HOP), tone, 0.02 * np.sign(tone))
    return (made + 1e-4 * rng.standard_normal(made.size)).astype(np.float32)


def test_nothing_asked_for_gives_the_same_array(phrase: Phrase, rng: np.random.Generator) -> None:
    made = converted(phrase, rng)
    assert protect(made, phrase.wav, phrase.uv, HOP, SR, InferOptions()) is made


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_voiced_frames_and_silence_stay_bit_for_bit(
    phrase: Phrase, rng: np.random.Generator, share: float
) -> None:
    made = converted(phrase, rng)
    before = made.copy()
    options = InferOptions(keep_breath=share, keep_unvoiced=share)
    result = protect(made, phrase.wav, phrase.uv, HOP, SR, options)
    np.testing.assert_array_equal(made, before)
    assert result.dtype == np.float32
    voiced = np.repeat(phrase.uv > 0, HOP)
    before_voiced = np.repeat(np.append(phrase.uv[1:], 0) > 0, HOP)  # the detector's reading
    np.testing.assert_array_equal(result[voiced | before_voiced], made[voiced | before_voiced])
    pauses = phrase.at(KEPT, inside=1)
    np.testing.assert_array_equal(result[pauses], made[pauses])


def test_each_option_has_its_own_sounds(phrase: Phrase, rng: np.random.Generator) -> None:
    made = converted(phrase, rng)
    breath, consonant = phrase.at(BREATH, inside=3), phrase.at(CONSONANT, inside=3)
    for options, its_own, other in (
        (InferOptions(keep_breath=1.0), breath, consonant),
        (InferOptions(keep_unvoiced=1.0), consonant, breath),
    ):
        result = protect(made, phrase.wav, phrase.uv, HOP, SR, options)
        np.testing.assert_array_equal(result[other], made[other])
        assert its_own.sum() >= 6 * HOP
        gain = result[its_own] / phrase.wav[its_own]
        assert np.abs(gain / np.median(gain) - 1).max() < 1e-3  # the source's sound, and only that


def test_a_breath_is_as_loud_against_the_singing_as_it_was(
    phrase: Phrase, rng: np.random.Generator
) -> None:
    made = converted(phrase, rng)
    voiced, breath = np.repeat(phrase.uv > 0, HOP), phrase.at(BREATH, inside=3)
    in_source = level_db(phrase.wav[breath]) - level_db(phrase.wav[voiced])
    for gain in (0.2, 1.0, 4.0):
        loud = made * np.float32(gain)
        result = protect(loud, phrase.wav, phrase.uv, HOP, SR, BOTH)
        assert abs(level_db(result[breath]) - level_db(result[voiced]) - in_source) < 0.2
    alone = protect(np.zeros_like(made), phrase.wav, phrase.uv, HOP, SR, BOTH)
    np.testing.assert_allclose(alone[breath], phrase.wav[breath], atol=1e-6)  # nothing to compare


def test_half_of_each_is_as_loud_as_either(phrase: Phrase, rng: np.random.Generator) -> None:
    """Two noises of equal power, in any shares."""
    breath = phrase.at(BREATH, inside=3)
    made = converted(phrase, rng)
    whole = protect(made, phrase.wav, phrase.uv, HOP, SR, BOTH)
    level = level_db(whole[breath])
    made[breath] = (10 ** (level / 20) * noise(rng, int(breath.sum()), 500, 6000)).astype("f4")
    for share in (0.25, 0.5, 0.75):
        options = InferOptions(keep_breath=share)
        result = protect(made, phrase.wav, phrase.uv, HOP, SR, options)
        assert abs(level_db(result[breath]) - level) < 0.3


def test_what_the_source_sings_stays_out_where_the_detector_misses_it(phrase: Phrase) -> None:
    """A detector that is two frames late and early at every vowel, and one that hears none."""
    made = np.zeros_like(phrase.wav)
    voice = level_db(phrase.wav[np.repeat(phrase.uv > 0, HOP)])
    padded = np.pad(phrase.uv, 2, mode="edge")
    late = np.min([padded[k : k + phrase.uv.size] for k in range(5)], axis=0)
    for uv in (late, np.zeros_like(phrase.uv)):
        result = protect(made, phrase.wav, uv, HOP, SR, BOTH)
        assert level_db(result[phrase.at(BREATH, inside=3)]) > voice - 30  # the breath is there
        spectrum = np.fft.rfft(result)
        spectrum[np.fft.rfftfreq(result.size, 1 / SR) > 450] = 0  # the vowels' pitch and its octave
        assert level_db(np.fft.irfft(spectrum)) < voice - 50


def test_edges_do_not_click(phrase: Phrase, rng: np.random.Generator) -> None:
    """A step would be a difference of neighbours beyond what both sounds have."""
    made = converted(phrase, rng)
    for options in (BOTH, InferOptions(keep_breath=0.4, keep_unvoiced=1.0)):
        result = protect(made, phrase.wav, phrase.uv, HOP, SR, options)
        changed = np.flatnonzero(np.diff(np.pad(result != made, 1).astype(int)))
        runs = [run for run in changed.reshape(-1, 2) if run[1] - run[0] > 100]
        assert len(runs) >= 3
        for first, last in runs:
            edge = np.r_[first : first + 20, last - 20 : last]
            assert np.abs(result[edge] - made[edge]).max() < 0.002


def test_fades_take_ten_milliseconds(phrase: Phrase, rng: np.random.Generator) -> None:
    """What a result that is 1 higher in unvoiced frames is higher by in the end: the weight."""
    made = converted(phrase, rng)
    raised = made + np.repeat(phrase.uv == 0, HOP).astype(np.float32)
    for options in (BOTH, InferOptions(keep_breath=0.4, keep_unvoiced=1.0)):
        before, after = (
            protect(wav, phrase.wav, phrase.uv, HOP, SR, options) for wav in (made, raised)
        )
        weight = (after - before)[np.repeat(phrase.uv == 0, HOP)]
        assert weight.max() < 1 + 1e-6
        share = 2 / np.pi * np.arccos(np.clip(weight, 0, 1))
        assert abs(share[share > 0.01].max() - 1) < 0.01
        steepest = np.pi / 2 / (0.010 * SR)  # of a raised cosine from 0 to 1
        assert np.abs(np.diff(share[share < 0.95])).max() < 2 * steepest


# ---------------------------------------------------------------------------- recordings


@pytest.fixture(params=list(RECORDINGS))
def recording(request: pytest.FixtureRequest, shared: Path) -> tuple[np.ndarray, np.ndarray]:
    """Samples at 44.1 kHz and what pm calls voiced."""
    pytest.importorskip("parselmouth")
    wav, sr = read_audio(shared / "audio" / RECORDINGS[request.param])
    wav = resample(wav, sr, SR)
    wav = wav[: wav.size // HOP * HOP]
    return wav, build_f0_predictor("pm", sampling_rate=SR, hop_length=HOP)(wav).uv


def test_what_a_voice_has_lost_comes_back(recording: tuple[np.ndarray, np.ndarray]) -> None:
    """The voiced frames of a recording, and nothing else, stand for its conversion."""
    wav, uv = recording
    voiced = np.repeat(uv[: wav.size // HOP] > 0, HOP)
    made = np.where(voiced, wav, 0).astype(np.float32)
    labels = sounds(wav, uv[: wav.size // HOP] > 0, HOP, SR)
    result = protect(made, wav, uv, HOP, SR, BOTH)
    np.testing.assert_array_equal(result[voiced], made[voiced])
    hz = np.fft.rfftfreq(wav.size, 1 / SR)

    def hissing(signal: np.ndarray) -> float:
        spectrum = np.fft.rfft(np.where(voiced, 0, signal))
        return float(np.square(np.abs(spectrum[hz > 3000])).sum())

    assert hissing(result) > 0.75 * hissing(wav)
    breath = np.repeat(labels == BREATH, HOP)
    assert 0.2 < breath.sum() / SR < 0.15 * wav.size / SR
    assert level_db(wav[breath]) < level_db(wav[voiced]) - 12


def test_a_part_of_a_song_hears_what_the_song_hears(
    recording: tuple[np.ndarray, np.ndarray],
) -> None:
    """Stretches are rendered with half a second of context."""
    wav, uv = recording
    n_frames = wav.size // HOP
    whole = sounds(wav, uv[:n_frames] > 0, HOP, SR)
    context = round(0.5 * SR / HOP)
    same = []
    for start in range(context, n_frames - 300 - context, 300):
        part = slice(start - context, start + 300 + context)
        found = sounds(wav[part.start * HOP : part.stop * HOP], uv[part] > 0, HOP, SR)
        same.append(np.mean(found[context:-context] == whole[start : start + 300]))
    assert np.mean(same) > 0.96


# ---------------------------------------------------------------------------- a whole conversion


class KnownPredictor:
    """Calls what is above 1 % voiced in the first half of every second."""

    name = "known"

    def __call__(self, wav: np.ndarray) -> F0Track:
        frames = wav[: wav.size // HOP * HOP].reshape(-1, HOP)
        crossings = np.mean(np.diff(np.sign(frames), axis=1) != 0, axis=1)
        uv = ((crossings < 0.05) & (np.abs(frames).max(axis=1) > 0.01)).astype(np.float32)
        return F0Track(220.0 * uv, uv)


def test_a_conversion_keeps_breaths_and_nothing_else(
    make_converter: Callable[..., Converter], phrase: Phrase, monkeypatch: pytest.MonkeyPatch
) -> None:
    converter = make_converter()
    object.__setattr__(converter.voice, "f0_predictor", KnownPredictor())
    plain = converter.convert(phrase.wav, SR, "bob", InferOptions(slice_db=-60))
    options = InferOptions(slice_db=-60, keep_breath=1.0)
    kept = converter.convert(phrase.wav, SR, "bob", options)
    breath, singing = phrase.at(BREATH, inside=3), np.repeat(phrase.uv > 0, HOP)
    assert np.abs(kept[breath] - plain[breath]).max() > 1e-3
    np.testing.assert_array_equal(kept[singing], plain[singing])
    likeness = np.corrcoef(kept[breath], phrase.wav[breath])[0, 1]
    assert likeness > 0.999
