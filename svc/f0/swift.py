"""swift: pitch by the small convolutional net of the swift-f0 package (arXiv 2508.18440 describes an
earlier, larger one).

The package holds one ONNX graph that takes the wave and gives pitch and confidence; it is located
and run, and the package is never imported. Of the graph this module knows what its description
says: 16 kHz, a frame per 256 samples, 46.9 to 2093.8 Hz, voiced from a confidence of 0.5, and no
frame hears further ahead than 176 ms.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from svc.audio.pitch import F0Track
from svc.errors import CheckpointError, ConfigError, MissingDependencyError
from svc.f0.settings import F0Settings
from svc.f0.wave import F0Wave
from svc.onnx_runtime import open_session

logger = logging.getLogger(__name__)

THRESHOLD = 0.5  # confidence from which the package calls a frame voiced
_EXTRA = "swift"
_RATE = 16000  # Hz
_LOWEST, _HIGHEST = 46.875, 2093.75  # Hz, what the net knows
_NARROWEST = 1.04125  # f0_max / f0_min; in less there is none of the net's pitches

# Longer audio is read in pieces, which give what one would: no frame hears more than 11 around it.
_PIECE = 1875  # frames, 30 s
_CONTEXT = 16  # frames

# The net does not look past the level of a recording: one that peaks lower is made as loud as this.
_QUIET_PEAK = 10 ** (-35 / 20)
_PEAK = 0.5
_SILENT_PEAK = 1e-4  # below this there is nothing but the noise of 16-bit samples

_FAR_CENTS = 600.0  # frames further apart are two notes, with no pitch in between

Raw = tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]


class SwiftPredictor:
    """Pitch by the swift-f0 graph, on the CPU; onnxruntime releases Python's lock.

    Args:
        graph: the graph file.
        settings: range, threshold, rates.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        CheckpointError: another graph.
        ConfigError: a range that holds none of the net's pitches.
    """

    name = "swift"

    def __init__(self, graph: Path, settings: F0Settings) -> None:
        self.settings = settings
        low, high = max(settings.f0_min, _LOWEST), min(settings.f0_max, _HIGHEST)
        if high < low * _NARROWEST:
            raise ConfigError(
                f"swift knows pitches from {_LOWEST:.0f} to {_HIGHEST:.0f} Hz, about 0.7 semitones"
                f" apart; f0_min {settings.f0_min} and f0_max {settings.f0_max} Hz leave none"
            )
        self._session, self._hop = _open(graph)

    def __call__(self, wav: npt.NDArray[np.float32] | F0Wave) -> F0Track:
        """Return the track of a wave: (T,) samples -> T // hop_length frames, with confidence.
        Raises AudioError for NaN samples.
        """
        settings = self.settings
        wave = F0Wave.of(wav, settings.sampling_rate)
        n_frames = settings.n_frames(wave.samples)
        padded = wave.prepared(settings)
        if n_frames == 0:
            return replace(settings.empty(), confidence=np.zeros(0, dtype=np.float32))
        pitch, confidence = self.raw_f0(padded)
        # Frames of the net and of the track both begin at the first sample.
        at = np.arange(n_frames) * (settings.hop_length * _RATE / settings.sampling_rate)
        f0, sure = _sample(pitch, confidence, at / self._hop, settings.threshold)
        return replace(settings.finish(f0, classic=False), confidence=sure)

    def track_batch(self, wavs: Sequence[npt.NDArray[np.float32] | F0Wave]) -> list[F0Track]:
        """Return the tracks of several waves, one after the other: the graph takes one at a time."""
        return [self(wav) for wav in wavs]

    def raw_f0(self, wave: F0Wave) -> Raw:
        """Pitch on the net's own grid of 62.5 frames per second.

        Args:
            wave: at the settings' rate.

        Returns:
            (F,) Hz, a guess for unvoiced frames too, and (F,) confidence; F = max(1, T16 // 256),
            T16 being T at 16 kHz.
        """
        samples = wave.samples_at_16k()
        peak = float(np.abs(samples).max(initial=0.0))
        if _SILENT_PEAK < peak < _QUIET_PEAK:
            samples = samples * np.float32(_PEAK / peak)
        n_frames = max(1, len(samples) // self._hop)
        parts = []
        for start in range(0, n_frames, _PIECE):
            stop = min(start + _PIECE, n_frames)
            first, last = max(0, start - _CONTEXT), stop + _CONTEXT
            end = last * self._hop if last < n_frames else None
            pitch, sure = self._infer(samples[first * self._hop : end])
            parts.append((pitch[start - first : stop - first], sure[start - first : stop - first]))
        pitch, sure = (np.concatenate(part) for part in zip(*parts, strict=True))
        return pitch, sure

    def _infer(self, samples: npt.NDArray[np.float32]) -> Raw:
        limits = {"fmin": self.settings.f0_min, "fmax": self.settings.f0_max}
        feed = {name: np.array(hz, dtype=np.float32) for name, hz in limits.items()}
        pitch, confidence = self._session.run(
            ["pitch", "confidence"], {"audio": samples[None], **feed}
        )
        return pitch[0], confidence[0]


def _sample(
    pitch: npt.NDArray[np.float64],
    confidence: npt.NDArray[np.float32],
    at: npt.NDArray[np.float64],
    threshold: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Read a track at other times, by straight lines in confidence and in cents.

    Between frames of different notes, or of which one is not voiced, the nearer one counts.

    Args:
        pitch: (F,) Hz.
        confidence: (F,) 0..1.
        at: (N,) times in frames, in order.
        threshold: confidence from which a frame is voiced.

    Returns:
        (N,) Hz, 0 = unvoiced, and (N,) confidence.
    """
    last = len(pitch) - 1
    at = np.minimum(at, last)
    left = np.floor(at).astype(np.int64)
    right = np.minimum(left + 1, last)
    share = at - left
    sure = ((1 - share) * confidence[left] + share * confidence[right]).astype(np.float32)
    cents = 1200 * np.log2(np.maximum(pitch, 1.0))
    nearer = np.where(share < 0.5, left, right)
    both = (confidence[left] >= threshold) & (confidence[right] >= threshold)
    joined = both & (np.abs(cents[right] - cents[left]) < _FAR_CENTS)
    between = (1 - share) * cents[left] + share * cents[right]
    hz = 2 ** (np.where(joined, between, cents[nearer]) / 1200)
    return np.where(sure >= threshold, hz, 0.0), sure


def swift_asset() -> Path | None:
    """Path of the graph inside the installed swift-f0 package, None where it is not installed.

    The package is located and never imported.
    """
    spec = importlib.util.find_spec("swift_f0")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "model.onnx"
        if path.is_file():
            return path
    return None


def build_swift(settings: F0Settings) -> SwiftPredictor:
    """Make the predictor from the graph inside the swift-f0 package.

    Args:
        settings: range, threshold, rates.

    Raises:
        MissingDependencyError: swift-f0 or onnxruntime is not installed.
        CheckpointError: a version of the package with another graph.
        ConfigError: a range that holds none of the net's pitches.
    """
    graph = swift_asset()
    if graph is None:
        raise MissingDependencyError(
            'swift needs the Python package "swift-f0", which is not installed: run '
            f' pip install "svc[{_EXTRA}]" , or use fcpe, crepe, pm, dio or harvest, which are there'
        )
    logger.info("swift: graph from %s", graph)
    return SwiftPredictor(graph, settings)


def _open(graph: Path) -> tuple[Any, int]:
    """Load the graph; return the session and its samples per frame."""
    again = "run  pip install --force-reinstall swift-f0"
    session = open_session(graph, "swift", again=again, extra=_EXTRA, installed=True)
    ports = {port.name for port in (*session.get_inputs(), *session.get_outputs())}
    facts = session.get_modelmeta().custom_metadata_map
    hop = facts.get("hop_size", "")
    wanted = {"audio", "fmin", "fmax", "pitch", "confidence"}
    if ports != wanted or facts.get("sample_rate") != str(_RATE) or not hop.isdigit():
        raise CheckpointError(
            f"{graph} is not the graph of swift-f0 0.3 (it has {', '.join(sorted(ports))}): run "
            f' pip install -U "svc[{_EXTRA}]"'
        )
    return session, int(hop)
