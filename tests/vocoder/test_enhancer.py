"""Singing finished audio again: lengths of the original, time and pitch, seeds, and odd inputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from svc.audio import resample
from svc.checkpoint import save_checkpoint
from svc.config import load_vocoder_config
from svc.errors import MissingFileError
from svc.vocoder.enhancer import Enhancer, load_enhancer
from svc.vocoder.nsf_hifigan import NsfHifigan

SR, HOP = 44100, 512
SMALL: dict[str, Any] = {
    "resblock": "1",
    "upsample_rates": [8, 8, 2, 2, 2],
    "upsample_kernel_sizes": [16, 16, 4, 4, 4],
    "upsample_initial_channel": 32,
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3, 5]],
    "num_mels": 6,
    "n_fft": 2048,
    "win_size": 2048,
    "hop_size": HOP,
    "sampling_rate": SR,
    "fmin": 40,
    "fmax": 16000,
}
Make = Callable[..., Enhancer]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """An enhancer around a small vocoder of random weights, through its files."""

    def build(*, compat: bool = False, **changes: Any) -> Enhancer:
        (tmp_path / "config.json").write_text(json.dumps({**SMALL, **changes}))
        torch.manual_seed(0)
        net = NsfHifigan(load_vocoder_config(tmp_path / "config.json"))
        save_checkpoint({"generator": net.generator.state_dict()}, tmp_path / "model")
        return load_enhancer(tmp_path / "model", compat=compat)

    return build


def test_half_precision_is_nearly_the_same(make: Make, tmp_path: Path) -> None:
    """35 dB and more between signal and deviation."""
    exact = make()
    low = load_enhancer(tmp_path / "model", dtype=torch.bfloat16)
    wav = 0.3 * torch.sin(torch.arange(HOP * 20) * 0.05)
    made = [
        each(wav, SR, torch.full((20,), 220.0), HOP, generator=seeded()) for each in (exact, low)
    ]
    away = (made[0] - made[1]).std() / made[0].std()
    assert 0 < float(away) < 10 ** (-35 / 20)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class SineVocoder:
    """Sings a pure tone at the F0 it is given; tells what it was given."""

    def __init__(self, sampling_rate: int = SR, hop_length: int = HOP) -> None:
        self.sampling_rate, self.hop_length = sampling_rate, hop_length
        self.heard: list[Tensor] = []
        self.melodies: list[Tensor] = []

    def mel(self, wav: Tensor) -> Tensor:
        self.heard.append(wav)
        return torch.zeros(1, 1, max(1, wav.shape[1] // self.hop_length))

    def __call__(self, mel: Tensor, f0: Tensor, *, generator: object) -> Tensor:
        self.melodies.append(f0)
        assert f0.shape[1] == mel.shape[2]
        steps = f0.double().repeat_interleave(self.hop_length, dim=1) / self.sampling_rate
        return torch.sin(2 * np.pi * torch.cumsum(steps, dim=1)).float()


def enhancer_of(vocoder: SineVocoder, *, compat: bool = False) -> Enhancer:
    return Enhancer(vocoder, compat)  # type: ignore[arg-type]


def pitch_at(wav: Tensor, sr: int, seconds: float) -> float:
    """Frequency of a tone around a moment, by the peak of a long padded spectrum."""
    reach = round(0.05 * sr)
    middle = round(seconds * sr)
    part = wav[middle - reach : middle + reach].double().numpy() * np.hanning(2 * reach)
    return float(np.argmax(np.abs(np.fft.rfft(part, 1 << 18))) * sr / (1 << 18))


# ---------------------------------------------------------------- the original


@pytest.mark.parametrize(
    ("key", "rate", "n"), [(0, SR, 44032), (3, 52400, 43952), (-5, 33000, 43790)]
)
def test_lengths_of_the_original(make: Make, key: int, rate: int, n: int) -> None:
    enhancer = make(compat=True)
    assert enhancer.rate(key) == rate
    wav = torch.sin(torch.arange(SR) * 0.03) * 0.3
    made = enhancer(wav, SR, torch.full((86,), 210.0), HOP, adaptive_key=key, generator=seeded())
    assert made.shape == (n,)
    assert torch.isfinite(made).all()


@pytest.mark.parametrize("key", [0, 3, -5])
def test_the_originals_melody(key: int) -> None:
    """Times by the factor between both rates, ends held (spec_vocoder 6, point 4)."""
    vocoder = SineVocoder()
    enhancer = enhancer_of(vocoder, compat=True)
    f0 = torch.linspace(200, 400, 60)
    enhancer(torch.zeros(SR), SR, f0, HOP, adaptive_key=key)
    (melody,) = vocoder.melodies
    rate = enhancer.rate(key)
    assert vocoder.heard[0].shape == (1, rate)
    # At the vocoder's frame i it hears what the singer sang at i hops of the other rate.
    sung = np.interp(np.arange(rate // HOP) * HOP / rate, np.arange(60) * HOP / SR, f0.numpy())
    np.testing.assert_allclose(melody[0].numpy(), sung * SR / rate, rtol=1e-6)


def test_the_resampler_in_front_is_the_sharp_one() -> None:
    """Of width 128: a tone just above what the lower rate can carry is gone, not folded down."""
    vocoder = SineVocoder()
    tone = torch.sin(torch.arange(SR) * (2 * np.pi * 17000 / SR))
    enhancer_of(vocoder, compat=True)(tone, SR, torch.full((86,), 200.0), HOP, adaptive_key=-5)
    assert vocoder.heard[0][0, 1000:-1000].abs().max() < 0.02  # 0.0055; with width 6 it is 0.38


def test_rates_are_rounded_as_in_the_original() -> None:
    odd = SineVocoder(22050, 256)
    assert enhancer_of(odd, compat=True).rate(0) == 22000
    assert enhancer_of(odd).rate(0) == 22050
    assert [enhancer_of(odd, compat=compat).rate(1) for compat in (True, False)] == [23400, 23400]


# ---------------------------------------------------------------- ours


@pytest.mark.parametrize("key", [0, 3, -5, 12])
@pytest.mark.parametrize(("sr", "hop"), [(SR, HOP), (48000, 512), (32000, 320)])
def test_the_length_stays(make: Make, key: int, sr: int, hop: int) -> None:
    enhancer = make()
    for n_samples in (20 * hop, 20 * hop + 77):
        wav = torch.sin(torch.arange(n_samples) * 0.03) * 0.3
        f0 = torch.full((n_samples // hop,), 210.0)
        made = enhancer(wav, sr, f0, hop, adaptive_key=key, generator=seeded())
        assert made.shape == wav.shape
        assert torch.isfinite(made).all()
        assert made.abs().max() > 1e-4


def test_without_a_key_nothing_but_the_vocoder_is_between(make: Make) -> None:
    wav = torch.sin(torch.arange(20 * HOP) * 0.03) * 0.3
    f0 = torch.linspace(180, 260, 20)
    results = [
        make(compat=compat)(wav, SR, f0, HOP, generator=seeded()) for compat in (True, False)
    ]
    torch.testing.assert_close(*results, atol=0, rtol=0)
    vocoder = make().vocoder
    direct = vocoder(vocoder.mel(wav[None]), f0[None], generator=seeded())[0]
    torch.testing.assert_close(results[0], direct, atol=0, rtol=0)


@pytest.mark.parametrize("key", [0, 4, -7])
@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize(
    ("sr", "hop", "vocoder_sr", "vocoder_hop"),
    [(SR, HOP, SR, HOP), (SR, HOP, 48000, 480), (32000, 320, SR, HOP), (22050, 256, SR, HOP)],
)
def test_time_and_pitch_stay(
    key: int, compat: bool, sr: int, hop: int, vocoder_sr: int, vocoder_hop: int
) -> None:
    """A glide is sung at the same pitch at the same moment, whatever the rates (V2)."""
    seconds = 1.5
    n_frames = round(seconds * sr) // hop
    f0 = torch.linspace(300, 600, n_frames)
    wav = torch.zeros(n_frames * hop)
    enhancer = enhancer_of(SineVocoder(vocoder_sr, vocoder_hop), compat=compat)
    made = enhancer(wav, sr, f0, hop, adaptive_key=key)
    for moment in (0.2, 0.7, 1.2):
        expected = float(np.interp(moment * sr / hop, np.arange(n_frames), f0.numpy()))
        # A frame has one pitch, that of its start: at most a frame's glide away, 2.4 Hz.
        assert pitch_at(made, sr, moment) == pytest.approx(expected, abs=3.5)


def test_what_is_given_is_not_changed(make: Make) -> None:
    """The original scales the caller's F0 in place (V1)."""
    wav, f0 = torch.sin(torch.arange(20 * HOP) * 0.03), torch.linspace(180, 260, 20)
    before = wav.clone(), f0.clone()
    for compat in (True, False):
        make(compat=compat)(wav, SR, f0, HOP, adaptive_key=3, generator=seeded())
    assert torch.equal(wav, before[0])
    assert torch.equal(f0, before[1])


