from __future__ import annotations

import numpy as np
import pytest

from svc.audio import levels as module
from svc.audio.levels import FrameLevels


def whole(wav: np.ndarray, frame: int, hop: int) -> np.ndarray:
    """RMS of all frames of a recording at once."""
    padded = np.pad(wav.astype(np.float32), frame // 2)
    if padded.size < frame:
        return np.zeros(0, np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(padded, frame)[::hop]
    return np.sqrt(np.square(frames).mean(axis=-1))


@pytest.mark.parametrize(
    ("frame", "hop"), [(3528, 882), (640, 160), (400, 100), (7, 3), (5, 5), (4, 11), (1, 1)]
)
@pytest.mark.parametrize("step", [50, 1000, 1 << 16])
def test_levels_do_not_depend_on_the_blocks(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, frame: int, hop: int, step: int
) -> None:
    monkeypatch.setattr(module, "_STEP", step)
    for n in (0, 1, frame // 2, frame, 5 * frame + 1, 6000):
        wav = rng.standard_normal(n).astype(np.float32)
        for sizes in (np.ones(n, int), rng.integers(0, 3 * hop + 2, n), np.array([n])):
            measured = FrameLevels(frame, hop)
            start = 0
            for size in sizes.tolist():
                block = wav[start : start + size].copy()
                measured.feed(block)
                block[:] = np.nan  # whoever reads a file may use its buffer again
                start += size
                if start >= n:
                    break
            assert measured.n_samples == n
            np.testing.assert_array_equal(measured.finish(), whole(wav, frame, hop))


def test_a_block_has_one_channel() -> None:
    with pytest.raises(ValueError, match=r"\(2, 5\)"):
        FrameLevels(4, 2).feed(np.zeros((2, 5), np.float32))
