"""The loss on held-out clips, and those that are sung (spec_diffusion 11; 12, B12)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.diffusion.unit2mel import Unit2Mel
from svc.errors import ConfigError
from svc.training import diffusion_validation, figures
from svc.training.diffusion_clips import DiffusionDataset, batch_of
from svc.training.diffusion_validation import Validation, check_sampling
from svc.vocoder.nsf_hifigan import load_vocoder

CPU = torch.device("cpu")
CLIPS = [Path(f"clips/{name}.wav") for name in ("alice/3", "bob/3", "bob/0")]


def model_of(run: Any, seed: int = 0) -> Unit2Mel:
    torch.manual_seed(seed)
    net = Unit2Mel.from_config(run.config, n_mels=16).eval()
    torch.nn.init.normal_(net.decoder.denoise_fn.output_projection.weight, std=0.1)
    return net


def validation(
    run: Any, paths: list[Path] = CLIPS, samples: int = 4, vocoder: Any = None
) -> Validation:
    return Validation(run.config, run.settings, paths, samples=samples, vocoder=vocoder)  # fmt: skip


def test_the_loss_is_a_number_of_the_model_alone(make_run: Callable[..., Any]) -> None:
    """Not of the run's seed or batch size, of what was drawn before, or of earlier validations."""
    run = make_run()
    net, held_out = model_of(run), validation(run)
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        losses.append(held_out.loss(net, CPU))
    run.edit(train={"batch_size": 17})
    losses.append(validation(run).loss(net, CPU))
    assert len(set(losses)) == 1
    assert held_out.loss(model_of(run, seed=1), CPU) != losses[0]


def test_the_loss_estimates_what_training_minimises(make_run: Callable[..., Any]) -> None:
    """Against 400 plain draws of times and noise on the same whole clips: within 5 %."""
    run = make_run()
    net, clips = model_of(run), DiffusionDataset(run.config, run.settings, CLIPS)
    draws, plain = torch.Generator().manual_seed(0), []
    with torch.no_grad():
        for index in range(3):
            batch = batch_of([clips.whole(index, 99)] * 400)
            parts = (batch.units, batch.f0, batch.volume, batch.speaker)
            plain.append(float(net.loss(batch.mel.transpose(1, 2), *parts, generator=draws)))
    assert validation(run).loss(net, CPU) == pytest.approx(np.mean(plain), rel=0.05)


def test_times_are_spread_over_all_that_is_trained(make_run: Callable[..., Any]) -> None:
    run, seen = make_run(), list[list[int]]()

    class Listener:
        k_step_max = 40

        def loss(self, *_: Any, times: torch.Tensor, noise: torch.Tensor) -> float:
            seen.append(times.tolist())
            assert abs(float(noise.std()) - 1) < 0.05
            return 0.0

    validation(run).loss(Listener(), CPU)  # type: ignore[arg-type]
    assert [[when // 5 for when in times] for times in seen] == [list(range(8))] * 3
    assert len({tuple(times) for times in seen}) == 3


def test_clips_are_bounded(make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    net, many = model_of(run), CLIPS * 30
    held_out = validation(run, many, samples=2)
    assert len(held_out) == diffusion_validation.LOSS_CLIPS == 32
    assert len(list(held_out.sing(net, CPU))) == 2
    assert len(list(validation(run, samples=9).sing(net, CPU))) == 3
    assert list(validation(run, samples=0).sing(net, CPU)) == []
    monkeypatch.setattr(diffusion_validation, "_MAX_SECONDS", 0.1)
    (sung,) = validation(run, samples=1).sing(net, CPU)
    assert sung.truth.shape == sung.made.shape == (16, 12)


def test_clips_are_sung_as_the_config_says(make_run: Callable[..., Any]) -> None:
    run = make_run(weights=True)
    vocoder = load_vocoder("vocoder")
    net, held_out = model_of(run), validation(run, samples=2, vocoder=vocoder)
    one, two = list(held_out.sing(net, CPU)), list(held_out.sing(net, CPU))
    assert [sung.name for sung in one] == ["alice_3.wav", "bob_3.wav"]
    for sung, again in zip(one, two, strict=True):
        assert sung.truth.shape == sung.made.shape == (16, 58)
        assert sung.distance == pytest.approx(float(np.abs(sung.truth - sung.made).mean()))
        assert sung.wav is not None
        assert sung.recorded is not None
        assert sung.wav.shape == sung.recorded.shape == (58 * 64,)
        assert sung.real_time_factor > 0
        assert again.wav is not None
        np.testing.assert_array_equal(sung.wav, again.wav)
        np.testing.assert_array_equal(sung.made, again.made)
    (silent,) = validation(run, samples=1).sing(net, CPU)
    assert silent.wav is silent.recorded is None
    # A model that can only refine starts from the clip's own mel, and ends nearer to it.
    run.edit(model={"k_step_max": 20})
    shallow = model_of(run)
    assert shallow.only_refines
    (near,) = validation(run, samples=1).sing(shallow, CPU)
    assert near.distance < one[0].distance / 2


def test_a_measure_is_that_of_its_clips(make_run: Callable[..., Any]) -> None:
    run = make_run()
    measures = {validation(run).measure, validation(run, CLIPS[:2]).measure}
    run.edit(model={"k_step_max": 20})
    measures.add(validation(run).measure)
    assert len(measures) == 3
    run.edit(infer={"speedup": 5}, train={"batch_size": 3})
    assert validation(run, samples=1).measure in measures


def test_a_sampler_that_cannot_work_is_found_at_once(make_run: Callable[..., Any]) -> None:
    run = make_run(infer={"speedup": 25})
    with pytest.raises(ConfigError, match=r"dpm-solver\+\+ needs 2"):
        check_sampling(run.config, model_of(run))
    run.edit(infer={"speedup": 10}, model={"k_step_max": 15})
    with pytest.raises(ConfigError, match=r"k_step 15 with infer\.speedup 10"):
        check_sampling(run.config, model_of(run))
    run.edit(infer={"method": "ddim"})
    check_sampling(run.config, model_of(run))


def test_the_picture_shows_both_and_the_difference() -> None:
    rng = np.random.default_rng(0)
    mel = rng.uniform(-12, 2, (16, 40)).astype(np.float32)
    same, other = figures.comparison_image(mel, mel), figures.comparison_image(mel, mel + 3)
    assert same.dtype == np.uint8
    assert same.shape == (600, 1000, 3)
    changed = (same != other).any(axis=2).any(axis=1)  # rows of pixels
    assert not changed[:160].any()  # the recorded mel is on top
    assert changed[230:330].any()
    assert changed[430:540].any()
