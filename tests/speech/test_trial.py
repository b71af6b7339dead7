"""Trying an encoder out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from svc.errors import CheckpointError
from svc.speech import build_speech_encoder
from svc.speech.trial import try_encoder, voiced_tone


class Stub:
    name, dim, usual_seconds, device = "stub", 4, 30.0, torch.device("cpu")

    def __init__(self, units: Tensor) -> None:
        self.units = units

    def encode(self, wav16k: Tensor) -> Tensor:
        return self.units

    def encode_batch(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        return [self.units for _ in wavs]


def test_the_tone_is_voiced() -> None:
    """Peak 0.5, harmonics of 150 Hz at its beginning and of 225 Hz at its end, no aliases."""
    wav = voiced_tone()
    assert wav.shape == (16000,)
    assert float(wav.abs().max()) == pytest.approx(0.5)
    for part, f0 in ((wav[:1600], 150), (wav[-1600:], 225)):
        window = part * torch.hann_window(len(part))
        # The strongest lag of the autocorrelation is the period.
        power = torch.fft.rfft(window, n=4096).abs() ** 2
        lags = torch.fft.irfft(power)[40:200]
        assert 16000 / (40 + int(lags.argmax())) == pytest.approx(f0, rel=0.04)


def test_a_working_encoder() -> None:
    encoder = build_speech_encoder("whisper-ppg-tiny")
    trial = try_encoder(encoder)
    assert (trial.width, trial.frames) == (384, 50)
    assert 0 < trial.seconds < 60


@pytest.mark.parametrize(
    ("units", "words"),
    [
        (torch.randn(1, 5, 50), r"gives \[1, 5, 50\] for one second, expected \[1, 4"),
        (torch.randn(1, 4, 25), r"gives \[1, 4, 25\]"),
        (torch.full((1, 4, 50), torch.nan), "values that are not numbers"),
        (torch.ones(1, 4, 50), "same units whatever it hears"),
    ],
)
def test_what_is_wrong_with_one(units: Tensor, words: str) -> None:
    with pytest.raises(CheckpointError, match=f"stub.*{words}"):
        try_encoder(Stub(units))
