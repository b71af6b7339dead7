"""pm: Praat's autocorrelation method through parselmouth (spec_f0 3; Boersma 1993)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from svc.audio.pitch import F0Track
from svc.f0.settings import F0Settings
from svc.f0.wave import F0Wave

_VOICING_THRESHOLD = 0.6


class PraatPredictor:
    """Pitch by Praat's ``To Pitch (ac)``, which keeps Python's lock: threads do not help it."""

    name = "pm"

    def __init__(self, settings: F0Settings) -> None:
        self.settings = settings

    def __call__(self, wav: npt.NDArray[np.float32] | F0Wave) -> F0Track:
        """Return the track of a wave: (T,) samples -> T // hop_length frames; its confidence is the
        normalised autocorrelation, 0 where unvoiced. Raises AudioError for NaN samples.
        """
        import parselmouth

        settings = self.settings
        wave = F0Wave.of(wav, settings.sampling_rate)
        n_frames = settings.n_frames(wave.samples)
        padded = wave.prepared(settings).samples
        if n_frames == 0:
            return replace(settings.empty(), confidence=np.zeros(0, dtype=np.float32))
        pitch = parselmouth.Sound(
            padded.astype(np.float64), sampling_frequency=settings.sampling_rate
        ).to_pitch_ac(
            time_step=settings.frame_seconds,
            voicing_threshold=_VOICING_THRESHOLD,
            pitch_floor=settings.f0_min,
            pitch_ceiling=settings.f0_max,
        )
        raw = pitch.selected_array["frequency"]
        strength = pitch.selected_array["strength"] * (raw > 0)
        # Praat leaves out the frames whose window would reach beyond the ends; they count as
        # unvoiced.
        absent = max(0, settings.n_frames(padded) - len(raw))
        left = (absent + 1) // 2
        f0, confidence = (
            np.pad(part, (left, absent - left))[:n_frames] for part in (raw, strength)
        )
        track = settings.finish(f0, classic=True)
        return replace(track, confidence=confidence.clip(0, 1).astype(np.float32))

    def track_batch(self, wavs: Sequence[npt.NDArray[np.float32] | F0Wave]) -> list[F0Track]:
        """Return the tracks of several waves, one after the other."""
        return [self(wav) for wav in wavs]
