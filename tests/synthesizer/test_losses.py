from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from svc.synthesizer.losses import (
    adversarial_loss,
    discriminator_loss,
    feature_loss,
    generator_losses,
    kl_loss,
    lf0_loss,
    mel_loss,
    offset_loss,
)
from svc.synthesizer.model import SynthesizerOutput


def test_discriminator_loss_is_zero_when_it_is_right_and_full_when_wrong() -> None:
    ones, zeros = [torch.ones(2, 5), torch.ones(2, 9)], [torch.zeros(2, 5), torch.zeros(2, 9)]
    assert discriminator_loss(ones, zeros)[0] == 0
    total, parts = discriminator_loss(zeros, ones)
    assert total == 4
    assert parts == {"real": torch.tensor(2.0), "fake": torch.tensor(2.0)}
    assert adversarial_loss(ones) == 0
    assert adversarial_loss(zeros) == 2


def test_feature_loss_and_its_gradient_side() -> None:
    real, fake = torch.zeros(1, 2, 3, requires_grad=True), torch.ones(1, 2, 3, requires_grad=True)
    loss = feature_loss([[real, real]], [[fake, 2 * fake]])
    assert loss.item() == pytest.approx(2 * (1 + 2))
    loss.backward()
    assert real.grad is None
    assert fake.grad is not None


def test_kl_of_samples_approaches_the_closed_form() -> None:
    torch.manual_seed(0)
    shape = (1, 2, 200_000)
    m_q, logs_q, m_p, logs_p = 0.3, -0.5, -0.2, 0.1
    z = m_q + torch.randn(shape) * torch.tensor(logs_q).exp()
    mask = torch.ones(1, 1, shape[2])
    mask[..., 150_000:] = 0
    fill = [torch.full(shape, value) for value in (logs_q, m_p, logs_p)]
    found = kl_loss(z, fill[0], fill[1], fill[2], mask)
    exact = kl_divergence(
        Normal(m_q, torch.tensor(logs_q).exp()), Normal(m_p, torch.tensor(logs_p).exp())
    )
    # Summed over channels, per frame.
    assert found.item() == pytest.approx(2 * exact.item(), rel=0.01)


def test_kl_ignores_what_is_outside_the_mask() -> None:
    z = [torch.randn(1, 3, 6) for _ in range(4)]
    mask = torch.tensor([[[1, 1, 1, 1, 0, 0.0]]])
    cut = [x[..., :4] for x in z]
    assert torch.allclose(kl_loss(*z, mask), kl_loss(*cut, mask[..., :4]))


def output(lf0: torch.Tensor | None) -> SynthesizerOutput:
    z, mask = torch.randn(1, 3, 6), torch.ones(1, 1, 6)
    wav, starts = torch.randn(1, 1, 64, requires_grad=True), torch.zeros(1, dtype=torch.int64)
    pred = None if lf0 is None else lf0 + 0.5
    return SynthesizerOutput(wav, starts, mask, z, z + 1, z, z * 0, z, z * 0, pred, lf0, lf0)


def test_generator_losses_are_weighted_and_named() -> None:
    mel, made = torch.zeros(1, 4, 5), torch.full((1, 4, 5), 0.1)
    scores, maps = [torch.zeros(1, 3)], [[torch.zeros(1, 3)]]
    losses = generator_losses(
        output(torch.zeros(1, 1, 6)),
        mel,
        made,
        c_mel=45,
        c_kl=2,
        fake_scores=scores,
        real_maps=maps,
        fake_maps=[[torch.ones(1, 3)]],
    )
    assert list(losses.parts) == ["mel", "kl", "fm", "gen", "lf0"]
    # KL per channel: -1/2 + 1/2 = 0, since z_p - m_p = 1 and both deviations are 1.
    values = {name: value.item() for name, value in losses.parts.items()}
    assert values == pytest.approx({"mel": 4.5, "kl": 0, "fm": 2, "gen": 1, "lf0": 0.25}, abs=1e-5)
    assert losses.total.item() == pytest.approx(7.75)


def test_without_adversary_and_pitch_the_parts_are_left_out() -> None:
    mel = torch.zeros(1, 4, 5)
    losses = generator_losses(output(None), mel, mel, c_mel=45, c_kl=1)
    assert list(losses.parts) == ["mel", "kl"]


def test_losses_are_float32_for_half_inputs() -> None:
    half = torch.ones(2, 3, dtype=torch.bfloat16)
    assert mel_loss(half, half).dtype == torch.float32
    assert lf0_loss(half, half).dtype == torch.float32
    assert adversarial_loss([half]).dtype == torch.float32
    assert feature_loss([[half]], [[half]]).dtype == torch.float32


def test_the_offset_is_what_no_mel_band_contains() -> None:
    time = torch.arange(44100) / 44100
    sung = 0.5 * torch.sin(2 * torch.pi * 220 * time)[None, None]
    assert float(offset_loss(sung, torch.zeros_like(sung), 2048)) < 0.01
    assert float(offset_loss(sung, sung - 0.3, 2048)) == pytest.approx(0.3, abs=1e-4)
    made = (sung - 0.3).requires_grad_()
    offset_loss(sung, made, 2048).backward()
    assert made.grad is not None
    assert (made.grad[..., 2048:-2048] < 0).all()  # a step against it goes up, everywhere
