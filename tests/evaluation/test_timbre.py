from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from svc.audio.io import write_audio
from svc.demo.dataset import sing_clip
from svc.demo.singer import DEMO_HIGH, DEMO_LOW, SAMPLING_RATE
from svc.errors import AudioError, MissingFileError
from svc.evaluation.timbre import (
    N_CEPSTRA,
    Timbre,
    _spread,
    envelope_cepstra,
    timbre_distance,
    timbre_from_files,
    timbre_of,
)


@pytest.fixture(scope="module")
def cepstra() -> dict[str, list[np.ndarray]]:
    """Frames of two clips of each demo singer."""
    return {
        voice.name: [
            envelope_cepstra(sing_clip(voice, index, 3.0, seed=7).wav, SAMPLING_RATE)
            for index in range(2)
        ]
        for voice in (DEMO_LOW, DEMO_HIGH)
    }


def voice(frames: np.ndarray) -> Timbre:
    timbre = timbre_of([frames])
    assert timbre is not None
    return timbre


def test_clips_of_one_singer_are_nearer_than_clips_of_two(cepstra):
    low, high = cepstra["demo_low"], cepstra["demo_high"]
    within = max(
        timbre_distance(voice(low[0]), voice(low[1])),
        timbre_distance(voice(high[0]), voice(high[1])),
    )
    across = min(timbre_distance(voice(a), voice(b)) for a in low for b in high)
    assert across > 2 * within


def test_it_is_a_symmetric_distance(cepstra):
    a, b = voice(cepstra["demo_low"][0]), voice(cepstra["demo_high"][0])
    assert timbre_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert timbre_distance(a, b) == pytest.approx(timbre_distance(b, a), rel=1e-9)
    assert timbre_distance(a, b) > 0


def test_level_does_not_matter(cepstra):
    wav = sing_clip(DEMO_LOW, 0, 3.0, seed=7).wav
    quiet = envelope_cepstra(0.1 * wav, SAMPLING_RATE)
    assert timbre_distance(voice(cepstra["demo_low"][0]), voice(quiet)) < 0.02


def test_distance_of_known_gaussians(rng):
    mean, other = np.zeros(N_CEPSTRA), np.zeros(N_CEPSTRA)
    other[3] = 4.0
    unit = np.eye(N_CEPSTRA)
    # Equal covariances: d^2 / 8. Equal means, covariances 1 and 4: ln(2.5 / 2) / 2 per dimension.
    assert timbre_distance(Timbre(mean, unit, 9), Timbre(other, unit, 9)) == pytest.approx(2.0)
    assert timbre_distance(Timbre(mean, unit, 9), Timbre(mean, 4 * unit, 9)) == pytest.approx(
        N_CEPSTRA * np.log(1.25) / 2
    )


def test_too_little_voice_is_none_or_an_error(tmp_path, rng):
    noise = 0.1 * rng.standard_normal(SAMPLING_RATE).astype(np.float32)
    assert timbre_of([]) is None
    assert timbre_of([envelope_cepstra(noise, SAMPLING_RATE)]) is None
    assert envelope_cepstra(np.zeros(2000, np.float32), SAMPLING_RATE).shape == (0, N_CEPSTRA)
    assert envelope_cepstra(np.zeros(10, np.float32), SAMPLING_RATE).shape == (0, N_CEPSTRA)
    write_audio(tmp_path / "noise.wav", noise, SAMPLING_RATE)
    with pytest.raises(AudioError, match="voiced sound"):
        timbre_from_files([tmp_path / "noise.wav"])
    with pytest.raises(AudioError, match="empty list"):
        timbre_from_files([])
    with pytest.raises((AudioError, MissingFileError)):
        timbre_from_files([tmp_path / "gone.wav"])


def test_files_and_frames_give_the_same_voice(tmp_path, cepstra):
    paths: list[Path] = []
    for index in range(2):
        paths.append(tmp_path / f"{index}.wav")
        write_audio(
            paths[-1], sing_clip(DEMO_LOW, index, 3.0, seed=7).wav, SAMPLING_RATE, subtype="FLOAT"
        )
    pooled = timbre_of(cepstra["demo_low"])
    read = timbre_from_files(paths)
    assert pooled is not None
    assert read.n_frames == pooled.n_frames
    assert np.allclose(read.mean, pooled.mean)


def test_a_bad_file_among_good_ones_is_left_out(tmp_path, cepstra, caplog):
    good, bad = tmp_path / "good.wav", tmp_path / "bad.wav"
    wav = sing_clip(DEMO_LOW, 0, 3.0, seed=7).wav
    write_audio(good, wav, SAMPLING_RATE, subtype="FLOAT")
    bad.write_text("not a recording")
    with caplog.at_level("WARNING"):
        timbre = timbre_from_files([bad, good])
    assert timbre.n_frames == len(cepstra["demo_low"][0])
    assert "bad.wav" in caplog.text


@pytest.mark.parametrize("lengths", [[5.0] * 100, [300.0], [1.0] * 50 + [200.0], [10.0, 20.0]])
def test_long_folders_are_sampled_evenly(lengths):
    paths = [Path(f"{i:03d}.wav") for i in range(len(lengths))]
    by_path = dict(zip(paths, lengths))
    chosen = _spread(by_path, 120.0)
    total = sum(seconds for _, seconds in chosen)
    assert min(30.0, sum(lengths)) <= total <= 150
    assert all(seconds <= by_path[path] for path, seconds in chosen)
    if len(lengths) == 100:
        assert paths.index(chosen[-1][0]) > 90  # not only the beginning of the list
