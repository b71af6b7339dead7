"""A picture of pitch curves: several of them on the spectrogram of their song, and what is voiced."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from svc.atomic import atomic_path
from svc.audio.io import read_audio
from svc.audio.mel import stft_magnitude
from svc.audio.pitch import F0Track, cents
from svc.audio.resample import resample
from svc.errors import ConfigError
from svc.evaluation.figures import GROSS_CENTS, FloatArray
from svc.evaluation.style import (
    BACK,
    FAINT,
    PANEL,
    frame,
    legend,
    name_notes,
    or_gap,
    outline,
    sung_range,
    title,
)
from svc.f0.curve import FrameGrid

PIXELS = (1600, 900)
_DPI = 100
_WINDOW_SECONDS = 0.093  # harmonics of a low voice stay apart
_ROWS_PER_OCTAVE = 60
_MAX_COLUMNS = 3000  # more than pixels cost memory and show nothing
_RANGE_DB = 70.0
_BELOW, _ABOVE = 2 ** (-7 / 12), 2 ** (19 / 12)  # shown beyond the pitches: up to the 3rd harmonic
_LOWEST, _HIGHEST = 30.0, 8000.0  # Hz
_COLOURS = ("#5fd3ff", "#ffd166", "#ff6b9d", "#7dff8a", "#c49bff", "#ff9f5a", "#ffffff")
_WIDEST, _NARROWEST = 5.0, 1.4  # points; the first curve is the widest and lies under the others


@dataclass(frozen=True)
class NamedCurve:
    """A curve to draw."""

    name: str
    track: F0Track


def read_song(path: Path, grid: FrameGrid) -> npt.NDArray[np.float32]:
    """Read a song at the rate of a grid, (T,). Raises MissingFileError or AudioError."""
    wav, sr = read_audio(path)
    return resample(wav, sr, grid.sampling_rate)


def draw_curves(
    wav: npt.NDArray[np.float32],
    curves: Sequence[NamedCurve],
    grid: FrameGrid,
    path: str | Path,
    *,
    heading: str = "",
    start: float = 0.0,
    end: float | None = None,
) -> Path:
    """Draw curves on the spectrogram of their song, as a PNG of 1600 x 900 pixels.

    Args:
        wav: the song, (T,) at the grid's rate.
        curves: each on the grid, from the song's start.
        grid: where frames lie.
        path: the PNG file.
        heading: title of the picture.
        start: s, where the picture begins.
        end: s, where it ends; None = the song's end.

    Returns:
        The path.

    Raises:
        ConfigError: `start` and `end` leave nothing of the song.
        OutputError: the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seconds = len(wav) / grid.sampling_rate
    end = seconds if end is None else min(end, seconds)
    if not 0 <= start < end:
        raise ConfigError(
            f"--start {start:g} and --end {end:g} leave nothing of a song of {seconds:.2f} s"
        )
    figure = Figure(figsize=(PIXELS[0] / _DPI, PIXELS[1] / _DPI), dpi=_DPI, facecolor=BACK)
    canvas = FigureCanvasAgg(figure)
    strip = max(0.6, 0.35 * len(curves))
    panels = figure.add_gridspec(
        2, 1, height_ratios=(9.0, strip), left=0.062, right=0.985, top=0.945, bottom=0.06,
        hspace=0.06,
    )  # fmt: skip
    top = figure.add_subplot(panels[0, 0])
    bottom = figure.add_subplot(panels[1, 0], sharex=top)
    shown = [_sung(curve.track) for curve in curves]
    low, high = sung_range(np.concatenate([*shown, np.zeros(0)]))
    low, high = max(_LOWEST, low * _BELOW), min(_HIGHEST, high * _ABOVE, grid.sampling_rate / 2)
    _draw_spectrogram(top, wav, grid, (start, end), (low, high))
    for i, (curve, f0) in enumerate(zip(curves, shown, strict=True)):
        _draw_curve(top, f0, grid, _label(curves, i), *_pen(i, len(curves)), lowest=i == 0)
        _draw_voiced(bottom, curve, grid, i)
    top.set_xlim(start, end)
    top.tick_params(labelbottom=False)
    title(top, heading)
    if curves:
        legend(top, "upper right")
    bottom.set_ylim(max(len(curves), 1) - 0.5, -0.5)
    bottom.set_yticks(range(len(curves)), [_short(curve.name, 12) for curve in curves])
    bottom.set_xlabel("time, s", color=FAINT, fontsize=10)
    bottom.set_facecolor(PANEL)
    frame(bottom)
    with atomic_path(path) as temporary, warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes: no reason for a warning per letter.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        canvas.print_png(str(temporary))
    return Path(path)


