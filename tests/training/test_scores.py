"""Every figure on clips whose distance is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from svc.audio.mel import synthesizer_mel
from svc.training.scores import ClipScore, Judge, Score, log_correlation, stft_distance

RATE, HOP = 16000, 160
MEL = synthesizer_mel(RATE, 512, HOP, 512, 40, 0.0, None)
Wave = npt.NDArray[np.float32]


def glide(semitones: float = 0.0, seconds: float = 1.0) -> Wave:
    """A buzz that rises by a fifth from 220 Hz, moved by semitones."""
    time = np.arange(int(RATE * seconds)) / RATE
    f0 = 220 * 2 ** ((semitones + 7 * time / seconds) / 12)
    phase = 2 * np.pi * np.cumsum(f0) / RATE
    wave = sum(np.sin(n * phase) / n for n in range(1, 9))
    return (0.2 * wave).astype(np.float32)


def compare(recorded: Wave, made: Wave) -> ClipScore:
    judge = Judge(RATE, HOP)
    takes = [
        judge.listen(wav, MEL(torch.from_numpy(wav)[None])[0].numpy()) for wav in (recorded, made)
    ]
    return judge.compare(takes[0], takes[1])


def test_a_clip_is_no_distance_from_itself() -> None:
    score = Score.of([compare(glide(), glide())])
    assert score.scalars() == {
        "mel": 0.0, "stft": 0.0, "f0_cents": 0.0, "f0_rmse_cents": 0.0,
        "f0_correlation": pytest.approx(1.0, abs=1e-12), "voicing_error": 0.0, "voicing_f1": 1.0,
        "loudness_db": 0.0,
    }  # fmt: skip


def test_each_figure_measures_its_own_difference() -> None:
    higher = Score.of([compare(glide(), glide(0.5))])
    assert higher.f0_cents == pytest.approx(50, abs=2)
    assert higher.f0_rmse_cents == pytest.approx(50, abs=4)
    assert higher.f0_correlation is not None
    assert higher.f0_correlation > 0.99
    assert higher.loudness_db is not None
    assert higher.loudness_db < 0.3
    softer = Score.of([compare(glide(), 0.5 * glide())])
    assert softer.loudness_db == pytest.approx(20 * np.log10(2), abs=1e-3)
    assert softer.f0_cents is not None
    assert softer.f0_cents < 0.1
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) / 8
    assert compare(noise, noise / 2).mel == pytest.approx(np.log(2), abs=1e-3)  # in every band
    falling = Score.of([compare(glide(), np.ascontiguousarray(glide()[::-1]))])
    assert falling.f0_correlation is not None
    assert falling.f0_correlation < -0.99
    assert falling.f0_cents == pytest.approx(350, rel=0.1)  # evenly from 0 to 700, but for the ends
    assert falling.f0_rmse_cents == pytest.approx(700 / np.sqrt(3), rel=0.1)


def test_a_voice_that_falls_silent_is_a_fault_of_voicing() -> None:
    made = glide()
    made[len(made) // 2 :] = 0
    score = compare(glide(), made)
    assert score.both + score.missed == pytest.approx(score.frames, rel=0.1)
    assert score.missed == pytest.approx(score.frames / 2, rel=0.1)
    assert score.added == 0
    told = Score.of([score])
    assert told.voicing_error == pytest.approx(0.5, abs=0.05)
    assert told.voicing_f1 == pytest.approx(2 / 3, abs=0.05)
    other = Score.of([compare(made, glide())])  # and one that hums where it should be silent
    assert other.voicing_error == told.voicing_error
    assert other.voicing_f1 == told.voicing_f1
    # Loudness counts where the recording sounds: there the silence is far too soft.
    assert told.loudness_db is not None
    assert other.loudness_db is not None
    assert told.loudness_db > 20 > 3 > other.loudness_db


def test_silence_and_a_steady_tone_have_fewer_figures(sine: Callable[..., Wave]) -> None:
    silence = np.zeros(RATE, np.float32)
    nothing = Score.of([compare(silence, silence)])
    assert nothing.scalars() == {"mel": 0.0, "stft": 0.0, "voicing_error": 0.0}
    assert Score.of([compare(silence, glide())]).f0_cents is None
    # No melody, nothing to follow; what a predictor finds of a steady tone moves by rounding alone.
    assert log_correlation(np.full(50, 220.0), np.full(50, 221.0)) is None
    assert log_correlation([220.0] * 5, [220.0] * 5) is None


def test_the_correlation_is_numpys(rng: np.random.Generator) -> None:
    one, two = np.exp(rng.normal(5, 0.2, (2, 300)))
    two = two + 0.5 * one
    expected = np.corrcoef(np.log(one), np.log(two))[0, 1]
    assert log_correlation(one, two) == pytest.approx(expected, abs=1e-12)


def test_clips_are_put_together() -> None:
    """Distances by clip, intervals and voicing by frame."""

    def clip(mel: float, cents: list[float], correlation: float | None, missed: int) -> ClipScore:
        interval = np.array(cents)
        return ClipScore(mel, 2 * mel, interval, correlation, len(cents), missed, 0, 10, mel)

    score = Score.of([clip(1.0, [10, -20, 30], 0.5, 1), clip(3.0, [-40, 50], None, 2)])
    assert (score.mel, score.stft, score.loudness_db) == (2.0, 4.0, 2.0)
    assert score.f0_cents == 30
    assert score.f0_rmse_cents == pytest.approx(np.sqrt(1100))
    assert score.f0_correlation == 0.5
    assert score.voicing_error == 3 / 20
    assert score.voicing_f1 == 10 / 13
    assert str(score).startswith("mel 2, stft 4, f0_cents 30")


def test_stft_distance(sine: Callable[..., Wave]) -> None:
    one = torch.from_numpy(sine(440, 0.5, 8000))[None]
    assert stft_distance(one, one) == 0.0
    near, far = (torch.from_numpy(sine(f, 0.5, 8000))[None] for f in (445, 880))
    assert 0 < stft_distance(one, near) < stft_distance(one, far)
    # Half as loud: convergence 0.5 and |log 2|, whatever the window, but for what is added.
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 8000))).float()
    assert stft_distance(noise, noise / 2) == pytest.approx(0.5 + np.log(2), abs=1e-4)
