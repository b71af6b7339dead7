"""A picture of a conversion: both mel spectrograms with their pitch, pitch tracks, levels."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from svc.atomic import atomic_path
from svc.audio.mel import mel_filterbank, stft_magnitude
from svc.audio.pitch import transpose
from svc.evaluation.figures import GROSS_CENTS, HOP, SAMPLING_RATE, Comparison, Figures, FloatArray
from svc.evaluation.style import (
    BACK,
    FAINT,
    GRID,
    INK,
    PANEL,
    frame,
    legend,
    or_gap,
    outline,
    pitch_axis,
    title,
)

PIXELS = (1400, 900)
_DPI = 100
_FFT = 4096  # samples: harmonics of a low voice stay apart
_BANDS = 192
_FMIN, _FMAX = 60.0, 16000.0  # Hz
_RANGE_DB = 75.0  # below the loudest band
_TICKS_HZ = (200, 500, 1000, 2000, 5000, 10000)
_MAX_COLUMNS = 3000  # more frames than pixels cost memory and show nothing

_SOURCE = "#5fd3ff"
_OUTPUT = "#ffd166"


def draw(comparison: Comparison, path: str | Path) -> Path:
    """Draw a comparison as a PNG of 1400 x 900 pixels.

    Args:
        comparison: from `figures.analyse`.
        path: the PNG file.

    Returns:
        The path.

    Raises:
        OutputError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PIXELS[0] / _DPI, PIXELS[1] / _DPI), dpi=_DPI, facecolor=BACK)
    canvas = FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        4, 2, height_ratios=(3.3, 3.3, 2.2, 1.2), width_ratios=(1, 0.012),
        left=0.066, right=0.948, top=0.872, bottom=0.062, hspace=0.2, wspace=0.02,
    )  # fmt: skip
    top = figure.add_subplot(grid[0, 0])
    axes = [top, *(figure.add_subplot(grid[row, 0], sharex=top) for row in (1, 2, 3))]
    source, output, figures = comparison.source, comparison.output, comparison.figures
    wanted = transpose(source.f0.astype(np.float64), figures.transpose)

    _draw_mel(axes[0], source.wav)
    _draw_pitch(axes[0], _band_of(source.f0), _SOURCE, "source F0", width=1.6)
    title(axes[0], f"Source: {source.path.name}")
    image = _draw_mel(axes[1], output.wav)
    _draw_pitch(axes[1], _band_of(output.f0), _OUTPUT, "output F0", width=1.6)
    title(axes[1], f"Output: {output.path.name}")
    _draw_pitch(axes[2], or_gap(wanted), _SOURCE, _wanted_label(figures), width=3.6)
    _draw_pitch(axes[2], or_gap(output.f0), _OUTPUT, "output F0", width=1.4)
    pitch_axis(axes[2], np.concatenate([wanted, output.f0]))
    _draw_levels(axes[3], comparison)
    for axis in axes[:3]:
        axis.tick_params(labelbottom=False)
        legend(axis, "upper right")
    top.set_xlim(0, max(source.seconds, output.seconds))
    bar = figure.colorbar(image, cax=figure.add_subplot(grid[:2, 1]))
    bar.set_label("dB below the loudest band", color=FAINT, fontsize=9)
    frame(bar.ax)
    bar.outline.set_visible(False)
    lines = _headline(figures)
    for line, size, height, colour in zip(
        lines, (13, 10.5), (0.952, 0.921), (INK, FAINT), strict=True
    ):
        figure.text(0.066, height, line, color=colour, fontsize=size, parse_math=False)
    with atomic_path(path) as temporary, warnings.catch_warnings():
        # A file name in a script that the font lacks is drawn as boxes; that is no reason for a
        # warning per letter.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        canvas.print_png(str(temporary))
    return Path(path)


