from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from svc.vocoder.source import HarmonicSource, SourceNoise, draw_normal

SR, HOP = 44100, 512


def silent_noise(f0: Tensor, hop_length: int = HOP, phase: float = 0.0) -> SourceNoise:
    batch, n_frames = f0.shape
    start = torch.full((batch, 9), phase)
    start[:, 0] = 0
    return SourceNoise(start, torch.zeros(batch, n_frames * hop_length, 9))


def make(**options: object) -> HarmonicSource:
    arguments = {"sampling_rate": SR, "hop_length": HOP, **options}
    return HarmonicSource(**arguments)  # type: ignore[arg-type]


def contour(n_frames: int) -> Tensor:
    return 220 + 80 * torch.sin(torch.arange(n_frames) / 7)[None]


@pytest.mark.parametrize("hop_length", [1, 7, 512])
def test_closed_form_equals_the_integral_of_f0(hop_length: int) -> None:
    f0 = contour(50)
    found = make(hop_length=hop_length).sines(f0, silent_noise(f0, hop_length, 0.25))[0].numpy()
    # spec_core 3.2: s_h[n] = A sin(2 pi (phi_h + h sum f0 / sr)), the sum up to and with sample n
    turns = np.cumsum(np.repeat(f0[0].double().numpy(), hop_length)) / SR
    for harmonic in range(1, 10):
        start = 0.25 if harmonic > 1 else 0
        expected = 0.1 * np.sin(2 * np.pi * (start + harmonic * turns))
        # The step is rounded to float32, as the original does.
        assert np.abs(found[:, harmonic - 1] - expected).max() < 1e-4


def test_closed_form_equals_the_original_arithmetic() -> None:
    f0 = contour(40)
    f0[0, 10:14] = 0
    random = make().draw(1, 40, generator=torch.Generator().manual_seed(1), device=f0.device)
    difference = make().sines(f0, random) - make(compat=True).sines(f0, random)
    assert difference.abs().max() < 2e-5
    assert difference.abs().max() > 0


def test_phase_does_not_drift_over_minutes() -> None:
    n_frames, hop = 30_000, 64  # the sums of 30,000 frames at once
    f0 = torch.full((1, n_frames), 441.0)
    found = make(hop_length=hop).sines(f0, silent_noise(f0, hop))[0, -hop:, 8].numpy()
    step = float(np.float32(9 * 441.0) / np.float32(SR))
    n = np.arange(n_frames * hop - hop, n_frames * hop) + 1
    assert np.abs(found - 0.1 * np.sin(2 * np.pi * step * n)).max() < 1e-6


def test_frame_start_equals_the_float64_sum_of_the_mel_vocoder() -> None:
    f0 = contour(12)
    f0[0, 3:5] = 0
    source = make(phase_start="frame")
    random = source.draw(1, 12, generator=torch.Generator().manual_seed(1), device=f0.device)
    random = SourceNoise(random.phase, torch.zeros_like(random.noise))
    # spec_vocoder 3.1, written out
    step = torch.remainder(f0[..., None] * torch.arange(1, 10.0) / SR, 1)
    step[:, 0] += random.phase
    turns = torch.cumsum(step.repeat_interleave(HOP, dim=1).double(), dim=1)
    voiced = (f0 > 0).float().repeat_interleave(HOP, dim=1)[..., None]
    expected = torch.sin(2 * math.pi * turns).float() * 0.1 * voiced
    assert torch.allclose(source.sines(f0, random), expected, atol=1e-6)


def test_noise_level_is_low_where_voiced_and_high_where_not() -> None:
    f0 = torch.tensor([[0.0] * 20 + [200.0] * 20])
    source = make()
    random = source.draw(1, 40, generator=torch.Generator().manual_seed(0), device=f0.device)
    clean = source.sines(f0, silent_noise(f0))
    silent = SourceNoise(torch.zeros_like(random.phase), random.noise)
    noise = source.sines(f0, silent) - clean
    assert noise[:, : 20 * HOP].std().item() == pytest.approx(0.1 / 3, rel=0.02)
    assert noise[:, 20 * HOP :].std().item() == pytest.approx(0.003, rel=0.02)
    assert clean[:, : 20 * HOP].abs().max() == 0


def test_negative_predicted_pitch_counts_as_unvoiced() -> None:
    f0 = torch.tensor([[-30.0, -0.5, 0.0]])
    assert make().sines(f0, silent_noise(f0)).abs().max() == 0


def test_draws_follow_the_original_order() -> None:
    random = make().draw(
        2, 3, generator=torch.Generator().manual_seed(3), device=torch.device("cpu")
    )
    again = torch.Generator().manual_seed(3)
    phase = torch.rand(2, 9, generator=again)
    noise = torch.randn(2, 3 * HOP, 9, generator=again)
    assert torch.equal(random.phase[:, 1:], phase[:, 1:])
    assert random.phase[:, 0].abs().max() == 0
    assert torch.equal(random.noise, noise)
    source = make()
    torch.manual_seed(3)
    assert torch.equal(source.draw(2, 3, generator=None, device=torch.device("cpu")).noise, noise)


def test_a_private_generator_leaves_the_global_one_alone() -> None:
    state = torch.get_rng_state()
    draw_normal((4,), generator=torch.Generator().manual_seed(0), device=torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), state)


def test_computed_in_full_precision_under_autocast_and_for_half_nets() -> None:
    f0 = torch.full((1, 100), 880.3)
    source = make()
    random = source.draw(1, 100, generator=torch.Generator().manual_seed(0), device=f0.device)
    expected = source(f0, random)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = source(f0, random)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    half = source.to(torch.bfloat16)(f0, random)
    assert half.dtype == torch.bfloat16
    # Only the merge of nine harmonics is rounded, not the phase.
    assert (half.float() - expected).abs().max() < 0.01


def test_only_the_merge_learns() -> None:
    f0 = contour(4).requires_grad_()
    source = make()
    random = source.draw(1, 4, generator=torch.Generator().manual_seed(0), device=f0.device)
    wav = source(f0, random)
    assert wav.shape == (1, 1, 4 * HOP)
    wav.square().sum().backward()
    assert f0.grad is None
    assert source.l_linear.weight.grad is not None
