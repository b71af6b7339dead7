"""What a conversion did to a song, in figures: pitch, voicing, loudness, whose voice it is.

Everything compares the source song with the output on one grid of frames; the output is expected to
follow the source's time axis, its pitch `transpose` semitones away.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from svc.audio.io import read_audio
from svc.audio.loudness import rms_frames
from svc.audio.pitch import cents
from svc.audio.pitch import transpose as transpose_f0
from svc.audio.resample import resample
from svc.errors import AudioError, ConfigError
from svc.evaluation.timbre import envelope_cepstra, timbre_distance, timbre_from_files, timbre_of
from svc.f0 import F0Predictor, build_f0_predictor

FloatArray = npt.NDArray[np.floating]

SAMPLING_RATE = 44100  # Hz, of all comparisons
HOP = 512  # samples between frames, 11.6 ms
GROSS_CENTS = 50.0  # a quarter tone: the listener hears another pitch
_LEVEL_WINDOW = 2048  # samples
_FLOOR_DB = -90.0  # levels below it are all "nothing"
_ACTIVE_RANGE_DB = 40.0  # further below the loud frames, the source does not count for loudness
_SILENT_DBFS = -60.0  # the source is silent there
_OCTAVE_TOLERANCE = 100.0  # cents


@dataclass(frozen=True)
class Figures:
    """The figures of a conversion. None = there was nothing to measure it on.

    Attributes:
        f0_median_cents: median of the absolute pitch error over frames voiced in both,
            transposition added.
        f0_p95_cents: its 95th percentile.
        f0_gross_percent: share of these frames more than 50 cents off.
        f0_octave_percent: share of these frames one or two octaves off (within 100 cents).
        voiced_right_percent: share of all frames in which source and output agree on voiced or not.
        loudness_error_db: RMS of the level difference over frames where the source sounds, mean
            gain removed.
        gain_db: that mean gain, output over source.
        silence_dbfs: RMS level of the output where the source is silent.
        distance_to_target: timbre distance from output to target voice, nats
            (`timbre.timbre_distance`).
        distance_to_source: timbre distance from output to the source's voice; small = the source
            leaks through.
        distance_before: timbre distance from the source song to the target voice, for comparison.
        peak_dbfs: highest sample of the output.
        lufs: integrated loudness of the output, ITU-R BS.1770.
        source_seconds: length of the source.
        output_seconds: length of the output.
        transpose: semitones that were asked for.
        f0_predictor: whose F0 the figures rest on.
    """

    f0_median_cents: float | None
    f0_p95_cents: float | None
    f0_gross_percent: float | None
    f0_octave_percent: float | None
    voiced_right_percent: float
    loudness_error_db: float | None
    gain_db: float | None
    silence_dbfs: float | None
    distance_to_target: float | None
    distance_to_source: float | None
    distance_before: float | None
    peak_dbfs: float
    lufs: float | None
    source_seconds: float
    output_seconds: float
    transpose: float
    f0_predictor: str

    @property
    def summary(self) -> str:
        """All that matters in one line."""
        parts: list[str] = []
        if self.f0_median_cents is None:
            parts.append("F0 error: no frame voiced in both")
        else:
            parts.append(
                f"F0 error {self.f0_median_cents:.0f} cents (95 %: {self.f0_p95_cents:.0f}), "
                f"{self.f0_gross_percent:.1f} % of frames over {GROSS_CENTS:.0f} cents, "
                f"{self.f0_octave_percent:.1f} % octave jumps"
            )
        parts.append(f"voiced frames right {self.voiced_right_percent:.1f} %")
        if self.loudness_error_db is not None:
            parts.append(f"loudness error {self.loudness_error_db:.1f} dB")
        if self.distance_to_target is not None:
            before = (
                "" if self.distance_before is None else f" (source song {self.distance_before:.2f})"
            )
            parts.append(f"distance to target voice {self.distance_to_target:.2f}{before}")
        if self.distance_to_source is not None:
            parts.append(f"to source voice {self.distance_to_source:.2f}")
        if self.silence_dbfs is not None:
            parts.append(f"in silence {self.silence_dbfs:.0f} dBFS")
        loudness = "" if self.lufs is None else f", {self.lufs:.1f} LUFS"
        parts.append(f"peak {self.peak_dbfs:.1f} dBFS{loudness}")
        return "; ".join(parts)

    def as_dict(self) -> dict[str, float | str | None]:
        """The figures by name, and the summary: what goes into a JSON file."""
        return {**dataclasses.asdict(self), "summary": self.summary}


class PitchFigures(TypedDict):
    """The fields of `Figures` that come from the two pitch tracks."""

    f0_median_cents: float | None
    f0_p95_cents: float | None
    f0_gross_percent: float | None
    f0_octave_percent: float | None
    voiced_right_percent: float


class LevelFigures(TypedDict):
    """The fields of `Figures` that come from the two level curves."""

    loudness_error_db: float | None
    gain_db: float | None
    silence_dbfs: float | None


class VoiceFigures(TypedDict):
    """The fields of `Figures` that come from the timbre."""

    distance_to_target: float | None
    distance_to_source: float | None
    distance_before: float | None


@dataclass(frozen=True)
class Recording:
    """One side of a comparison.

    Attributes:
        path: where it was read.
        wav: (T,) float32 at `SAMPLING_RATE`.
        f0: (N,) Hz, 0 = unvoiced; N = T // HOP.
        level_db: (N,) dBFS.
        seconds: length of the file.
    """

    path: Path
    wav: npt.NDArray[np.float32]
    f0: FloatArray
    level_db: FloatArray
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """Both recordings and the figures: all that a picture needs."""

    source: Recording
    output: Recording
    figures: Figures


def compare(
    source_path: str | Path,
    output_path: str | Path,
    *,
    target_clips: Sequence[Path] = (),
    source_clips: Sequence[Path] = (),
    transpose: float = 0.0,
    f0_predictor: str = "pm",
    f0_min: float = 50.0,
    f0_max: float = 1100.0,
) -> Figures:
    """Measure a conversion; the arguments are those of `analyse`."""
    return analyse(
        source_path,
        output_path,
        target_clips=target_clips,
        source_clips=source_clips,
        transpose=transpose,
        f0_predictor=f0_predictor,
        f0_min=f0_min,
        f0_max=f0_max,
    ).figures


def analyse(
    source_path: str | Path,
    output_path: str | Path,
    *,
    target_clips: Sequence[Path] = (),
    source_clips: Sequence[Path] = (),
    transpose: float = 0.0,
    f0_predictor: str = "pm",
    f0_min: float = 50.0,
    f0_max: float = 1100.0,
) -> Comparison:
    """Measure a conversion and keep what a picture of it needs.

    Args:
        source_path: the song that was converted.
        output_path: what came out.
        target_clips: recordings of the voice it should have; empty = no distance to it.
        source_clips: recordings of the voice of the source; empty = the source song itself.
        transpose: semitones that the conversion added.
        f0_predictor: an id of `svc.f0`.
        f0_min: Hz, lowest pitch looked for.
        f0_max: Hz, highest.

    Returns:
        The recordings and the figures.

    Raises:
        AudioError: a file cannot be read or is shorter than a frame; the clips hold no voice.
        ConfigError: unknown predictor; a transposition beyond five octaves.
    """
    if not abs(transpose) <= 60:
        raise ConfigError(
            f"--transpose {transpose:g} is beyond five octaves; give semitones, -60 to 60"
        )
    predictor = build_f0_predictor(
        f0_predictor, sampling_rate=SAMPLING_RATE, hop_length=HOP, f0_min=f0_min, f0_max=f0_max
    )
    source = _record(Path(source_path), predictor)
    output = _record(Path(output_path), predictor)
    frames = min(len(source.f0), len(output.f0))
    wanted = transpose_f0(source.f0[:frames].astype(np.float64), transpose)
    figures = Figures(
        **pitch_figures(wanted, output.f0[:frames]),
        **level_figures(source.level_db[:frames], output.level_db[:frames]),
        **_voice_figures(source, output, target_clips, source_clips),
        peak_dbfs=_to_db(float(np.max(np.abs(output.wav)))),
        lufs=_lufs(output.wav),
        source_seconds=source.seconds,
        output_seconds=output.seconds,
        transpose=float(transpose),
        f0_predictor=f0_predictor,
    )
    return Comparison(source, output, figures)


def pitch_figures(wanted: FloatArray, got: FloatArray) -> PitchFigures:
    """Compare two pitch tracks.

    Args:
        wanted: (N,) Hz, 0 = unvoiced, N >= 1.
        got: (N,) Hz, 0 = unvoiced.

    Returns:
        The fields f0_* and voiced_right_percent of `Figures`.
    """
    error = np.abs(cents(got, wanted))
    error = error[np.isfinite(error)]
    result: PitchFigures = {
        "f0_median_cents": None,
        "f0_p95_cents": None,
        "f0_gross_percent": None,
        "f0_octave_percent": None,
        "voiced_right_percent": float(100 * np.mean((wanted > 0) == (got > 0))),
    }
    if len(error):
        octave = np.round(error / 1200)
        jumped = (
            (octave >= 1) & (octave <= 2) & (np.abs(error - 1200 * octave) <= _OCTAVE_TOLERANCE)
        )
        result["f0_median_cents"] = float(np.median(error))
        result["f0_p95_cents"] = float(np.percentile(error, 95))
        result["f0_gross_percent"] = float(100 * np.mean(error > GROSS_CENTS))
        result["f0_octave_percent"] = float(100 * np.mean(jumped))
    return result


def level_figures(source_db: FloatArray, output_db: FloatArray) -> LevelFigures:
    """Compare two level curves.

    Args:
        source_db: (N,) dBFS per frame.
        output_db: (N,) dBFS per frame.

    Returns:
        The fields loudness_error_db, gain_db and silence_dbfs of `Figures`.
    """
    loud = float(np.percentile(source_db, 95))
    active = (source_db > loud - _ACTIVE_RANGE_DB) & (source_db > _SILENT_DBFS)
    quiet = source_db < _SILENT_DBFS
    # A level window reaches two frames to each side: leave out what only borders on silence.
    for shift in (1, 2):
        quiet = quiet & np.pad(quiet, (shift, 0), constant_values=True)[:-shift]
        quiet = quiet & np.pad(quiet, (0, shift), constant_values=True)[shift:]
    result: LevelFigures = {
        "loudness_error_db": None,
        "gain_db": None,
        "silence_dbfs": None,
    }
    if active.any():
        difference = output_db[active] - source_db[active]
        gain = float(np.mean(difference))
        result["gain_db"] = gain
        result["loudness_error_db"] = float(np.sqrt(np.mean((difference - gain) ** 2)))
    if np.count_nonzero(quiet) >= 10:
        result["silence_dbfs"] = float(10 * np.log10(np.mean(10 ** (output_db[quiet] / 10))))
    return result


def _voice_figures(
    source: Recording,
    output: Recording,
    target_clips: Sequence[Path],
    source_clips: Sequence[Path],
) -> VoiceFigures:
    """The fields distance_* of `Figures`."""
    song = timbre_of([envelope_cepstra(source.wav, SAMPLING_RATE)])
    heard = timbre_of([envelope_cepstra(output.wav, SAMPLING_RATE)])
    target = timbre_from_files(target_clips) if target_clips else None
    singer = timbre_from_files(source_clips) if source_clips else song
    return {
        "distance_to_target": timbre_distance(heard, target) if heard and target else None,
        "distance_to_source": timbre_distance(heard, singer) if heard and singer else None,
        "distance_before": timbre_distance(song, target) if song and target else None,
    }


def _record(path: Path, predictor: F0Predictor) -> Recording:
    wav, sr = read_audio(path)
    if len(wav) < sr * HOP / SAMPLING_RATE:
        raise AudioError(
            f"{path} is only {len(wav) / sr:.3f} s long; there is nothing to compare in it"
        )
    low = resample(wav, sr, SAMPLING_RATE)
    track = predictor(low)
    frames = len(track.f0)
    level = rms_frames(low, _LEVEL_WINDOW, HOP)[:frames]
    level_db = 20 * np.log10(np.maximum(level, 10 ** (_FLOOR_DB / 20)))
    return Recording(path, low, np.where(track.uv > 0, track.f0, 0.0), level_db, len(wav) / sr)


def _to_db(amplitude: float) -> float:
    return float(20 * np.log10(max(amplitude, 10 ** (_FLOOR_DB / 20))))


def _lufs(wav: npt.NDArray[np.float32]) -> float | None:
    """Integrated loudness; None for silence and for less than one block of 0.4 s."""
    import pyloudnorm

    if len(wav) <= 0.4 * SAMPLING_RATE:
        return None
    # All blocks below the gate of -70 LUFS make it take the mean of nothing: minus infinity, which
    # is "None" here.
    with np.errstate(all="ignore"):
        value = float(pyloudnorm.Meter(SAMPLING_RATE).integrated_loudness(wav.astype(np.float64)))
    return value if np.isfinite(value) else None
