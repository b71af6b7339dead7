"""pm: Praat's autocorrelation method through parselmouth (spec_f0 3; Boersma 1993)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from svc.audio.pitch import F0Track
from svc.f0.settings import F0Settings

_VOICING_THRESHOLD = 0.6


class PraatPredictor:
    """Pitch by Praat's ``To Pitch (ac)``."""

    name = "pm"

    def __init__(self, settings: F0Settings) -> None:
        self.settings = settings

    def __call__(self, wav: npt.NDArray[np.float32]) -> F0Track:
        """Return the track of a wave: (T,) samples -> T // hop_length frames. Raises AudioError for
        NaN samples.
        """
        import parselmouth

        n_frames = self.settings.n_frames(wav)
        if n_frames == 0:
            self.settings.prepare(wav)
            return self.settings.empty()
        padded = self.settings.prepare(wav)
        pitch = parselmouth.Sound(
            padded.astype(np.float64), sampling_frequency=self.settings.sampling_rate
        ).to_pitch_ac(
            time_step=self.settings.frame_seconds,
            voicing_threshold=_VOICING_THRESHOLD,
            pitch_floor=self.settings.f0_min,
            pitch_ceiling=self.settings.f0_max,
        )
        raw = pitch.selected_array["frequency"]
        # Praat leaves out the frames whose window would reach beyond the ends; they count as
        # unvoiced.
        absent = max(0, self.settings.n_frames(padded) - len(raw))
        left = (absent + 1) // 2
        aligned = np.pad(raw, (left, absent - left))[:n_frames]
        return self.settings.finish(aligned, classic=True)
