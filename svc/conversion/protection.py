"""Breaths and consonants of the source kept in a conversion (``--keep_breath``, ``--keep_unvoiced``).

Unvoiced sounds carry hardly anything of who sings, and nets make a buzz of them or lose them. Here a
share of the source's own sound takes the place of the converted one, wherever two things hold: the melody
detector calls the frame unvoiced, *and* the sound there is noise. The second one keeps the source's voice
out where the detector has missed it, or where an edited curve says "unvoiced" over a sung note.

What a frame is (`sounds`) follows from three figures of 30 ms around its centre; the thresholds were set on
recorded singing and speech of eight voices:

* its level against the singing (the median of the voiced frames of the stretch): more than `SILENCE_DB`
  below it is silence, which stays as converted;
* how periodic it is: the highest normalised autocorrelation of the band 80-4000 Hz at the lags of
  67-1100 Hz. Singing has 0.9 to 1, noise 0.2 to 0.5; below `PERIODIC` it is noise;
* how much it hisses: power above 4 kHz against 80-4000 Hz. Above `HISS_DB` it is noise, too, for the little
  that is left below 4 kHz says nothing about the whole.

Noise of less than `SHORTEST_SECONDS` is left out. A breath is a stretch of noise of `BREATH_SECONDS` or more
that is `BREATH_DB` or more softer than the singing and does not hiss; all other noise is a consonant. A long
soft f or h counts as a breath.

The source's sound is made as loud, against the singing around it, as it was in the source: the gain is the
ratio of the levels of the voiced frames within a second, in the result and in the source. So a breath
follows a voice that sings louder than the source did, and nothing is changed twice where ``-lea`` has given
the result the source's loudness.

No torch here: the ONNX back end uses it too.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from svc.conversion.chunks import FloatArray
from svc.conversion.options import InferOptions

KEPT, CONSONANT, BREATH = 0, 1, 2
"""What a frame is: voiced, silent or not clear, so that the conversion stays; or an unvoiced sound."""

FADE_SECONDS = 0.010
SILENCE_DB = 36.0
PERIODIC = 0.55
HISS_DB = 6.0
BREATH_SECONDS = 0.080
SHORTEST_SECONDS = 0.020
BREATH_DB = 12.0

_WINDOW_SECONDS = 0.030
_LOWEST_HZ, _SPLIT_HZ, _HIGHEST_HZ = 80.0, 4000.0, 11000.0
_PITCHES_HZ = 67.0, 1100.0
_USUAL_DB = -20.0  # level of singing, where a stretch has none
_AROUND_SECONDS = 1.0
_MOST_GAIN = 10.0  # 20 dB either way: beyond that the levels say nothing about breaths
_BLOCK = 1024  # frames that are looked at together: bounds memory

Labels = npt.NDArray[np.int8]


def protect(
    made: FloatArray,
    source: FloatArray,
    uv: FloatArray,
    hop_length: int,
    sr: int,
    options: InferOptions,
) -> FloatArray:
    """Put some of the source's breaths and consonants into what a voice has made of it.

    Both are added with the weights of an equal-power cross-fade, for two noises that know nothing of each
    other keep their level that way: a share s takes sin(s pi/2) of the source and cos(s pi/2) of the result.

    Args:
        made: (n,) samples that were rendered.
        source: (m,) samples that they were rendered of, at the same rate; m may differ from n by part of a
            frame.
        uv: (N,) 1 = voiced, frames of the source.
        hop_length: samples per frame.
        sr: Hz.
        options: `keep_breath` and `keep_unvoiced` are used.

    Returns:
        (n,) samples. `made` itself where nothing is asked for; elsewhere equal to it, bit for bit, in every
        voiced frame and wherever there is no breath and no consonant.
    """
    if options.keep_breath == 0 and options.keep_unvoiced == 0:
        return made
    n_frames = min(made.size, source.size, uv.size * hop_length) // hop_length
    voiced = np.asarray(uv[:n_frames]) > 0
    labels = sounds(source, voiced, hop_length, sr)
    kept = np.array([0.0, options.keep_unvoiced, options.keep_breath])[labels]
    # A detector's frame stands for the samples around its beginning, a net's for those after it:
    # what one of the two readings calls voiced stays as it is.
    kept[:-1][voiced[1:]] = 0.0
    result: FloatArray = made.copy()
    for first, last in _runs(kept > 0):
        part = slice(first * hop_length, last * hop_length)
        share = _faded(kept[first:last], hop_length, round(FADE_SECONDS * sr)) * (np.pi / 2)
        gain = _gain(made, source, voiced, (first, last), hop_length, sr)
        result[part] = np.cos(share) * made[part] + gain * np.sin(share) * source[part]
    return result


def sounds(source: FloatArray, voiced: npt.NDArray[np.bool_], hop_length: int, sr: int) -> Labels:
    """Tell breaths and consonants from everything else.

    Args:
        source: (m,) samples.
        voiced: (N,) what the melody detector says, N <= m // hop_length.
        hop_length: samples per frame.
        sr: Hz.

    Returns:
        (N,) `KEPT`, `CONSONANT` or `BREATH`.
    """
    labels = np.zeros(voiced.size, dtype=np.int8)
    level = _levels(source, voiced.size, hop_length, sr)
    sung = float(np.median(level[voiced])) if voiced.any() else _USUAL_DB
    asked = np.flatnonzero(~voiced & (level > sung - SILENCE_DB))
    noise = np.zeros(voiced.size, dtype=bool)
    hiss = np.full(voiced.size, -np.inf)
    for start in range(0, asked.size, _BLOCK):
        some = asked[start : start + _BLOCK]
        periodicity, hiss[some] = _texture(_windows(source, some, hop_length, sr), sr)
        noise[some] = (periodicity < PERIODIC) | (hiss[some] > HISS_DB)
    # One frame between two of noise is noise by chance periodic, as long as it is as unvoiced.
    gap = noise[:-2] & noise[2:] & ~voiced[1:-1]
    noise[1:-1] |= gap & (level[1:-1] > sung - SILENCE_DB)
    for first, last in _runs(noise):
        if last - first < SHORTEST_SECONDS * sr / hop_length:
            noise[first:last] = False  # a flicker of the room
    labels[noise] = CONSONANT
    shortest = BREATH_SECONDS * sr / hop_length
    for first, last in _runs(noise & (hiss <= HISS_DB)):
        soft = np.median(level[first:last]) < sung - BREATH_DB
        if soft and last - first >= shortest:
            labels[first:last] = BREATH
    return labels


def _runs(wanted: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Begin and end of every stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], wanted, [False]]).astype(np.int8)))
    return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]


def _windows(source: FloatArray, frames: npt.NDArray[np.intp], hop: int, sr: int) -> FloatArray:
    """Samples around the centres of frames, (K, window); zeros beyond both ends."""
    size = round(_WINDOW_SECONDS * sr)
    padded = np.pad(source, size)
    first = frames * hop + hop // 2 + size - size // 2
    cut: FloatArray = np.lib.stride_tricks.sliding_window_view(padded, size)[first]
    return cut


def _levels(source: FloatArray, n_frames: int, hop: int, sr: int) -> npt.NDArray[np.float64]:
    """Mean power (N,) around the centres of frames, dB; -120 in digital silence."""
    size = round(_WINDOW_SECONDS * sr)
    total = np.cumsum(np.pad(np.square(source, dtype=np.float64), (1, 0)))
    first = np.arange(n_frames) * hop + hop // 2 - size // 2
    low, high = np.clip(first, 0, source.size), np.clip(first + size, 0, source.size)
    level: npt.NDArray[np.float64] = 10 * np.log10((total[high] - total[low]) / size + 1e-12)
    return level


def _texture(
    windows: FloatArray, sr: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Periodicity (K,) and hiss in dB (K,) of samples (K, window)."""
    size = windows.shape[1]
    shape = np.hanning(size + 2)[1:-1]
    lags = np.arange(round(sr / _PITCHES_HZ[1]), round(sr / _PITCHES_HZ[0]))
    lags = lags[lags < size // 2 + 1]
    n_fft = 1 << (size + int(lags[-1])).bit_length()
    hz = np.fft.rfftfreq(n_fft, 1 / sr)
    low = (hz >= _LOWEST_HZ) & (hz <= _SPLIT_HZ)
    high = (hz > _SPLIT_HZ) & (hz <= _HIGHEST_HZ)
    power = np.square(np.abs(np.fft.rfft(windows * shape, n_fft))) + 1e-14
    likeness = np.fft.irfft(power * low)
    own = np.fft.irfft(np.square(np.abs(np.fft.rfft(shape, n_fft))))
    # Divided by what the window alone gives at that lag: a pure tone has 1 everywhere.
    ratio = likeness[:, lags] / own[lags] / (likeness[:, :1] / own[0])
    hiss = 10 * np.log10((power @ high + 1e-14) / (power @ low))
    return ratio.max(axis=1), hiss


def _faded(kept: npt.NDArray[np.float64], hop: int, fade: int) -> npt.NDArray[np.float64]:
    """Shares of frames (K,) at samples (K * hop,), from 0 and back to 0.

    Where neighbours differ, the raised cosine between them lies inside the one with more.
    """
    edges = np.flatnonzero(np.diff(kept)) + 1
    starts, ends = [0, *edges.tolist()], [*edges.tolist(), kept.size]
    around = [0.0, *kept[starts].tolist(), 0.0]
    shares = np.repeat(kept, hop)
    for before, own, after, start, end in zip(around, around[1:], around[2:], starts, ends):
        part = shares[start * hop : end * hop]
        length = min(fade, part.size // 2)
        rise = 0.5 - 0.5 * np.cos(np.pi * np.arange(length) / length)  # its first sample is 0
        if before < own:
            part[:length] = before + (own - before) * rise
        if after < own:
            part[part.size - length :] = after + (own - after) * rise[::-1]
    return shares


def _gain(
    made: FloatArray,
    source: FloatArray,
    voiced: npt.NDArray[np.bool_],
    run: tuple[int, int],
    hop: int,
    sr: int,
) -> float:
    """How much louder the singing around some frames is in the result than in the source."""
    reach = round(_AROUND_SECONDS * sr / hop)
    near = np.zeros(voiced.size, dtype=bool)
    near[max(0, run[0] - reach) : run[1] + reach] = True
    for chosen in (voiced & near, voiced):
        size = voiced.size * hop
        after, before = (
            float(np.square(wav[:size].reshape(-1, hop)[chosen], dtype=np.float64).sum())
            for wav in (made, source)
        )
        if after > 0 and before > 0:
            return float(np.clip(np.sqrt(after / before), 1 / _MOST_GAIN, _MOST_GAIN))
    return 1.0  # nothing is sung: there is nothing to compare with