def difference(curve: F0Track, reference: F0Track) -> tuple[float, float, float] | None:
    """Compare two curves on the same grid.

    Args:
        curve: (N,) frames; the shorter one counts where lengths differ.
        reference: what it is compared with.

    Returns:
        Median of the distance in cents, and the share 0..1 of frames within 50 cents, both over
        frames voiced in both; share of all frames in which they agree on voiced or not. None where
        no frame is voiced in both.
    """
    n = min(len(curve), len(reference))
    a, b = _sung(curve)[:n], _sung(reference)[:n]
    away = np.abs(cents(a, b))
    away = away[np.isfinite(away)]
    if not away.size:
        return None
    same = float(np.mean((a > 0) == (b > 0)))
    return float(np.median(away)), float(np.mean(away <= GROSS_CENTS)), same


def _sung(track: F0Track) -> FloatArray:
    return np.where(track.uv > 0, track.f0, 0.0)


def _pen(i: int, count: int) -> tuple[str, float]:
    """Colour and width of a line."""
    step = (_WIDEST - _NARROWEST) / max(count - 1, 1)
    return _COLOURS[i % len(_COLOURS)], _WIDEST - i * step if count > 1 else 2.0


def _label(curves: Sequence[NamedCurve], i: int) -> str:
    track = curves[i].track
    name = _short(curves[i].name, 40)
    if not (track.uv > 0).any():
        return f"{name}: nothing voiced"
    text = f"{name}: {100 * float(np.mean(track.uv > 0)):.0f} % voiced"
    apart = difference(track, curves[0].track) if i else None
    if apart is not None:
        text += f", {100 * apart[1]:.0f} % within {GROSS_CENTS:.0f} cents of the first"
    return text


def _short(name: str, length: int) -> str:
    # A leading "_" would hide a label from the legend, "$" would begin a formula.
    name = name.lstrip("_") or "?"
    return (name if len(name) <= length else f"{name[: length - 1]}…").replace("$", r"\$")


def _draw_spectrogram(
    axis: Any,
    wav: npt.NDArray[np.float32],
    grid: FrameGrid,
    span: tuple[float, float],
    band: tuple[float, float],
) -> None:
    """Magnitudes in dB over time and log frequency."""
    sr = grid.sampling_rate
    n_fft = 2 ** round(np.log2(_WINDOW_SECONDS * sr))
    first, last = (round(second * sr) for second in span)
    hop = max(grid.hop_length // 2, -(-(last - first) // _MAX_COLUMNS))
    # Some context, so that the picture's edges are not spectra of a cut.
    begin, stop = max(0, first - n_fft), min(len(wav), last + n_fft)
    part = torch.from_numpy(np.ascontiguousarray(wav[begin:stop]))
    part = torch.nn.functional.pad(part, (0, max(0, n_fft - len(part))))
    with torch.no_grad():
        magnitude = stft_magnitude(part[None], n_fft, hop, n_fft, center=True)[0].numpy()
    octaves = np.log2(band[1] / band[0])
    hertz = band[0] * 2.0 ** np.linspace(0, octaves, max(2, round(octaves * _ROWS_PER_OCTAVE)))
    place = np.minimum(hertz / sr * n_fft, len(magnitude) - 1.001)
    below = place.astype(np.int64)
    share = (place - below)[:, None]
    level = (1 - share) * magnitude[below] + share * magnitude[below + 1]
    decibel = 20 * np.log10(np.maximum(level, 1e-9))
    decibel -= decibel.max()
    edges = (begin + (np.arange(decibel.shape[1] + 1) - 0.5) * hop) / sr
    rows = band[0] * 2.0 ** (
        (np.arange(len(hertz) + 1) - 0.5) * octaves / (len(hertz) - 1)
    )  # borders of the rows
    axis.pcolormesh(edges, rows, decibel, cmap="gray", vmin=-_RANGE_DB, vmax=6.0, rasterized=True)
    axis.set_yscale("log", base=2)
    axis.set_ylim(*band)
    name_notes(axis, wide=True)
    axis.set_ylim(*band)
    axis.set_ylabel("Hz (log)", color=FAINT, fontsize=10)
    axis.set_facecolor("black")
    frame(axis)


def _draw_curve(
    axis: Any,
    f0: FloatArray,
    grid: FrameGrid,
    label: str,
    colour: str,
    width: float,
    *,
    lowest: bool,
) -> None:
    axis.plot(
        np.arange(len(f0)) * grid.frame_seconds,
        or_gap(f0),
        color=colour,
        linewidth=width,
        label=label,
        solid_capstyle="round",
        # Outlines of the upper lines would hide the lower ones.
        path_effects=outline(width) if lowest else None,
    )


def _draw_voiced(axis: Any, curve: NamedCurve, grid: FrameGrid, row: int) -> None:
    """A bar wherever the curve is voiced."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], curve.track.uv > 0, [0]))))
    starts, ends = edges[::2] * grid.frame_seconds, edges[1::2] * grid.frame_seconds
    spans = list(zip(starts.tolist(), (ends - starts).tolist(), strict=True))
    axis.broken_barh(spans, (row - 0.36, 0.72), facecolors=_COLOURS[row % len(_COLOURS)])
