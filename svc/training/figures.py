"""Pictures for TensorBoard: spectrograms and pitch curves as RGB arrays.

Drawn through matplotlib's object interface on the Agg canvas: no window system, no global figure
list, and ``buffer_rgba``, which every matplotlib has (spec_core 10, T13).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE = (10.0, 2.0)  # inches, spec_core 7.3
_MEL_RANGE = (-14.0, 3.5)  # natural log


def _canvas() -> tuple[Figure, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE)
    FigureCanvasAgg(figure)
    # A fixed place for the axes: fitting a layout to the labels takes longer than drawing.
    return figure, figure.add_axes((0.06, 0.24, 0.92, 0.7))


def _pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    canvas: Any = figure.canvas
    canvas.draw()
    pixels: npt.NDArray[np.uint8] = np.array(canvas.buffer_rgba(), dtype=np.uint8)[..., :3]
    return pixels


def spectrogram_image(mel: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Draw a spectrogram.

    Args:
        mel: (M, N) log-mel, low bands first.

    Returns:
        (H, W, 3) RGB, 10 by 2 inches at 100 dots per inch.
    """
    figure, axes = _canvas()
    image = axes.imshow(mel, aspect="auto", origin="lower", interpolation="none")
    figure.colorbar(image, ax=axes)
    axes.set_xlabel("frames")
    axes.set_ylabel("mel bands")
    return _pixels(figure)


def comparison_image(
    truth: npt.NDArray[np.float32], made: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:
    """Draw a mel as recorded, as made, and how far they are apart.

    Args:
        truth: (M, N) natural-log mel.
        made: (M, N).

    Returns:
        (H, W, 3) RGB; both mels in the colours of -14 to 3.5 (spec_diffusion 11).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_SIZE[0], 3 * _SIZE[1]))
    FigureCanvasAgg(figure)
    pictures = (("recorded", truth), ("made", made), ("|difference|", np.abs(truth - made)))
    for row, (label, picture) in enumerate(pictures):
        low, high = (0.0, 5.0) if row == 2 else _MEL_RANGE
        axes = figure.add_axes((0.06, 0.72 - 0.32 * row, 0.92, 0.25))
        image = axes.imshow(
            picture, aspect="auto", origin="lower", interpolation="none", vmin=low, vmax=high
        )
        figure.colorbar(image, ax=axes)
        axes.set_ylabel(label)
    return _pixels(figure)


def curves_image(curves: dict[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.uint8]:
    """Draw curves over frames.

    Args:
        curves: label -> (N,) values.

    Returns:
        (H, W, 3) RGB, 10 by 2 inches at 100 dots per inch.
    """
    figure, axes = _canvas()
    for label, values in curves.items():
        axes.plot(np.asarray(values), label=label, linewidth=1)
    axes.set_xlabel("frames")
    axes.legend(loc="upper right")
    return _pixels(figure)


def pitch_image(tracks: dict[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.uint8]:
    """Draw pitch tracks, as a listener hears them: on a logarithmic axis, with gaps where unvoiced.

    Args:
        tracks: label -> (N,) Hz, 0 = unvoiced; later ones are drawn over earlier ones.

    Returns:
        (H, W, 3) RGB, 10 by 2 inches at 100 dots per inch.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure, axes = _canvas()
    for place, (label, f0) in enumerate(tracks.items()):
        width = 3.0 if place == 0 else 1.0  # the first one stays visible below the others
        axes.plot(np.where(f0 > 0, f0, np.nan), label=label, linewidth=width, alpha=0.8)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_locator(LogLocator(base=2, subs=(1.0, 1.5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("frames")
    axes.set_ylabel("Hz")
    axes.legend(loc="best")  # high notes are as likely as low ones
    return _pixels(figure)
