"""What the pictures of this room have in common: colours, frames, axes with note names."""

from __future__ import annotations

from typing import Any

import numpy as np

from svc.evaluation.figures import FloatArray
from svc.f0.voice_range import note_name

BACK = "#12141c"
INK = "#e6e8ef"
FAINT = "#9aa0b4"
PANEL = "#1a1d28"
GRID = "#2c3040"


def or_gap(f0: FloatArray) -> FloatArray:
    """Pitch with NaN where it is unvoiced, so that no line is drawn there."""
    return np.where(f0 > 0, f0, np.nan)


def outline(width: float) -> list[Any]:
    """Path effects that set a line of `width` points off from what lies under it."""
    from matplotlib.patheffects import Normal, Stroke

    return [Stroke(linewidth=width + 1.6, foreground=BACK), Normal()]


def pitch_axis(axis: Any, f0: FloatArray) -> None:
    """Give an axis logarithmic pitches with note names, over the range that is sung.

    Args:
        axis: of matplotlib.
        f0: Hz, 0 = unvoiced.
    """
    low, high = sung_range(f0)
    axis.set_yscale("log", base=2)
    axis.set_ylim(low * 2 ** (-4 / 12), high * 2 ** (5 / 12))
    name_notes(axis, wide=high / low > 2.5)
    axis.set_ylim(low * 2 ** (-4 / 12), high * 2 ** (5 / 12))
    axis.set_ylabel("F0, Hz (log)", color=FAINT, fontsize=10)
    axis.set_facecolor(PANEL)
    axis.grid(color=GRID, linewidth=0.6)
    frame(axis)


def sung_range(f0: FloatArray) -> tuple[float, float]:
    """Lowest and highest pitch of a curve, Hz, without its rarest ones."""
    sung = f0[f0 > 0]
    if not len(sung):
        return 110.0, 440.0
    low, high = np.percentile(sung, (1, 99))
    return float(low), float(high)


def name_notes(axis: Any, *, wide: bool) -> None:
    """Put note names and Hz beside a logarithmic axis: C and G where it is `wide`, else E and A too."""
    ticks = [
        440.0 * 2.0 ** ((midi - 69) / 12)
        for midi in range(12, 108)
        if midi % 12 in ((0, 7) if wide else (0, 4, 7, 9))
    ]
    axis.set_yticks(ticks, minor=False)
    axis.set_yticklabels([f"{note_name(hz)}  {hz:.0f}" for hz in ticks])
    axis.set_yticks([], minor=True)


def title(axis: Any, text: str) -> None:
    """Put a title above an axis; the middle of a long one is left out."""
    shown = text if len(text) <= 110 else f"{text[:70]} ... {text[-35:]}"
    axis.set_title(shown, loc="left", color=INK, fontsize=12, pad=6, parse_math=False)


def legend(axis: Any, place: str) -> None:
    """Draw the legend of an axis at a place that matplotlib knows."""
    box = axis.legend(
        loc=place, fontsize=9, ncols=2, framealpha=0.75, facecolor=BACK, edgecolor="none"
    )
    for text in box.get_texts():
        text.set_color(INK)


def frame(axis: Any) -> None:
    """Give ticks and borders of an axis their colours."""
    axis.tick_params(colors=FAINT, labelsize=9)
    for spine in axis.spines.values():
        spine.set_color(GRID)
