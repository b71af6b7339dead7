"""The vocal tract of the synthetic singer: phonemes, formant resonances and noise spectra.

The resonance model is the cascade of Klatt, "Software for a cascade/parallel formant synthesizer"
(JASA 67, 1980): all-pole sections for the formants and one pole-zero pair for the nose, here
evaluated as frequency responses because the source is a sum of harmonics. Above the fifth formant
the poles of a uniform tube stand in for the higher ones.

Letters: F control frames, K frequencies, P formants.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
ComplexArray = npt.NDArray[np.complex64]

N_FORMANTS = 5
NASAL_POLE = 270.0  # Hz; a zero at the same place cancels it
_UPPER_FORMANTS = tuple(5300.0 + 1050.0 * i for i in range(8))  # Hz, a uniform tube


@dataclass(frozen=True)
class Phoneme:
    """One speech sound of a neutral adult tract; a `Voice` scales the frequencies.

    Attributes:
        formants: five resonance frequencies, Hz.
        bandwidths: of the five, Hz.
        voicing: amplitude of the harmonics, 1 = a vowel, 0 = unvoiced.
        nasal_zero: frequency of the anti-resonance, Hz; `NASAL_POLE` = none.
        noise: key of `NOISES` that this sound excites, or "".
        noise_level: amplitude of that noise, 1 = as loud as a vowel.
        closure: seconds of silence before the noise (a stop).
        seconds: usual length, the closure included; 0 for vowels, which last as long as their note.
    """

    formants: tuple[float, float, float, float, float]
    bandwidths: tuple[float, float, float, float, float] = (70.0, 90.0, 130.0, 190.0, 260.0)
    voicing: float = 1.0
    nasal_zero: float = NASAL_POLE
    noise: str = ""
    noise_level: float = 0.0
    closure: float = 0.0
    seconds: float = 0.0


_NASAL_WIDTHS = (60.0, 160.0, 220.0, 260.0, 320.0)

VOWELS: dict[str, Phoneme] = {
    "a": Phoneme((740.0, 1150.0, 2500.0, 3350.0, 4250.0)),
    "e": Phoneme((470.0, 1900.0, 2550.0, 3450.0, 4250.0)),
    "i": Phoneme((290.0, 2280.0, 3000.0, 3600.0, 4350.0)),
    "o": Phoneme((470.0, 850.0, 2450.0, 3300.0, 4200.0)),
    "u": Phoneme((320.0, 720.0, 2350.0, 3250.0, 4150.0)),
}

CONSONANTS: dict[str, Phoneme] = {
    "s": Phoneme(
        (320.0, 1700.0, 2650.0, 3500.0, 4300.0),
        voicing=0.0,
        noise="s",
        noise_level=0.32,
        seconds=0.115,
    ),
    "sh": Phoneme(
        (320.0, 1850.0, 2500.0, 3400.0, 4250.0),
        voicing=0.0,
        noise="sh",
        noise_level=0.36,
        seconds=0.12,
    ),
    "f": Phoneme(
        (320.0, 1050.0, 2350.0, 3350.0, 4200.0),
        voicing=0.0,
        noise="f",
        noise_level=0.14,
        seconds=0.095,
    ),
    "k": Phoneme(
        (300.0, 1900.0, 2350.0, 3350.0, 4250.0),
        voicing=0.0,
        noise="k",
        noise_level=0.5,
        closure=0.055,
        seconds=0.09,
    ),
    "t": Phoneme(
        (300.0, 1750.0, 2650.0, 3450.0, 4300.0),
        voicing=0.0,
        noise="t",
        noise_level=0.45,
        closure=0.05,
        seconds=0.08,
    ),
    "m": Phoneme(
        (260.0, 1050.0, 2200.0, 3000.0, 4100.0),
        _NASAL_WIDTHS,
        voicing=0.42,
        nasal_zero=1000.0,
        seconds=0.095,
    ),
    "n": Phoneme(
        (260.0, 1500.0, 2400.0, 3200.0, 4150.0),
        _NASAL_WIDTHS,
        voicing=0.42,
        nasal_zero=1650.0,
        seconds=0.085,
    ),
    "l": Phoneme((350.0, 1100.0, 2800.0, 3500.0, 4250.0), voicing=0.55, seconds=0.075),
}

PHONEMES: dict[str, Phoneme] = {**VOWELS, **CONSONANTS}

# Spectral shape of each noise: (centre Hz, width in octaves, level dB) bumps on a log-frequency
# axis.
NOISES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "s": ((6600.0, 0.32, 0.0), (9800.0, 0.45, -4.0), (3800.0, 0.5, -24.0)),
    "sh": ((2900.0, 0.28, 0.0), (4600.0, 0.5, -3.0), (7500.0, 0.6, -14.0)),
    "f": ((7500.0, 1.1, 0.0), (1400.0, 1.0, -8.0)),
    "k": ((1850.0, 0.3, 0.0), (4200.0, 0.6, -12.0)),
    "t": ((4300.0, 0.55, 0.0), (7500.0, 0.5, -5.0)),
}


def noise_spectrum(name: str, frequencies: FloatArray, scale: float) -> FloatArray:
    """Amplitude spectrum of a consonant's noise, normalised to unit power over the given band.

    Args:
        name: a key of `NOISES`.
        frequencies: (K,) Hz, evenly spaced from 0 to half the sampling rate.
        scale: formant scale of the voice; a shorter front cavity moves the noise up as well.

    Returns:
        (K,) linear amplitudes; noise of unit variance filtered by them keeps unit variance.
    """
    octaves = np.log2(np.maximum(frequencies, 20.0))
    power = np.zeros_like(frequencies)
    for centre, width, level_db in NOISES[name]:
        power += 10 ** (level_db / 10) * np.exp(
            -0.5 * ((octaves - np.log2(centre * scale)) / width) ** 2
        )
    amplitude: FloatArray = np.sqrt(power / power.mean())
    return amplitude


def tract_response(
    frequencies: npt.NDArray[np.floating],
    formants: FloatArray,
    bandwidths: FloatArray,
    zero: FloatArray,
) -> ComplexArray:
    """Complex gain of the vocal tract, one frame per row.

    Args:
        frequencies: (F, K) or (1, K) Hz.
        formants: (F, 5) Hz.
        bandwidths: (F, 5) Hz.
        zero: (F,) Hz, the nasal anti-resonance; `NASAL_POLE` where the nose is shut.

    Returns:
        (F, K), gain 1 at 0 Hz.
    """
    freq = np.asarray(frequencies, dtype=np.float32)
    shape = np.broadcast_shapes(freq.shape, (len(formants), 1))
    response = np.ones(shape, dtype=np.complex64)
    neutral = formants[:, 4:5] / 4250.0  # the upper poles scale with the fifth formant
    upper = neutral * np.asarray(_UPPER_FORMANTS)
    poles = np.concatenate([formants, upper], axis=1).astype(np.float32)
    widths = np.concatenate([bandwidths, 0.085 * upper], axis=1).astype(np.float32)
    for index in range(poles.shape[1]):
        response /= _section(freq, poles[:, index, None], widths[:, index, None])
    nose = _section(freq, zero[:, None].astype(np.float32), np.float32(110.0))
    response *= nose / _section(freq, np.float32(NASAL_POLE), np.float32(110.0))
    return response


def _section(
    freq: npt.NDArray[np.float32],
    centre: npt.NDArray[np.float32] | np.float32,
    width: npt.NDArray[np.float32] | np.float32,
) -> ComplexArray:
    """Denominator of one resonance with unit gain at 0 Hz: 1 - (f/F)^2 + i f B / F^2."""
    square = centre * centre
    out = np.empty(np.broadcast_shapes(freq.shape, np.shape(centre)), dtype=np.complex64)
    out.real = 1.0 - freq * freq / square
    out.imag = freq * width / square
    return out
