"""Levels of a recording that comes in blocks: what the slicer decides by. Nothing of the audio is kept."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]

_STEP = 1 << 16  # samples that are measured at once; bounds the work space, changes no level


class FrameLevels:
    """RMS of centred, zero-padded frames, as ``librosa.feature.rms``, however the samples arrive.

    Args:
        frame_length: samples per frame.
        hop_length: samples between frames.

    Attributes:
        n_samples: samples that were fed.
    """

    def __init__(self, frame_length: int, hop_length: int) -> None:
        self._frame, self._hop = frame_length, hop_length
        self.n_samples = 0
        # What the next frame needs, and what has not been looked at; in front of it all half a frame
        # of zeros.
        self._waiting = [np.zeros(frame_length // 2, dtype=np.float32)]
        self._n_waiting = frame_length // 2
        self._to_skip = 0  # samples between two frames that touch neither, where hop > frame
        self._levels: list[npt.NDArray[np.float32]] = []

    def feed(self, block: FloatArray) -> None:
        """Take the next samples, (n,), any n."""
        if block.ndim != 1:
            raise ValueError(f"a block must be (n,), not {block.shape}")
        self.n_samples += block.size
        for start in range(0, block.size, _STEP):
            self._wait(np.array(block[start : start + _STEP], dtype=np.float32))
            if self._n_waiting >= _STEP:
                self._measure()

    def finish(self) -> npt.NDArray[np.float32]:
        """Return the levels, float32 (1 + T // hop_length,) for even frame lengths.

        Frame k is centred on sample k * hop_length. Nothing may be fed afterwards.
        """
        self._wait(np.zeros(self._frame // 2, dtype=np.float32))
        self._measure()
        return np.concatenate(self._levels) if self._levels else np.zeros(0, dtype=np.float32)

    def _wait(self, samples: npt.NDArray[np.float32]) -> None:
        skipped = min(self._to_skip, samples.size)
        self._to_skip -= skipped
        self._waiting.append(samples[skipped:])
        self._n_waiting += samples.size - skipped

    def _measure(self) -> None:
        """Measure the frames that are whole."""
        if self._n_waiting < self._frame:
            return
        samples = np.concatenate(self._waiting)
        frames = np.lib.stride_tricks.sliding_window_view(samples, self._frame)[:: self._hop]
        # A frame is summed by itself, so its level has the same bits whichever frames are beside it.
        self._levels.append(np.sqrt(np.square(frames).mean(axis=-1)))
        done = len(frames) * self._hop
        self._to_skip = max(0, done - samples.size)
        self._waiting = [samples[done:].copy()]
        self._n_waiting = self._waiting[0].size
