"""Change of sampling rate of a recording that comes in blocks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import soxr

from svc.audio.resample import resampled_length

FloatArray = npt.NDArray[np.float32]

_STEP = 1 << 15  # samples that are resampled at once


class ResampleStream:
    """What `svc.audio.resample.resample` does, block by block.

    All parts together are bit for bit what `resample` makes of the whole, whatever the sizes of the
    blocks: soxr gets steps of one size from here, and its own whole-array function is such a loop.

    Args:
        orig_sr: rate of what is fed, Hz.
        new_sr: the rate wanted, Hz.
        n_channels: C of blocks (C, n); None = blocks are mono, (n,).

    Raises:
        ValueError: a rate that is no positive whole number.
    """

    def __init__(self, orig_sr: int, new_sr: int, n_channels: int | None = None) -> None:
        if orig_sr != int(orig_sr) or new_sr != int(new_sr) or orig_sr <= 0 or new_sr <= 0:
            raise ValueError(
                f"sampling rates must be positive whole numbers, not {orig_sr}, {new_sr}"
            )
        self._rates = orig_sr, new_sr
        self._shape = () if n_channels is None else (n_channels,)
        self._soxr = None
        if orig_sr != new_sr:
            self._soxr = soxr.ResampleStream(orig_sr, new_sr, n_channels or 1, "float32", "HQ")
        self._waiting: list[FloatArray] = []  # (n, C) or (n,), as soxr wants them
        self._n_waiting = self._n_in = self._n_out = 0

    def feed(self, block: npt.NDArray[np.floating]) -> FloatArray:
        """Take the next samples and return those that are ready, possibly none.

        Args:
            block: (n,) or (C, n), any n; it may be overwritten afterwards.

        Returns:
            float32 (m,) or (C, m).
        """
        if block.ndim != 1 + len(self._shape) or block.shape[:-1] != self._shape:
            raise ValueError(f"a block must be {(*self._shape, 'n')}, not {block.shape}")
        self._n_in += block.shape[-1]
        done = []
        for start in range(0, block.shape[-1], _STEP):
            self._waiting.append(np.array(block[..., start : start + _STEP].T, dtype=np.float32))
            self._n_waiting += self._waiting[-1].shape[0]
            while self._n_waiting >= _STEP:
                samples = np.concatenate(self._waiting)
                self._waiting = [samples[_STEP:]]
                self._n_waiting -= _STEP
                done.append(self._resample(samples[:_STEP], last=False))
        return self._out(done)

    def finish(self) -> FloatArray:
        """Return the rest; all parts together have ceil(T * new_sr / orig_sr) samples.

        Nothing may be fed afterwards.
        """
        rest = [np.zeros((0, *self._shape), dtype=np.float32), *self._waiting]
        n_left = resampled_length(self._n_in, *self._rates) - self._n_out
        done = self._resample(np.concatenate(rest), last=True)[:n_left]
        missing = np.zeros((n_left - done.shape[0], *self._shape), dtype=np.float32)
        return self._out([done, missing])

    def _resample(self, samples: FloatArray, *, last: bool) -> FloatArray:
        if self._soxr is None or self._n_in == 0:
            return samples
        done: FloatArray = self._soxr.resample_chunk(np.ascontiguousarray(samples), last=last)
        return done

    def _out(self, parts: list[FloatArray]) -> FloatArray:
        whole = np.concatenate([np.zeros((0, *self._shape), dtype=np.float32), *parts])
        self._n_out += whole.shape[0]
        return np.ascontiguousarray(whole.T)
