"""The picture of a mix: its size, and every speaker's area where and as large as it should be."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from svc.errors import OutputError
from svc.evaluation.mix_plot import PIXELS, colour_of, draw_mix


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    assert path.read_bytes().startswith(b"\x89PNG")
    image = imread(str(path))[..., :3]
    assert image.shape == (PIXELS[1], PIXELS[0], 3)
    return image


def covered(image: np.ndarray, number: int) -> np.ndarray:
    """Where the n-th speaker's colour is seen, in the panel."""
    wanted = np.array([int(colour_of(number)[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.abs(image[44:457, 89:1378] - wanted).max(-1) < 0.02


def test_areas_are_the_shares(tmp_path: Path) -> None:
    places = np.array([0, 0.25, 0.25, 1])
    weights = np.array([[1, 0, 0], [1, 0, 0], [0.5, 0, 0.5], [0, 0, 1]])
    image = pixels(draw_mix(places, weights, ["a", "b", "c"], tmp_path / "new/p.png"))
    first, second = covered(image, 0), covered(image, 1)
    assert first[:, : 1289 // 4 - 4].mean() > 0.99
    assert second[:, 1289 // 4 + 4 :].mean() == pytest.approx(0.75, abs=0.01)
    assert first[:, 1289 // 4 + 4 :].mean() == pytest.approx(0.25, abs=0.01)
    assert second[:206, 700].all()  # the later speaker lies above
    assert first[-50:, 700].all()
    assert (first | second).mean() > 0.99


def test_everyone_present_has_a_colour_and_nobody_else(tmp_path: Path) -> None:
    for count in (1, 7, 30):
        weights = np.full((2, count + 3), 1 / count)
        weights[:, [0, 2, 3]] = 0
        names = [f"voice {i}" for i in range(count + 3)]
        image = pixels(draw_mix(np.array([0, 1]), weights, names, tmp_path / "p.png"))
        assert all(covered(image, number).mean() > 0.6 / count for number in range(count))
        assert not covered(image, count).any()


def test_colours_differ() -> None:
    colours = [colour_of(number) for number in range(60)]
    assert len(set(colours)) == 60
    rgb = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours[:12]])
    apart = np.abs(rgb[:, None] - rgb[None]).max(-1)
    assert apart[~np.eye(12, dtype=bool)].min() > 30


def test_the_axis_is_in_seconds_where_they_are_known(tmp_path: Path) -> None:
    places, weights = np.array([0, 1]), np.array([[1.0], [1.0]])
    images = [
        pixels(draw_mix(places, weights, ["a"], tmp_path / "p.png", **more))
        for more in ({}, {}, {"seconds": 200.0}, {"heading": "m.json"})
    ]
    assert np.array_equal(images[0], images[1])
    below = slice(460, 500)
    assert not np.array_equal(images[0][below], images[2][below])
    assert np.array_equal(images[0][below], images[3][below])
    assert not np.array_equal(images[0][:44], images[3][:44])


@pytest.mark.parametrize("name", ["_hidden", "曲 🎵", "a$b_{c}^$", "x" * 180, "", None])
def test_odd_names_draw_without_warnings(tmp_path: Path, name: str | None) -> None:
    places, weights = np.array([0, 1]), np.array([[0.5, 0.5], [0.5, 0.5]])
    path = tmp_path / "p.png"
    plain = pixels(draw_mix(places, weights, ["plain", "b"], path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = pixels(draw_mix(places, weights, [name, "b"], path, heading=name or ""))
    strip = slice(500, 560)
    assert not np.array_equal(image[strip], plain[strip])  # the name is in the legend


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "p.png").mkdir()
    with pytest.raises(OutputError, match=r"p\.png"):
        draw_mix(np.array([0, 1]), np.ones((2, 1)), ["a"], tmp_path / "p.png")
