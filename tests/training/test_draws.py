"""Random numbers clip by clip: the same whatever a clip is batched with."""

from __future__ import annotations

import pytest
import torch

from svc.synthesizer.output import PITCH_SCALE, TrainingNoise
from svc.training.draws import ClipDraws, diffusion_noise, source_noise, training_noise
from svc.vocoder.source import HarmonicSource

CPU = torch.device("cpu")
LENGTHS = [70, 41, 20]


def draws(*numbers: int, seed: int = 7, step: int = 3) -> ClipDraws:
    return ClipDraws(seed, step, numbers, CPU)


@pytest.fixture
def source() -> HarmonicSource:
    return HarmonicSource(sampling_rate=8000, hop_length=16)


def noise(source: HarmonicSource, numbers: list[int], n_frames: int = 70) -> TrainingNoise:
    lengths = [LENGTHS[number] for number in numbers]
    return training_noise(
        draws(*numbers), lengths, n_frames, channels=4, segment_frames=20, source=source
    )


def test_a_clip_draws_the_same_in_every_company(source: HarmonicSource) -> None:
    """Alone, in another order, and padded to another length."""
    whole = noise(source, [0, 1, 2])
    for numbers, width in (([1], 41), ([2, 1], 99), ([0, 2], 70)):
        part = noise(source, numbers, width)
        for row, number in enumerate(numbers):
            frames = min(LENGTHS[number], width)
            assert torch.equal(part.posterior[row, :, :frames], whole.posterior[number, :, :frames])
            for name in ("pitch_scale", "starts"):
                assert torch.equal(getattr(part, name)[row], getattr(whole, name)[number])
            assert torch.equal(part.source.phase[row], whole.source.phase[number])
            assert torch.equal(part.source.noise[row], whole.source.noise[number])
        assert not part.posterior[-1, :, LENGTHS[numbers[-1]] :].any()


def test_seed_step_and_number_all_count(source: HarmonicSource) -> None:
    rows = [draws(0), draws(1), draws(0, seed=8), draws(0, step=4), draws(0, seed=2**63 - 1)]
    uniform = {tuple(row.uniform(3)[0].tolist()) for row in rows}
    normal = {tuple(row.normal([3])[0].tolist()) for row in rows}
    assert len(uniform) == len(normal) == 5
    assert torch.equal(draws(5).uniform(3), draws(5).uniform(3))
    assert torch.equal(draws(5).uniform(9)[:, :3], draws(5).uniform(3))


def test_numbers_are_distributed_as_they_should(source: HarmonicSource) -> None:
    """20000 clips: U[0, 1) in mean and spread within five standard errors; noise is N(0, 1)."""
    many = ClipDraws(1, 1, range(20000), CPU).uniform(15)
    assert float(many.min()) >= 0
    assert float(many.max()) < 1
    assert torch.allclose(many.mean(0), torch.tensor(0.5), atol=5 / (12 * 20000) ** 0.5)
    assert torch.allclose(many.var(0), torch.tensor(1 / 12), atol=0.003)
    correlation = torch.corrcoef(many.T) - torch.eye(15)
    assert float(correlation.abs().max()) < 5 / 20000**0.5
    flat = torch.cat(ClipDraws(1, 1, range(50), CPU).normal([2000] * 50))
    assert abs(float(flat.mean())) < 5 / 1e5**0.5
    assert float(flat.std()) == pytest.approx(1, abs=0.01)


def test_training_noise_is_in_range(source: HarmonicSource) -> None:
    numbers = range(3000)
    lengths = [20 + number % 30 for number in numbers]
    made = training_noise(
        ClipDraws(7, 1, numbers, CPU), lengths, 49, channels=1, segment_frames=20, source=source
    )
    fits = torch.tensor(lengths) - 20
    assert (made.starts >= 0).all()
    assert (made.starts <= fits).all()
    assert ((made.starts == fits) & (fits > 0)).any()  # the last window is drawn, too
    low, high = PITCH_SCALE
    assert low <= float(made.pitch_scale.min()) < low + 0.01
    assert high - 0.01 < float(made.pitch_scale.max()) < high
    assert not made.source.phase[:, 0].any()  # the fundamental's
    assert (made.source.phase[:, 1:] > 0).any(0).all()
    assert made.source.noise.shape == (3000, 20 * 16, 9)


def test_source_and_diffusion_noise(source: HarmonicSource) -> None:
    one, two = source_noise(draws(0, 1), 5, source), source_noise(draws(1), 5, source)
    assert one.noise.shape == (2, 80, 9)
    assert torch.equal(one.noise[1], two.noise[0])
    assert torch.equal(one.phase[1], two.phase[0])
    times, mel = diffusion_noise(ClipDraws(1, 1, range(4000), CPU), 10, 4, 6)
    assert mel.shape == (4000, 1, 4, 6)
    counts = torch.bincount(times, minlength=10)
    assert len(counts) == 10
    assert int(counts.min()) > 300  # 400 expected, standard deviation 19
    assert torch.equal(
        diffusion_noise(draws(3), 10, 4, 6)[1][0], diffusion_noise(draws(2, 3), 10, 4, 6)[1][1]
    )


def test_global_generators_are_left_alone(source: HarmonicSource) -> None:
    before = torch.get_rng_state()
    noise(source, [0, 1, 2])
    assert torch.equal(torch.get_rng_state(), before)


def test_more_numbers_than_there_are_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="16 numbers of 15"):
        draws(0).uniform(16)
