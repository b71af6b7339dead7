"""What every pitch predictor is told, and the checks and the ending all of them share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from svc.audio.pitch import F0Track, interpolate_unvoiced
from svc.errors import AudioError, ConfigError

_SHORTEST_S = 0.1  # Praat and the nets need some context; shorter clips are zero-padded to it


@dataclass(frozen=True)
class F0Settings:
    """Options of a predictor, checked at construction (ConfigError names the wrong one)."""

    sampling_rate: int = 44100  # Hz, of the waves that come in
    hop_length: int = 512  # samples per frame of the track
    f0_min: float = 50.0  # Hz, lowest pitch looked for
    f0_max: float = 1100.0  # Hz, highest
    threshold: float = 0.05  # of the nets: confidence, 0..1, up to which a frame is unvoiced
    compat: bool = False  # so-vits-svc 4.1 to the last digit, with its slips (spec_f0 10)

    def __post_init__(self) -> None:
        if self.sampling_rate <= 0 or self.hop_length <= 0:
            raise ConfigError(
                f"sampling rate {self.sampling_rate} and hop length {self.hop_length} must be"
                " above 0"
            )
        if not 0 < self.f0_min < self.f0_max:
            raise ConfigError(
                "the pitch range must satisfy 0 < f0_min < f0_max,"
                f" not {self.f0_min} and {self.f0_max} Hz"
            )
        if self.f0_max >= self.sampling_rate / 2:
            raise ConfigError(
                f"f0_max {self.f0_max} Hz must be below half the sampling rate,"
                f" {self.sampling_rate / 2:g} Hz"
            )
        if not 0 <= self.threshold < 1:
            raise ConfigError(f"the F0 threshold must lie in 0..1, not {self.threshold}")

    @property
    def frame_seconds(self) -> float:
        """Time between frames."""
        return self.hop_length / self.sampling_rate

    def n_frames(self, wav: npt.NDArray[np.float32]) -> int:
        """Frames of the track of a wave: floor(T / hop_length)."""
        return len(wav) // self.hop_length

    def prepare(self, wav: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Check a wave, and zero-pad a short one to what every method can work on.

        Args:
            wav: (T,) samples at `sampling_rate` in [-1, 1].

        Returns:
            float32 (T',), T' >= T, at least 100 ms and four periods of `f0_min`.

        Raises:
            AudioError: NaN or infinite samples.
            ValueError: not one-dimensional.
        """
        if wav.ndim != 1:
            raise ValueError(f"expected a mono wave (T,), got shape {wav.shape}")
        wav = np.ascontiguousarray(wav, dtype=np.float32)
        bad = int(np.count_nonzero(~np.isfinite(wav)))
        if bad:
            raise AudioError(
                f"the audio holds {bad} samples of {len(wav)} that are not numbers (NaN or"
                " infinite); export it again from the program that made it"
            )
        shortest = int(np.ceil(max(_SHORTEST_S, 4 / self.f0_min) * self.sampling_rate))
        return np.pad(wav, (0, max(0, shortest - len(wav))))

    def empty(self) -> F0Track:
        """Return the track of a wave shorter than one hop: no frames."""
        nothing = np.zeros(0, dtype=np.float32)
        return F0Track(nothing, nothing.copy())

    def finish(self, f0: npt.NDArray[np.floating], *, classic: bool) -> F0Track:
        """Fill the gaps of a raw track (spec_f0 2.1).

        Args:
            f0: (N,) Hz, 0 = unvoiced.
            classic: the predictor is pm, dio or harvest, which in compat mode fill gaps with point
                times in float32 and lose a single voiced frame.

        Returns:
            The track: f0 without gaps (zeros if nothing is voiced), uv 1 = voiced before filling.
        """
        original = self.compat and classic
        filled, uv = interpolate_unvoiced(
            f0,
            hop_length=self.hop_length,
            sr=self.sampling_rate,
            times="float32" if original else "float64",
            compat=original,
        )
        return F0Track(filled.astype(np.float32), uv)
