from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from svc.audio.pitch import F0Track
from svc.errors import ConfigError, OutputError
from svc.evaluation.f0_plot import _COLOURS, PIXELS, NamedCurve, difference, draw_curves
from svc.f0.curve import FrameGrid

GRID = FrameGrid()
SR = 44100


@pytest.fixture(scope="module")
def wav() -> np.ndarray:
    time = np.arange(2 * SR) / SR
    return (0.3 * np.sin(2 * np.pi * 300 * time)).astype(np.float32)


def flat(hz: float, n: int = 172, voiced: slice = slice(None)) -> F0Track:
    uv = np.zeros(n, np.float32)
    uv[voiced] = 1
    return F0Track(np.full(n, hz, np.float32), uv)


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return imread(str(path))[..., :3]


def rows_of(image: np.ndarray, colour: str) -> np.ndarray:
    """Rows of the upper panel, below its legend, in which a colour is seen at mid-picture."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    column = image[120:740, 700:900]
    return np.flatnonzero((np.abs(column - wanted).max(-1) < 0.15).any(axis=1)) + 120


def test_curves_lie_on_what_they_follow(wav: np.ndarray, tmp_path: Path) -> None:
    curves = [NamedCurve("a", flat(300)), NamedCurve("b", flat(600, voiced=slice(0, 100)))]
    path = draw_curves(wav, curves, GRID, tmp_path / "new/p.png", heading="song.wav")
    image = pixels(path)
    assert image.shape[:2] == (PIXELS[1], PIXELS[0])
    low, high = rows_of(image, _COLOURS[0]), rows_of(image, _COLOURS[1])
    assert low.size
    assert high.size
    assert low.mean() > high.mean() + 50  # an octave apart, the higher one above
    # The brightest rows of the spectrogram are those around the curve.
    alone = pixels(draw_curves(wav, curves[:1], GRID, tmp_path / "r.png"))
    line = rows_of(alone, _COLOURS[0]).mean()
    grey = alone[120:740, 700].mean(-1)
    glow = np.flatnonzero(grey > 0.8) + 120
    assert abs(np.median(glow) - line) < 25


def test_pictures_differ_by_span_and_curve(wav: np.ndarray, tmp_path: Path) -> None:
    curves = [NamedCurve("a", flat(300))]
    images = [
        pixels(draw_curves(wav, drawn, GRID, tmp_path / "p.png", start=start, end=end))
        for drawn, start, end in (
            (curves, 0, None), (curves, 0, None), (curves, 0.5, 1.0), ([], 0, None),
        )
    ]  # fmt: skip
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])
    assert not np.array_equal(images[0], images[3])


@pytest.mark.parametrize("name", ["_hidden", "曲 🎵.csv", "a$b_{c}^$.csv", "x" * 180])
def test_odd_names_and_empty_things_draw_without_warnings(
    wav: np.ndarray, tmp_path: Path, name: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curves = [NamedCurve(name, flat(300)), NamedCurve("none", flat(0, voiced=slice(0, 0)))]
        draw_curves(wav, curves, GRID, tmp_path / "p.png", heading=name)
        draw_curves(np.zeros(600, np.float32), [], GRID, tmp_path / "p.png")


def test_differences() -> None:
    assert difference(flat(200), flat(200)) == (0.0, 1.0, 1.0)
    half = np.full(100, 200.0)
    half[50:] *= 2 ** (80 / 1200)
    median, near, same = difference(F0Track(half, np.ones(100)), flat(200, 120)) or (0, 0, 0)
    assert (round(median), near, same) == (40, 0.5, 1.0)
    shifted = difference(flat(200, 100, slice(0, 60)), flat(200, 100, slice(20, 100)))
    assert shifted == (0.0, 1.0, 0.4)
    assert difference(flat(200, 10, slice(0, 5)), flat(200, 10, slice(5, 10))) is None


def test_errors(wav: np.ndarray, tmp_path: Path) -> None:
    for start, end in ((-1.0, None), (1.0, 0.5), (2.0, None)):
        with pytest.raises(ConfigError, match="leave nothing"):
            draw_curves(wav, [], GRID, tmp_path / "p.png", start=start, end=end)
    (tmp_path / "p.png").mkdir()
    with pytest.raises(OutputError, match=r"p\.png"):
        draw_curves(wav, [], GRID, tmp_path / "p.png")
