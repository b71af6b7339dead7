"""Losses of the synthesizer and its discriminator, all in float32 (spec_core 7.2).

Each returns what the trainer weights and logs; nothing is moved to the host here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from svc.synthesizer.blocks import at_least_float32
from svc.synthesizer.model import SynthesizerOutput


def discriminator_loss(
    real_scores: Sequence[Tensor], fake_scores: Sequence[Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Least-squares loss of the discriminator (LSGAN, arXiv:1611.04076): real towards 1, generated
    towards 0.

    Args:
        real_scores: (B, N_d) per discriminator.
        fake_scores: the same of generated audio.

    Returns:
        The total, and its parts "real" and "fake".
    """
    real, fake = _distance(real_scores, 1), _distance(fake_scores, 0)
    return real + fake, {"real": real.detach(), "fake": fake.detach()}


def adversarial_loss(fake_scores: Sequence[Tensor]) -> Tensor:
    """Least-squares loss of the generator: generated audio towards 1."""
    return _distance(fake_scores, 1)


def _distance(scores: Sequence[Tensor], target: int) -> Tensor:
    """Mean squared distance of scores to a target, summed over discriminators."""
    wide = (at_least_float32(score) for score in scores)
    return torch.stack([(target - score).square().mean() for score in wide]).sum()


def feature_loss(
    real_maps: Sequence[Sequence[Tensor]], fake_maps: Sequence[Sequence[Tensor]]
) -> Tensor:
    """Twice the summed mean distance of all feature maps (HiFi-GAN, arXiv:2010.05646, eq. 4); real
    ones are constants.
    """
    distances = [
        (at_least_float32(real).detach() - at_least_float32(fake)).abs().mean()
        for reals, fakes in zip(real_maps, fake_maps)
        for real, fake in zip(reals, fakes)
    ]
    return 2 * torch.stack(distances).sum()


def kl_loss(z_p: Tensor, logs_q: Tensor, m_p: Tensor, logs_p: Tensor, mask: Tensor) -> Tensor:
    """KL divergence of posterior and prior, from the posterior's sample (VITS, arXiv:2106.06103,
    eq. 3-4).

    Args:
        z_p: (B, C, T) posterior sample through the flow.
        logs_q: (B, C, T).
        m_p: (B, C, T).
        logs_p: (B, C, T).
        mask: (B, 1, T).

    Returns:
        Sum over channels and frames divided by the number of frames only, as the original weights
        it.
    """
    z_p, logs_q, m_p, logs_p = map(at_least_float32, (z_p, logs_q, m_p, logs_p))
    mask = mask.float()
    divergence = logs_p - logs_q - 0.5
    divergence = divergence + 0.5 * (z_p - m_p).square() * torch.exp(-2 * logs_p)
    return (divergence * mask).sum() / mask.sum()


def mel_loss(mel: Tensor, generated_mel: Tensor) -> Tensor:
    """Mean distance of two log-mel spectrograms (B, M, N)."""
    return F.l1_loss(at_least_float32(generated_mel), at_least_float32(mel))


def offset_loss(real: Tensor, fake: Tensor, window: int) -> Tensor:
    """Mean difference of the running means, which no mel band contains.

    A generator whose last layer begins off zero can otherwise lower its level by pushing the waveform
    against the end of tanh, where it stays: the gradient back is next to nothing.

    Args:
        real: (B, 1, T) recorded audio.
        fake: (B, 1, T) generated audio.
        window: samples of a mean.

    Returns:
        The loss, not weighted.
    """
    made, wanted = (F.avg_pool1d(wav, window, window // 4) for wav in (fake, real))
    return F.l1_loss(made, wanted)


def lf0_loss(pred_lf0: Tensor, lf0: Tensor) -> Tensor:
    """Mean squared error of the predicted pitch (B, 1, T) over all frames; padding is 0 on both
    sides.
    """
    return F.mse_loss(at_least_float32(pred_lf0), at_least_float32(lf0))


@dataclass(frozen=True)
class GeneratorLosses:
    """Losses of one generator step."""

    total: Tensor
    """Sum of the weighted parts; what is back-propagated."""
    parts: dict[str, Tensor]
    """Weighted parts, detached: "mel", and where they apply "kl", "fm", "gen", "lf0", "offset"."""

    @classmethod
    def of(cls, parts: Mapping[str, Tensor]) -> GeneratorLosses:
        """Add up weighted parts."""
        total = torch.stack(list(parts.values())).sum()
        return cls(total, {name: value.detach() for name, value in parts.items()})


def generator_losses(
    output: SynthesizerOutput,
    mel: Tensor,
    generated_mel: Tensor,
    *,
    c_mel: float,
    c_kl: float,
    fake_scores: Sequence[Tensor] | None = None,
    real_maps: Sequence[Sequence[Tensor]] = (),
    fake_maps: Sequence[Sequence[Tensor]] = (),
    factors: Mapping[str, float] | None = None,
) -> GeneratorLosses:
    """Add up a generator step (spec_core 7.2, point 4).

    Args:
        output: of the training forward.
        mel: (B, M, N) log-mel of the recorded windows.
        generated_mel: (B, M, N) log-mel of `output.wav`.
        c_mel: weight of the mel distance.
        c_kl: weight of the KL divergence.
        fake_scores: of the discriminator; None trains without it (`train.gan_start_step`).
        real_maps: of the discriminator, with `fake_scores`.
        fake_maps: of the discriminator, with `fake_scores`.
        factors: of every part by its name, where the clips are a share of a batch.

    Returns:
        Total and parts.
    """
    kl = kl_loss(output.z_p, output.logs_q, output.m_p, output.logs_p, output.mask)
    parts = {"mel": c_mel * mel_loss(mel, generated_mel), "kl": c_kl * kl}
    if fake_scores is not None:
        parts["fm"] = feature_loss(real_maps, fake_maps)
        parts["gen"] = adversarial_loss(fake_scores)
    if output.pred_lf0 is not None and output.lf0 is not None:
        parts["lf0"] = lf0_loss(output.pred_lf0, output.lf0)
    if factors is not None:
        parts = {name: part * factors[name] for name, part in parts.items()}
    return GeneratorLosses.of(parts)
