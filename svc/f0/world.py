"""dio and harvest of the WORLD vocoder through pyworld, each refined by stonemask (spec_f0 4 and
5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from svc.audio.pitch import F0Track, resize_linear
from svc.f0.settings import F0Settings
from svc.f0.wave import F0Wave
from svc.threads import cpu_threads

Array = npt.NDArray[np.float64]


class WorldPredictor:
    """Pitch by a WORLD estimator; pyworld releases Python's lock, so threads run in parallel.

    Args:
        name: "dio" (fast) or "harvest" (slower, fewer errors).
        settings: range, rates.
    """

    def __init__(self, name: str, settings: F0Settings) -> None:
        if name not in ("dio", "harvest"):
            raise ValueError(f"{name!r} is not a WORLD estimator")
        self.name = name
        self.settings = settings

    def __call__(self, wav: npt.NDArray[np.float32] | F0Wave) -> F0Track:
        """Return the track of a wave: (T,) samples -> T // hop_length frames. Raises AudioError for
        NaN samples.
        """
        import pyworld

        whole = F0Wave.of(wav, self.settings.sampling_rate)
        n_frames = self.settings.n_frames(whole.samples)
        padded = whole.prepared(self.settings).samples
        if n_frames == 0:
            return self.settings.empty()
        estimate: Callable[..., tuple[Array, Array]] = getattr(pyworld, self.name)
        wave = padded.astype(np.float64)
        coarse, times = estimate(
            wave,
            self.settings.sampling_rate,
            f0_floor=self.settings.f0_min,
            f0_ceil=self.settings.f0_max,
            frame_period=1000 * self.settings.hop_length / self.settings.sampling_rate,
        )
        raw = pyworld.stonemask(wave, coarse, times, self.settings.sampling_rate)
        if self.name == "dio":
            raw = np.round(raw, 1)  # the original rounds here and nowhere else
        resized = resize_linear(raw, self.settings.n_frames(padded))[:n_frames]
        return self.settings.finish(resized, classic=True)

    def track_batch(self, wavs: Sequence[npt.NDArray[np.float32] | F0Wave]) -> list[F0Track]:
        """Return the tracks of several waves, as many at a time as there are threads to use."""
        if len(wavs) < 2 or cpu_threads() == 1:
            return [self(wav) for wav in wavs]
        with ThreadPoolExecutor(cpu_threads()) as pool:
            return list(pool.map(self, wavs))
