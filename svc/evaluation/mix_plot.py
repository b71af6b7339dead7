"""A picture of a mix of speakers: who sings how much when, as stacked areas over the song."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from svc.atomic import atomic_path
from svc.evaluation.figures import FloatArray
from svc.evaluation.style import BACK, FAINT, INK, PANEL, frame, title

PIXELS = (1400, 560)
_DPI = 100
_COLOURS = (
    "#5fd3ff", "#ffd166", "#ff6b9d", "#7dff8a", "#c49bff", "#ff9f5a", "#2f9e8f", "#e05656", "#8fa3ff",
    "#b5c334", "#f3b6d8", "#8c6d4f",
)  # fmt: skip
_MAX_NAMED = 24  # in the legend: those with most to sing
_NAME_LENGTH = 28
_LEGEND_COLUMNS = 6


def colour_of(number: int) -> str:
    """Return the colour of the n-th speaker that is drawn; a dozen differ clearly, later ones by hue."""
    if number < len(_COLOURS):
        return _COLOURS[number]
    from matplotlib.colors import hsv_to_rgb, to_hex

    # Steps of the golden ratio: neighbours never look alike.
    return str(to_hex(hsv_to_rgb((number * 0.618 % 1.0, 0.55, 0.9))))


def draw_mix(
    places: FloatArray,
    weights: FloatArray,
    names: Sequence[str | None],
    path: str | Path,
    *,
    seconds: float | None = None,
    heading: str = "",
) -> Path:
    """Draw a mix as a PNG of 1400 x 560 pixels.

    Args:
        places: (P,) fractions of the song, 0..1, not decreasing; two equal ones are a jump.
        weights: (P, S) shares of the speakers there; rows add up to 1.
        names: (S,) of the speakers; those without any share are not drawn.
        path: the PNG file.
        seconds: length of the song; None = the axis shows fractions.
        heading: title of the picture.

    Returns:
        The path.

    Raises:
        OutputError: the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = [int(column) for column in np.flatnonzero(np.max(weights, axis=0) > 0)]
    scale = 1.0 if seconds is None else seconds
    figure = Figure(figsize=(PIXELS[0] / _DPI, PIXELS[1] / _DPI), dpi=_DPI, facecolor=BACK)
    canvas = FigureCanvasAgg(figure)
    rows = -(-min(len(drawn), _MAX_NAMED + 1) // _LEGEND_COLUMNS)
    panels = figure.add_gridspec(
        2, 1, height_ratios=(12.0, 0.4 + 0.9 * rows), left=0.062, right=0.985, top=0.925,
        bottom=0.02, hspace=0.2,
    )  # fmt: skip
    axis = figure.add_subplot(panels[0, 0])
    tops = np.cumsum(weights[:, drawn], axis=1)
    bottoms = np.hstack([np.zeros((len(tops), 1)), tops[:, :-1]])
    for number in range(len(drawn)):
        axis.fill_between(
            places * scale,
            100 * bottoms[:, number],
            100 * tops[:, number],
            facecolor=colour_of(number),
            linewidth=0,
        )
    axis.set_xlim(0, scale)
    axis.set_ylim(0, 100)
    axis.set_xlabel(
        "fraction of the song" if seconds is None else "time, s", color=FAINT, fontsize=10
    )
    axis.set_ylabel("share of the voice, %", color=FAINT, fontsize=10)
    axis.set_facecolor(PANEL)
    title(axis, heading)
    frame(axis)
    strip = figure.add_subplot(panels[1, 0])
    strip.axis("off")
    _name(strip, drawn, names, _sung(places, weights[:, drawn]))
    with atomic_path(path) as temporary, warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes: no reason for a warning per letter.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        canvas.print_png(str(temporary))
    return Path(path)


def _sung(places: FloatArray, weights: FloatArray) -> FloatArray:
    """Share of the whole song that each speaker sings, (S,)."""
    middle = (weights[1:] + weights[:-1]) / 2
    shares: FloatArray = np.diff(places) @ middle
    return shares


def _name(axis: Any, drawn: Sequence[int], names: Sequence[str | None], shares: FloatArray) -> None:
    """Put the legend into the strip below the picture."""
    from matplotlib.patches import Patch

    most = np.argsort(-np.asarray(shares), kind="stable")[:_MAX_NAMED]
    listed = sorted(int(number) for number in most)
    texts = [f"{_short(names[drawn[k]] or '?')}  {100 * shares[k]:.0f} %" for k in listed]
    patches = [Patch(facecolor=colour_of(k)) for k in listed]
    if len(drawn) > len(listed):
        texts.append(f"and {len(drawn) - len(listed)} more")
        patches.append(Patch(facecolor="none"))
    box = axis.legend(
        patches,
        [str(k) for k in range(len(patches))],
        loc="center left",
        ncols=_LEGEND_COLUMNS,
        fontsize=9.5,
        frameon=False,
        handlelength=1.2,
        borderaxespad=0.0,
        columnspacing=1.6,
    )
    # Set afterwards: a label with a leading "_" would be left out, "$" would begin a formula.
    for item, text in zip(box.get_texts(), texts):
        item.set_parse_math(False)
        item.set_text(text)
        item.set_color(INK)


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"
