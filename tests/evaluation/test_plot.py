from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest

from svc.audio.io import write_audio
from svc.demo.singer import DEMO_HIGH, SAMPLING_RATE, sing_contour
from svc.errors import OutputError
from svc.evaluation.figures import Comparison, analyse
from svc.evaluation.plot import _BANDS, _FMAX, _FMIN, PIXELS, _band_of, draw


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    path = tmp_path_factory.mktemp("plot") / "song.wav"
    contour = np.where(np.arange(44100) > 10000, 300.0, 0.0)
    write_audio(
        path,
        sing_contour(contour, voice=DEMO_HIGH, rng=np.random.default_rng(0)).wav,
        SAMPLING_RATE,
    )
    return analyse(path, path, target_clips=[path])


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return imread(str(path))


def test_the_picture_has_its_size_and_shows_something(comparison, tmp_path):
    image = pixels(draw(comparison, tmp_path / "new" / "picture.png"))
    assert image.shape[:2] == (PIXELS[1], PIXELS[0])
    assert image[..., :3].std() > 0.1
    assert not list((tmp_path / "new").glob(".tmp*"))


def test_the_pitch_line_lies_on_the_first_harmonic(comparison, tmp_path):
    """The band of the loudest partial below 400 Hz is where the F0 overlay is drawn."""
    from svc.audio.mel import mel_filterbank

    bank = mel_filterbank(SAMPLING_RATE, 4096, _BANDS, _FMIN, _FMAX, "htk").numpy()
    for hz in (150.0, 300.0, 1000.0, 5000.0):
        spectrum = np.zeros(2049)
        spectrum[round(hz / SAMPLING_RATE * 4096)] = 1.0
        assert np.argmax(bank @ spectrum) == pytest.approx(float(_band_of(hz)), abs=1.0)
    assert np.isnan(_band_of([0.0]))[0]


def test_other_figures_give_another_picture(comparison, tmp_path):
    changed = dataclasses.replace(
        comparison, figures=dataclasses.replace(comparison.figures, voiced_right_percent=12.3)
    )
    first = pixels(draw(comparison, tmp_path / "a.png"))
    assert np.array_equal(first, pixels(draw(comparison, tmp_path / "b.png")))
    assert not np.array_equal(first, pixels(draw(changed, tmp_path / "c.png")))


@pytest.mark.parametrize("name", ["曲 🎵.wav", "a$b_{c}^$d.wav", "x" * 180 + ".wav"])
def test_odd_names_draw_without_warnings(comparison, tmp_path, name):
    side = dataclasses.replace(comparison.source, path=Path(name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(dataclasses.replace(comparison, source=side, output=side), tmp_path / "p.png")


def test_silence_can_be_drawn(tmp_path):
    for length in (600, 44100):
        path = tmp_path / f"{length}.wav"
        write_audio(path, np.zeros(length, np.float32), SAMPLING_RATE)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            image = pixels(draw(analyse(path, path), tmp_path / "p.png"))
        assert image.shape[:2] == (PIXELS[1], PIXELS[0])


def test_a_folder_in_the_way_is_one_line(comparison, tmp_path):
    (tmp_path / "p.png").mkdir()
    with pytest.raises(OutputError, match=r"p\.png"):
        draw(comparison, tmp_path / "p.png")


def test_no_global_figure_is_left_behind():
    import sys

    assert "matplotlib.pyplot" not in sys.modules
