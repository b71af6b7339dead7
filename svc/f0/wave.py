"""A clip on its way into pitch predictors: its samples, and one resampled copy that the nets share."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from svc.audio.resample import sinc_resample, sinc_resample_array

if TYPE_CHECKING:  # torch is loaded where a net asks for its rate
    import torch
    from torch import Tensor

    from svc.f0.settings import F0Settings

_NET_RATE = 16000  # Hz, what rmvpe, crepe and fcpe were trained on
_RESAMPLE_WIDTH = 128  # zero crossings of the sinc in front of the nets (spec_f0 7.2)


class F0Wave:
    """A mono wave that several predictors look at; what they resample is computed once.

    Args:
        samples: (T,) samples in [-1, 1]; kept as float32, without a copy where possible, and not to
            be changed afterwards.
        sampling_rate: its rate, Hz.

    Raises:
        ValueError: not one-dimensional, or a rate that is not above 0.
    """

    def __init__(self, samples: npt.NDArray[np.floating], sampling_rate: int) -> None:
        samples = np.asarray(samples)
        if samples.ndim != 1:
            raise ValueError(f"expected a mono wave (T,), got shape {samples.shape}")
        if sampling_rate <= 0:
            raise ValueError(f"the sampling rate must be above 0, not {sampling_rate}")
        self.samples: npt.NDArray[np.float32] = np.ascontiguousarray(samples, dtype=np.float32)
        self.sampling_rate = sampling_rate
        self._resampled: dict[tuple[int, torch.device], Tensor] = {}
        self._at_16k: npt.NDArray[np.float32] | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, wav: npt.NDArray[np.floating] | F0Wave, sampling_rate: int) -> F0Wave:
        """Return `wav` itself if it is an F0Wave, else wrap the array.

        Args:
            wav: (T,) samples, or a wave.
            sampling_rate: the rate that the caller works at, Hz.

        Raises:
            ValueError: not one-dimensional, or a wave of another rate.
        """
        if not isinstance(wav, F0Wave):
            return cls(wav, sampling_rate)
        if wav.sampling_rate != sampling_rate:
            raise ValueError(
                f"a wave at {wav.sampling_rate} Hz was given to a predictor for {sampling_rate} Hz"
            )
        return wav

    def __len__(self) -> int:
        """Samples."""
        return len(self.samples)

    def prepared(self, settings: F0Settings) -> F0Wave:
        """Check the samples; a wave too short for the methods comes back zero-padded, any other is
        returned itself, so that what has been resampled stays shared.

        Args:
            settings: what the predictor was told; its `prepare` says which length is enough.

        Raises:
            AudioError: NaN or infinite samples.
        """
        padded = settings.prepare(self.samples)
        return self if len(padded) == len(self) else F0Wave(padded, self.sampling_rate)

    def at_16k(self, device: torch.device | str = "cpu") -> Tensor:
        """Return the wave at 16 kHz, resampled as in front of rmvpe and fcpe (spec_f0 7.2): float32
        (1, ceil(T * 16000 / sr)), shared, not to be changed.
        """
        return self.at_rate(_NET_RATE, device)

    def samples_at_16k(self) -> npt.NDArray[np.float32]:
        """Return what `at_16k` does, (ceil(T * 16000 / sr),), without torch where it is not loaded."""
        if "torch" in sys.modules:
            return self.at_16k("cpu")[0].numpy()
        with self._lock:
            if self._at_16k is None:
                self._at_16k = sinc_resample_array(
                    self.samples, self.sampling_rate, _NET_RATE, lowpass_width=_RESAMPLE_WIDTH
                )
            return self._at_16k

    def at_rate(self, rate: int, device: torch.device | str = "cpu") -> Tensor:
        """Return the wave at another rate, computed at the first call for a rate and device.

        Safe to call from several threads.

        Args:
            rate: Hz.
            device: where to compute and keep it.

        Returns:
            float32 (1, ceil(T * rate / sr)); shared by all callers, not to be changed.
        """
        import torch

        key = rate, torch.device(device)
        with self._lock:
            if key not in self._resampled:
                # Tensors made in inference mode could not be used outside of it.
                with torch.inference_mode(False), torch.no_grad():
                    # A copy, so that read-only arrays are accepted.
                    wave = torch.tensor(self.samples, device=key[1])[None]
                    self._resampled[key] = sinc_resample(
                        wave, self.sampling_rate, rate, lowpass_width=_RESAMPLE_WIDTH
                    )
            return self._resampled[key]