def _headline(figures: Figures) -> tuple[str, str]:
    """Two lines above the picture: pitch and loudness, then voices."""
    if figures.f0_median_cents is None:
        pitch = "no frame voiced in both"
    else:
        pitch = (
            f"F0 error {figures.f0_median_cents:.0f} cents (95 %: {figures.f0_p95_cents:.0f})    "
            f"over {GROSS_CENTS:.0f} cents {figures.f0_gross_percent:.1f} %    "
            f"octave jumps {figures.f0_octave_percent:.1f} %"
        )
    first = f"{pitch}    voiced frames right {figures.voiced_right_percent:.1f} %"
    if figures.loudness_error_db is not None:
        first += f"    loudness error {figures.loudness_error_db:.1f} dB"
    parts: list[str] = []
    if figures.distance_to_target is not None:
        parts.append(f"timbre distance to target voice {figures.distance_to_target:.2f}")
        if figures.distance_before is not None:
            parts[-1] += f" (source song: {figures.distance_before:.2f})"
    if figures.distance_to_source is not None:
        parts.append(f"timbre distance to source voice {figures.distance_to_source:.2f}")
    parts.append(f"peak {figures.peak_dbfs:.1f} dBFS")
    if figures.lufs is not None:
        parts.append(f"{figures.lufs:.1f} LUFS")
    parts.append(f"F0 by {figures.f0_predictor}")
    return first, "    ".join(parts)


def _wanted_label(figures: Figures) -> str:
    if figures.transpose == 0:
        return "source F0"
    return f"source F0 {figures.transpose:+g} semitones"


def _band_of(frequency: npt.ArrayLike) -> FloatArray:
    """Place of frequencies in Hz on the axis of mel bands (the filter bank's "htk" scale); NaN for
    0.
    """

    def mel(hz: npt.ArrayLike) -> FloatArray:
        scale: FloatArray = 2595.0 * np.log10(1.0 + np.asarray(hz, dtype=np.float64) / 700.0)
        return scale

    low = mel(_FMIN)
    step = (mel(_FMAX) - low) / (_BANDS + 1)
    place: FloatArray = (mel(frequency) - low) / step - 1.0
    return np.where(np.asarray(frequency) > 0, place, np.nan)


def _draw_mel(axis: Any, wav: npt.NDArray[np.float32]) -> Any:
    hop = max(HOP, len(wav) // _MAX_COLUMNS)
    with torch.no_grad():
        magnitude = stft_magnitude(torch.from_numpy(wav)[None], _FFT, hop, _FFT // 2, center=True)[
            0
        ]
        bank = mel_filterbank(SAMPLING_RATE, _FFT, _BANDS, _FMIN, _FMAX, "htk")
        mel = 20 * torch.log10((bank @ magnitude).clamp_min(1e-9))
    decibel = (mel - mel.max()).numpy()
    image = axis.imshow(
        decibel,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=-_RANGE_DB,
        vmax=0.0,
        # A column's centre is at its frame's time.
        extent=(
            -0.5 * hop / SAMPLING_RATE,
            (decibel.shape[1] - 0.5) * hop / SAMPLING_RATE,
            -0.5,
            _BANDS - 0.5,
        ),
        interpolation="antialiased",
    )
    axis.set_ylim(-0.5, _BANDS - 0.5)
    axis.set_yticks(_band_of(_TICKS_HZ).tolist())
    axis.set_yticklabels([f"{hz // 1000}k" if hz >= 1000 else str(hz) for hz in _TICKS_HZ])
    axis.set_facecolor("black")
    axis.set_ylabel("Hz (mel scale)", color=FAINT, fontsize=10)
    frame(axis)
    return image


def _draw_pitch(axis: Any, heights: FloatArray, colour: str, label: str, *, width: float) -> None:
    axis.plot(
        np.arange(len(heights)) * HOP / SAMPLING_RATE,
        heights,
        color=colour,
        linewidth=width,
        label=label,
        solid_capstyle="round",
        path_effects=outline(width),
    )


def _draw_levels(axis: Any, comparison: Comparison) -> None:
    gain = comparison.figures.gain_db or 0.0
    for recording, colour, label, shift in (
        (comparison.source, _SOURCE, "source", 0.0),
        (comparison.output, _OUTPUT, f"output, gain of {gain:+.1f} dB removed", -gain),
    ):
        time = np.arange(len(recording.level_db)) * HOP / SAMPLING_RATE
        axis.plot(time, recording.level_db + shift, color=colour, linewidth=1.3, label=label)
    top = 5.0 + max(
        float(np.max(comparison.source.level_db)), float(np.max(comparison.output.level_db)) - gain
    )
    axis.set_ylim(top - 65.0, top)
    axis.set_ylabel("dBFS", color=FAINT, fontsize=10)
    axis.set_xlabel("time, s", color=FAINT, fontsize=10)
    axis.set_facecolor(PANEL)
    axis.grid(color=GRID, linewidth=0.6)
    legend(axis, "lower right")
    frame(axis)
