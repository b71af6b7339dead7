"""What is compared with units: log-mel frames, their surroundings, the place alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from svc.audio.mel import whisper_mel
from svc.evaluation.frame_features import (
    BASELINES,
    HOP,
    encoder_features,
    mel_features,
    moved,
    place_features,
    with_context,
)


@pytest.mark.parametrize("n_samples", [0, 100, 320, 16000, 480000, 480319, 481000])
def test_one_frame_for_each_full_hop(rng, n_samples):
    wav = (0.1 * rng.standard_normal(n_samples)).astype(np.float32)
    n_frames = max(1, n_samples // HOP)
    assert mel_features(wav).shape == (n_frames, 80)
    assert place_features(wav).shape == (n_frames, 64)
    for features in BASELINES.values():
        found = features(wav)
        assert len(found) == n_frames
        assert found.dtype == np.float32
        assert np.isfinite(found).all()


def test_mel_frames_are_pairs_of_what_whisper_hears(rng):
    wav = (0.1 * rng.standard_normal(32000)).astype(np.float32)
    padded = torch.zeros(1, 480000)
    padded[0, : len(wav)] = torch.from_numpy(wav)
    mel = whisper_mel()(padded)[0].T.numpy()
    assert np.allclose(mel_features(wav), (mel[:200:2] + mel[1:200:2]) / 2, atol=1e-6)


def test_context_puts_neighbours_beside_a_frame_and_the_mean_beyond_the_ends():
    frames = np.arange(8, dtype=np.float32).reshape(4, 2)
    wide = with_context(lambda wav: frames, 1)(np.zeros(1, np.float32)).reshape(4, 2, 3)
    assert wide[:, :, 1].tolist() == frames.tolist()
    assert wide[1:, :, 0].tolist() == frames[:-1].tolist()
    assert wide[:-1, :, 2].tolist() == frames[1:].tolist()
    assert wide[0, :, 0].tolist() == wide[3, :, 2].tolist() == [3.0, 4.0]


def test_moving_adds_silence_before_the_clip_and_takes_its_frames_away(rng):
    seen: list[int] = []

    def count(wav: np.ndarray) -> np.ndarray:
        n_frames = len(wav) // HOP
        seen.append(n_frames)
        return np.stack([np.arange(n_frames), wav[: n_frames * HOP : HOP]], axis=1)

    clips = [rng.standard_normal(3200).astype(np.float32) for _ in range(20)]
    for wav in clips:
        found = moved(count, 1.0)(wav)
        assert len(found) == 10
        assert found[:, 0].tolist() == list(range(seen[-1] - 10, seen[-1]))
        assert np.array_equal(found[:, 1], wav[::HOP].astype(float))
    assert all(10 <= n <= 60 for n in seen)
    assert len(set(seen)) > 10
    again = list(seen)
    seen.clear()
    for wav in clips:
        moved(count, 1.0)(wav)
    assert seen == again


def test_places_differ_and_near_ones_are_alike():
    frames = place_features(np.zeros(30 * 16000, np.float32))
    product = frames @ frames.T / 32
    assert np.allclose(np.diag(product), 1, atol=1e-5)
    assert (product - 2 * np.eye(len(product))).max() < 1
    assert product[100, 101] > product[100, 110] > product[100, 400]


def test_units_are_turned_to_frames():
    class Encoder:
        name, dim, usual_seconds, device = "fake", 3, 30.0, torch.device("cpu")

        def encode(self, wav16k: torch.Tensor) -> torch.Tensor:
            return wav16k[: 6 * HOP : HOP][None, None] * torch.arange(1.0, 4)[None, :, None]

        def encode_batch(self, wavs: list[torch.Tensor]) -> list[torch.Tensor]:
            return [self.encode(wav) for wav in wavs]

    wav = np.linspace(0, 1, 8 * HOP, dtype=np.float32)
    found = encoder_features(Encoder())(wav)
    assert found.shape == (6, 3)
    assert np.allclose(found[:, 2], 3 * wav[: 6 * HOP : HOP])