def test_a_seed_decides(make: Make) -> None:
    wav, f0 = torch.sin(torch.arange(20 * HOP) * 0.03), torch.full((20,), 220.0)
    enhancer = make()
    state = torch.random.get_rng_state()
    one, two, other = (
        enhancer(wav, SR, f0, HOP, adaptive_key=2, generator=seeded(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_kernels_are_made_once(make: Make) -> None:
    """The original's caches know rates by their digits, and filter banks are made every time (V6)."""
    wav, f0 = torch.zeros(20 * HOP), torch.full((20,), 220.0)
    enhancer = make()
    enhancer(wav, SR, f0, HOP, adaptive_key=5, generator=seeded())
    before = resample._sinc_kernel.cache_info().misses
    enhancer(wav, SR, f0, HOP, adaptive_key=5, generator=seeded())
    assert resample._sinc_kernel.cache_info().misses == before


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("key", [-24, 0, 24])
def test_a_single_frame(make: Make, compat: bool, key: int) -> None:
    enhancer = make(compat=compat)
    made = enhancer(torch.ones(HOP) * 0.1, SR, torch.tensor([200.0]), HOP, adaptive_key=key)
    assert torch.isfinite(made).all()
    assert compat or made.shape == (HOP,)


def test_silence_without_a_voice(make: Make) -> None:
    made = make()(torch.zeros(8 * HOP), SR, torch.zeros(8), HOP, adaptive_key=1, generator=seeded())
    assert made.shape == (8 * HOP,)
    assert torch.isfinite(made).all()


def test_a_missing_vocoder_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"the vocoder's file .*model is missing.*--vocoder"):
        load_enhancer(tmp_path / "model")
