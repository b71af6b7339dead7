from __future__ import annotations

import numpy as np
import pytest

from svc.audio.resample import resample
from svc.audio.resample_stream import ResampleStream

RATES = [
    (48000, 44100), (44100, 44100), (8000, 44100), (192000, 44100), (22050, 44100), (44100, 16000),
    (44101, 44100), (12345, 44100), (44100, 48000),
]  # fmt: skip


def streamed(wav: np.ndarray, stream: ResampleStream, sizes: list[int]) -> np.ndarray:
    parts, start = [], 0
    for size in [*sizes, wav.shape[-1]]:
        block = wav[..., start : start + size].copy()
        parts.append(stream.feed(block))
        block[:] = np.nan
        start += size
    return np.concatenate([*parts, stream.finish()], axis=-1)


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("n", [0, 1, 7, 500, 33000, 150_001])
def test_it_is_bit_for_bit_the_resampling_of_the_whole(
    rng: np.random.Generator, rates: tuple[int, int], n: int
) -> None:
    wav = (0.3 * rng.standard_normal(n)).astype(np.float32)
    expected = resample(wav, *rates)
    for sizes in ([], [1] * min(n, 300), rng.integers(0, 9000, 20).tolist()):
        np.testing.assert_array_equal(streamed(wav, ResampleStream(*rates), sizes), expected)


def test_several_channels(rng: np.random.Generator) -> None:
    wav = (0.3 * rng.standard_normal((2, 70_000))).astype(np.float32)
    for rates in ((48000, 44100), (44100, 44100)):
        made = streamed(wav, ResampleStream(*rates, n_channels=2), [1, 5, 40_000])
        np.testing.assert_array_equal(made, resample(wav, *rates))
        assert made.flags.c_contiguous


def test_samples_come_out_while_others_go_in(rng: np.random.Generator) -> None:
    stream = ResampleStream(48000, 44100)
    block = rng.standard_normal(48000).astype(np.float32)
    behind = [round(44100 * (k + 1)) for k in range(20)]
    ready = np.cumsum([stream.feed(block).size for _ in range(20)])
    assert max(np.array(behind) - ready) < 44100


def test_mistakes_of_the_caller() -> None:
    with pytest.raises(ValueError, match="positive"):
        ResampleStream(0, 44100)
    with pytest.raises(ValueError, match="a block must be"):
        ResampleStream(48000, 44100).feed(np.zeros((2, 9), np.float32))
    with pytest.raises(ValueError, match="a block must be"):
        ResampleStream(48000, 44100, 2).feed(np.zeros((3, 9), np.float32))
