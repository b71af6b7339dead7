r"""The synthetic singer: a source-filter voice that knows its own fundamental frequency exactly.

    f0 (T,) --> phase --> sum of harmonics, each with the complex gain  source tilt x vocal tract
                    \-> breath noise, pulsed by the phase, same tract      } --> wav (T,)
    consonant levels ---> shaped noise bursts

The harmonics are summed below half the sampling rate, so nothing aliases, and the phase is the
running sum of f0, so the truth is exact at every sample. Sound quality is that of a simple formant
synthesizer; what matters is that pitch, voicing, vowels, consonants and the two voices are all
there and all known.

Letters: T samples, F control frames (one each `HOP` samples), K harmonics.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from svc.demo.tract import (
    NASAL_POLE,
    NOISES,
    VOWELS,
    ComplexArray,
    FloatArray,
    noise_spectrum,
    tract_response,
)

SAMPLING_RATE = 44100  # Hz
HOP = 128  # samples per control frame, 2.9 ms
TOP_FREQUENCY = 14000.0  # Hz, highest harmonic; above it a voice is mostly noise
VOWEL_RMS = 0.11  # level of a sustained vowel, full scale = 1
ROOM_NOISE = 10 ** (-78 / 20)  # RMS of the noise of the recording
VOICED_LEVEL = 0.05  # amplitude, 1 = a vowel, from which a sample is voiced in the truth
_NOISE_FFT = 512  # samples
_BLOCK = 128  # control frames at a time: what fits into the processor's cache


@dataclass(frozen=True)
class Voice:
    """What makes one singer sound unlike another.

    Attributes:
        name: also the folder name of the data set.
        formant_scale: all resonances times this; a shorter tract is larger.
        slope: dB per octave that the harmonics lose above `corner`, lip radiation included.
        corner: Hz.
        breath: noise in the voice relative to the harmonics, amplitude.
        cluster: 0..1, how far formants 3-5 gather near 2.9 kHz (the ring of a trained low voice).
        range_midi: lowest and highest note sung, MIDI numbers.
        vibrato_rate: Hz.
        vibrato_cents: peak deviation.
        jitter_cents: standard deviation of the random pitch change per control frame.
        shimmer_db: standard deviation of the random level change.
        level_db: gain of the whole voice.
    """

    name: str
    formant_scale: float
    slope: float
    corner: float
    breath: float
    cluster: float
    range_midi: tuple[int, int]
    vibrato_rate: float
    vibrato_cents: float
    jitter_cents: float = 3.0
    shimmer_db: float = 0.25
    level_db: float = 0.0

    def formants(self, neutral: FloatArray) -> FloatArray:
        """Scale formants (..., 5) in Hz of the neutral tract to this voice."""
        scaled = neutral * self.formant_scale
        ring = np.array([2500.0, 2850.0, 3200.0])
        scaled[..., 2:] = (1.0 - self.cluster) * scaled[..., 2:] + self.cluster * ring
        return scaled


DEMO_LOW = Voice(
    name="demo_low",
    formant_scale=0.88,
    slope=9.0,
    corner=260.0,
    breath=0.035,
    cluster=0.55,
    range_midi=(43, 62),
    vibrato_rate=5.2,
    vibrato_cents=55.0,
    jitter_cents=3.5,
    shimmer_db=0.3,
)
DEMO_HIGH = Voice(
    name="demo_high",
    formant_scale=1.2,
    slope=5.0,
    corner=500.0,
    breath=0.07,
    cluster=0.0,
    range_midi=(56, 74),
    vibrato_rate=5.9,
    vibrato_cents=45.0,
    jitter_cents=2.5,
    shimmer_db=0.2,
)
VOICES = (DEMO_LOW, DEMO_HIGH)


@dataclass(frozen=True)
class Performance:
    """What was sung, and the truth about it.

    Attributes:
        wav: (T,) float32 in [-1, 1].
        f0: (T,) float64 Hz, the frequency of the glottal source at each sample; 0 where not voiced.
        voiced: (T,) bool.
        sr: samples per second.
    """

    wav: npt.NDArray[np.float32]
    f0: FloatArray
    voiced: npt.NDArray[np.bool_]
    sr: int = SAMPLING_RATE

    def frames(self, hop_length: int) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """Return f0 (N,) Hz and voiced (N,) at samples 0, hop, 2 hop, ...; N = T // hop_length."""
        at = np.arange(len(self.wav) // hop_length) * hop_length
        return self.f0[at], self.voiced[at]


@dataclass
class Controls:
    """Slow parameters of the synthesis, one value per control frame; frame i is at sample i * HOP.

    Attributes:
        formants: (F, 5) Hz of the neutral tract.
        bandwidths: (F, 5) Hz.
        zero: (F,) Hz, nasal anti-resonance.
        voicing: (F,) amplitude of the harmonics, 1 = a vowel at normal loudness.
        aspiration: (F,) amplitude of noise through the tract, besides the breath of the voice.
        noises: consonant name -> (F,) amplitude.
    """

    formants: FloatArray
    bandwidths: FloatArray
    zero: FloatArray
    voicing: FloatArray
    aspiration: FloatArray
    noises: dict[str, FloatArray] = field(default_factory=dict)


def smooth(values: FloatArray, seconds: float) -> FloatArray:
    """Smooth control values (F,) or (F, P) along the frames with a Hann window."""
    size = 2 * max(1, round(seconds * SAMPLING_RATE / HOP / 2)) + 1
    kernel = np.hanning(size + 2)[1:-1]
    kernel /= kernel.sum()
    columns = values.reshape(len(values), -1)
    padded = np.pad(columns, ((size // 2, size // 2), (0, 0)), mode="edge")
    out = np.stack([np.convolve(column, kernel, mode="valid") for column in padded.T], axis=1)
    return out.reshape(values.shape)


def sing_contour(
    f0: npt.ArrayLike, *, voice: Voice = DEMO_HIGH, vowel: str = "a", rng: np.random.Generator
) -> Performance:
    """Sing one vowel along a given pitch contour: test material with exact truth.

    Args:
        f0: (T,) Hz at `SAMPLING_RATE`, 0 = silent; 40 to 2000 Hz, any glide or vibrato.
        voice: the singer.
        vowel: one of a, e, i, o, u.
        rng: drives the noise; the pitch has no jitter here.

    Returns:
        The performance; its f0 equals the argument wherever it is voiced.
    """
    pitch = np.asarray(f0, dtype=np.float64)
    sounding = pitch > 0
    if pitch.ndim != 1 or not sounding.any():
        raise ValueError("f0 must be one-dimensional and voiced somewhere")
    if pitch[sounding].min() < 40 or pitch.max() > 2000:
        raise ValueError("f0 must lie between 40 and 2000 Hz")
    time = np.arange(len(pitch))
    filled = np.interp(time, time[sounding], pitch[sounding])
    n_frames = -(-len(pitch) // HOP) + 1
    at = np.minimum(np.arange(n_frames) * HOP, len(pitch) - 1)
    phoneme = VOWELS[vowel]
    controls = Controls(
        formants=np.tile(np.array(phoneme.formants), (n_frames, 1)),
        bandwidths=np.tile(np.array(phoneme.bandwidths), (n_frames, 1)),
        zero=np.full(n_frames, NASAL_POLE),
        voicing=smooth(sounding[at].astype(np.float64), 0.03),
        aspiration=np.zeros(n_frames),
    )
    return render(filled, controls, voice=voice, rng=rng)


def render(
    f0: FloatArray, controls: Controls, *, voice: Voice, rng: np.random.Generator
) -> Performance:
    """Synthesise.

    Args:
        f0: (T,) Hz at every sample, also where nothing is voiced.
        controls: F frames with (F - 1) * HOP >= T.
        voice: the singer.
        rng: drives the noise and the shimmer.

    Returns:
        The performance.
    """
    n_frames = len(controls.voicing)
    length = (n_frames - 1) * HOP
    padded = np.pad(f0, (0, length - len(f0)), mode="edge")
    frame_f0 = np.append(padded, padded[-1])[::HOP]
    phase = 2 * np.pi * np.cumsum(padded / SAMPLING_RATE)
    formants = voice.formants(controls.formants)
    # Singers open the jaw when the pitch passes the first formant (Sundberg 1975); without it
    # high notes go dull.
    formants[:, 0] = np.maximum(formants[:, 0], 1.02 * frame_f0)
    formants[:, 1] = np.maximum(formants[:, 1], 1.15 * formants[:, 0])
    tract = (formants, controls.bandwidths * np.sqrt(voice.formant_scale), controls.zero)

    shimmer = 10 ** (smooth(rng.normal(0, 4 * voice.shimmer_db, n_frames), 0.03) / 20)
    gains = _harmonic_gains(frame_f0, controls.voicing * shimmer, tract, voice)
    wav = _sum_harmonics(phase, gains)

    frequencies = np.fft.rfftfreq(_NOISE_FFT, 1 / SAMPLING_RATE).astype(np.float64)
    resonance = np.abs(tract_response(frequencies[None], *tract)).astype(np.float64)
    # Turbulence is stronger at high frequencies, and some of it leaks past the resonances.
    resonance *= (1 + (frequencies / 900.0) ** 2)[None] ** 0.5
    resonance /= np.sqrt(np.mean(resonance**2, axis=1, keepdims=True))
    resonance += 0.06 * np.minimum(frequencies / 6000.0, 1.0)
    pulse = 1.0 + 0.7 * np.cos(phase)  # the glottis lets air through once a period
    wav += pulse * _shaped_noise(
        (voice.breath * controls.voicing)[:, None] * resonance, length, rng
    )
    envelope = controls.aspiration[:, None] * resonance
    for name in NOISES:
        if name in controls.noises:
            spectrum = noise_spectrum(name, frequencies, voice.formant_scale**0.5)
            envelope = envelope + controls.noises[name][:, None] * spectrum[None]
    wav += _shaped_noise(envelope, length, rng)

    wav = wav[: len(f0)] * (VOWEL_RMS * 10 ** (voice.level_db / 20))
    wav += rng.normal(0, ROOM_NOISE, len(wav))
    peak = float(np.max(np.abs(wav), initial=0.0))
    wav *= min(1.0, 0.95 / max(peak, 1e-9))
    level = np.interp(np.arange(len(f0)), np.arange(n_frames) * HOP, controls.voicing)
    voiced = level > VOICED_LEVEL
    return Performance(wav.astype(np.float32), np.where(voiced, f0, 0.0), voiced)


def _harmonic_gains(
    f0: FloatArray,
    voicing: FloatArray,
    tract: tuple[FloatArray, FloatArray, FloatArray],
    voice: Voice,
) -> ComplexArray:
    """Complex gain of each harmonic, (F, K), scaled so that a vowel has an RMS of 1."""
    sounding = voicing > 1e-4
    if not sounding.any():
        return np.zeros((len(f0), 1), dtype=np.complex64)
    count = max(1, int(TOP_FREQUENCY / f0[sounding].min()))
    frequencies = (f0[:, None] * np.arange(1, count + 1)[None]).astype(np.float32)
    gains = tract_response(frequencies, *tract)
    gains *= (1 + 1j * frequencies / np.float32(voice.corner)) ** np.float32(-voice.slope / 6.02)
    # Fade the top out instead of cutting it, so that no harmonic clicks in or out while the pitch
    # moves.
    gains *= np.clip((TOP_FREQUENCY - frequencies) / (0.15 * TOP_FREQUENCY), 0, 1)
    power = np.einsum("fk,fk->f", gains, gains.conj()).real.astype(np.float64) / 2
    level = np.sqrt(smooth(power, 0.15))
    usual = float(np.median(level[sounding]))
    # A singer keeps the loudness roughly even over vowels and notes; the tract alone would swing it
    # by 15 dB.
    even = (usual / level) ** 0.7 / usual
    return gains * (even * voicing)[:, None].astype(np.float32)


def _sum_harmonics(phase: FloatArray, gains: ComplexArray) -> FloatArray:
    """Re of sum over k of g_k(t) exp(i k phase(t)), gains interpolated linearly between the frames.

    Horner's rule on z = exp(i phase) needs no sine per harmonic. The interpolation  g + w d  (w =
    place within the frame) is split into two such sums, so that the gains enter as one number per
    frame and harmonic.
    """
    n_frames = len(gains) - 1
    steps = np.diff(gains, axis=0)
    weight = (np.arange(HOP, dtype=np.float32) / HOP)[None]
    rotor = np.exp(1j * (phase % (2 * np.pi))).astype(np.complex64).reshape(n_frames, HOP)
    out = np.zeros((n_frames, HOP))
    audible = np.abs(gains) > 0
    for start in range(0, n_frames, _BLOCK):
        stop = min(start + _BLOCK, n_frames)
        used = np.flatnonzero(audible[start : stop + 1].any(axis=0))
        if not len(used):
            continue
        z = rotor[start:stop]
        level = np.zeros_like(z)
        slope = np.zeros_like(z)
        for k in range(int(used[-1]), -1, -1):
            level += gains[start:stop, k, None]
            level *= z
            slope += steps[start:stop, k, None]
            slope *= z
        out[start:stop] = level.real + weight * slope.real
    return out.reshape(-1)


def _shaped_noise(envelope: FloatArray, length: int, rng: np.random.Generator) -> FloatArray:
    """Noise (length,) whose amplitude spectrum follows envelope (F, _NOISE_FFT // 2 + 1)."""
    n_frames = len(envelope)
    half = _NOISE_FFT // 2
    white = rng.standard_normal((n_frames - 1) * HOP + _NOISE_FFT)
    window = np.hanning(_NOISE_FFT + 1)[:-1]
    out = np.zeros(len(white))
    silent = envelope.max(axis=1) < 1e-6
    for start in range(0, n_frames, 1024):
        rows = start + np.flatnonzero(~silent[start : start + 1024])
        if not len(rows):
            continue
        place = rows[:, None] * HOP + np.arange(_NOISE_FFT)[None]
        pieces = np.fft.irfft(np.fft.rfft(white[place] * window, axis=1) * envelope[rows], axis=1)
        np.add.at(out, place, pieces * window)
    # Two Hann windows at a quarter of their length add up to 1.5.
    return out[half : half + length] / 1.5
