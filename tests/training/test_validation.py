"""Held-out clips of a voice: what is measured, on which numbers it depends, and what it leaves alone."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from svc.training.clips import ClipDataset
from svc.training.scores import Score
from svc.training.step import Adversaries
from svc.training.stopping import StoppedError
from svc.training.validation import Validation

CPU = torch.device("cpu")


def nets_of(voices: Any, seed: int = 0) -> Adversaries:
    torch.manual_seed(seed)
    nets = Adversaries(voices.config, CPU)
    nets.generator.eval()
    return nets


def validation_of(voices: Any, speaker: str | None = None, frames: int = 60) -> Validation:
    paths = voices.files(speaker) if speaker else voices.files("alice") + voices.files("bob")
    config = voices.config
    clips = ClipDataset(config, paths, augment=False)
    return Validation(config, clips, [frames] * len(paths), Adversaries(config, CPU).mel)


def score_of(held_out: Validation, nets: Adversaries) -> Score:
    return Score.of([sung.score for sung in held_out.sing(nets.generator, CPU)])


def test_scores_are_numbers_of_the_voice_alone(make_voices: Callable[..., Any]) -> None:
    """Not of the run's seed or batch size, of what was drawn before, or of earlier validations."""
    voices = make_voices(model={"vol_embedding": True})
    nets, held_out = nets_of(voices), validation_of(voices)
    scores, losses = [score_of(held_out, nets)], [held_out.losses(nets.generator, CPU)]
    torch.manual_seed(99)
    scores.append(score_of(held_out, nets))
    losses.append(held_out.losses(nets.generator, CPU))
    voices.edit(train={"batch_size": 17, "seed": 5})
    other = validation_of(voices)
    scores.append(score_of(other, nets))
    losses.append(other.losses(nets.generator, CPU))
    assert scores[0] == scores[1] == scores[2]
    assert losses[0] == losses[1] == losses[2]
    assert set(losses[0]) == {"mel", "kl", "lf0"}
    different = nets_of(voices, seed=1)
    assert score_of(held_out, different) != scores[0]
    assert held_out.losses(different.generator, CPU) != losses[0]


def test_it_leaves_every_generator_of_random_numbers_alone(voices: Any) -> None:
    nets, held_out = nets_of(voices), validation_of(voices)
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    held_out.losses(nets.generator, CPU)
    score_of(held_out, nets)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


def test_losses_on_crops_are_those_of_training(voices: Any, batch: Any) -> None:
    """On the same windows: of a batch of all clips, weighted as the config says, without dropout."""
    nets = nets_of(voices)
    held_out = validation_of(voices, "alice")
    got = held_out.losses(nets.generator, CPU)
    voices.edit(train={"c_mel": 90, "c_kl": 3.0})
    doubled = validation_of(voices, "alice").losses(nets.generator, CPU)
    assert doubled["mel"] == pytest.approx(2 * got["mel"])
    assert doubled["kl"] == pytest.approx(3 * got["kl"])
    assert doubled["lf0"] == pytest.approx(got["lf0"])
    nets.generator.train()  # with dropout they are others
    assert held_out.losses(nets.generator, CPU)["lf0"] != got["lf0"]


def test_crops_of_a_long_list_come_in_batches(voices: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean counts every clip once, whatever the last batch holds."""
    from svc.training import validation

    nets, sizes = nets_of(voices), list[int]()

    def losses(self: Validation, generator: Any, part: Any, start: int) -> dict[str, float]:
        sizes.append(len(part))
        return {"mel": float(start)}

    monkeypatch.setattr(validation, "_TOGETHER", 4)
    monkeypatch.setattr(Validation, "_losses", losses)
    held_out = validation_of(voices)
    assert len(held_out) == 10
    assert held_out.losses(nets.generator, CPU) == {"mel": (4 * 0 + 4 * 4 + 2 * 8) / 10}
    assert sizes == [4, 4, 2]


def test_clips_are_sung_as_infer_sings_them(make_voices: Callable[..., Any]) -> None:
    voices = make_voices(train={"val_clips": 3})
    nets, held_out = nets_of(voices), validation_of(voices)
    assert held_out.sung == [0, 3, 6]  # evenly: of both speakers
    sung = list(held_out.sing(nets.generator, CPU))
    assert [clip.index for clip in sung] == [0, 1, 2]
    clip = ClipDataset(voices.config, voices.files("bob"), augment=False).clip(1, 1)
    wav, _ = nets.generator.infer(
        clip.units[None], clip.f0[None], clip.uv[None], torch.tensor([clip.speaker])
    )
    np.testing.assert_array_equal(sung[2].made.wav, wav[0, 0].numpy())
    np.testing.assert_array_equal(sung[2].recorded.wav, clip.wav.numpy())
    assert sung[2].recorded.mel.shape == sung[2].made.mel.shape == (20, clip.frames)
    # The recording is the buzz that the fixture made, found by the predictor of both sides.
    assert np.median(sung[2].recorded.f0) == pytest.approx(110 + 20 * (11 % 7), rel=0.02)


def test_a_voice_that_is_nearer_scores_better(voices: Any) -> None:
    """The recording itself, in the place of what is sung, has no distance; noise has a large one."""
    nets, held_out = nets_of(voices), validation_of(voices, "alice")

    class Parrot:
        def __init__(self, error: float) -> None:
            self.error, self.turn = error, 0

        def infer(self, *_: Any, volume: Any) -> Any:
            clip = held_out._clips.clip(held_out.sung[self.turn], 1)
            self.turn += 1
            draws = torch.Generator().manual_seed(0)
            noise = self.error * torch.randn(clip.wav.shape, generator=draws)
            return (clip.wav + noise)[None, None], None

    scores = [
        Score.of([s.score for s in held_out.sing(Parrot(error), CPU)])  # type: ignore[arg-type]
        for error in (0.0, 0.01, 0.1)
    ]
    assert scores[0].stft == scores[0].f0_cents == scores[0].voicing_error == 0
    assert scores[0].mel < 0.05  # but for the frames at the ends
    for better, worse in itertools.pairwise(scores):
        assert better.mel < worse.mel
        assert better.stft < worse.stft
    assert nets.mel.config.n_mels == 20


def test_it_is_left_when_the_run_is_to_end(voices: Any) -> None:
    nets, held_out = nets_of(voices), validation_of(voices)
    asked = iter([False, False, True])
    with pytest.raises(StoppedError):
        list(held_out.sing(nets.generator, CPU, lambda: next(asked)))
    assert next(asked, "all were asked") == "all were asked"
    with pytest.raises(StoppedError):
        held_out.losses(nets.generator, CPU, lambda: True)


def test_a_measure_is_that_of_its_clips(make_voices: Callable[..., Any]) -> None:
    voices = make_voices()
    measures = [validation_of(voices).measure, validation_of(voices, "alice").measure]
    measures.append(validation_of(voices, "alice", frames=61).measure)  # recorded anew
    voices.edit(train={"val_clips": 2})
    measures.append(validation_of(voices, "alice").measure)
    voices.edit(data={"n_mel_channels": 24})
    measures.append(validation_of(voices, "alice").measure)
    assert len(set(measures)) == len(measures)
    voices.edit(train={"batch_size": 9, "learning_rate": 1.0, "seed": 3})
    assert validation_of(voices, "alice").measure == measures[-1]
