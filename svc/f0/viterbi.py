"""The best path through per-frame scores of pitch bins, where a step may reach only near bins.

The transition is crepe's (spec_f0 6.1): a triangle of 11 bins to either side, so one step looks at
23 bins instead of all 360. Viterbi's algorithm in log scores, vectorised over bins and clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
Path = npt.NDArray[np.int64]

_BLOCK_BYTES = 32_000_000  # of path scores kept at a time, however long the clips are


@dataclass(frozen=True)
class Transitions:
    """Log-probabilities of going from one bin to another between frames."""

    # (2 R + 1, S): row k, column j is the step from bin j + k - R to bin j; -inf beyond the ends
    band: npt.NDArray[np.float64]
    leap: float = -np.inf  # of any step further than R bins

    @property
    def reach(self) -> int:
        """Largest step of the band, in bins."""
        return len(self.band) // 2


def triangular_transitions(
    n_bins: int, *, width: int = 12, leap: float = -np.inf, closed: bool = True
) -> Transitions:
    """Transitions in proportion to max(width - |i - j|, 0), those out of a bin adding up to 1.

    Args:
        n_bins: S.
        width: bins; crepe's is 12, so a step reaches 11 bins, 220 cents.
        leap: log-probability given to longer steps.
        closed: they add up to 1 for the bins near the ends of the table too, which makes it cheap to
            stay there; if not, those bins are treated as if the table went on.

    Returns:
        The transitions, with R = min(width, S) - 1.
    """
    reach = min(width, n_bins) - 1
    target = np.arange(n_bins)
    source = target + np.arange(-reach, reach + 1)[:, None]  # (2 R + 1, S)
    steps = np.maximum(width - np.abs(np.arange(1 - width, width)), 0).astype(np.float64)
    total = np.full(n_bins, steps.sum())
    if closed:
        total = np.convolve(np.ones(n_bins), steps)[width - 1 : width - 1 + n_bins]
    inside = (source >= 0) & (source < n_bins)
    weight = (width - np.abs(source - target)) / total[np.clip(source, 0, n_bins - 1)]
    band = np.full(source.shape, -np.inf)
    band[inside] = np.log(weight[inside])
    return Transitions(band, leap)


def viterbi(scores: Sequence[FloatArray], transitions: Transitions) -> list[Path]:
    """Find each clip's path with the largest sum of frame scores and step scores.

    All bins are as likely at the start. Path scores are float64; of several equal paths the one
    through lower bins is taken, as in librosa's routine. Only a bounded part of the path scores is
    kept; for longer clips they are computed twice.

    Args:
        scores: per clip (N, S) log-scores of the frames, N >= 0; -inf forbids a bin, every frame
            must allow one.
        transitions: of S bins.

    Returns:
        Per clip (N,) bins.
    """
    paths: list[Path] = [np.zeros(len(clip), dtype=np.int64) for clip in scores]
    longest = max((len(clip) for clip in scores), default=0)
    if longest == 0:
        return paths
    n_bins = transitions.band.shape[1]
    block = max(1, _BLOCK_BYTES // (8 * n_bins * len(scores)))
    starts = range(0, longest, block)
    entries = [np.full((len(scores), n_bins), -np.log(n_bins))]  # path scores in front of a block
    for start in starts[:-1]:
        entries.append(_advance(scores, transitions, start, start + block, entries[-1])[-1].copy())
    states = np.zeros(len(scores), dtype=np.int64)
    for start, entry in zip(reversed(starts), reversed(entries)):
        values = _advance(scores, transitions, start, min(start + block, longest), entry)
        for frame in range(start + len(values) - 1, start - 1, -1):
            if frame + 1 < longest:
                states = _step_back(values[frame - start], transitions, states)
            for clip, path in enumerate(paths):
                if frame == len(path) - 1:
                    states[clip] = values[frame - start, clip].argmax()
                if frame < len(path):
                    path[frame] = states[clip]
    return paths


def _advance(
    scores: Sequence[FloatArray],
    transitions: Transitions,
    start: int,
    stop: int,
    entry: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Path scores of frames start..stop: (stop - start, B, S), after `entry` (B, S), those of the
    frame before. What follows the end of a shorter clip is never looked at.
    """
    values = np.zeros((stop - start, *entry.shape))
    for clip, score in enumerate(scores):
        part = score[start:stop]
        values[: len(part), clip] = part
    reach = transitions.reach
    padded = np.full((entry.shape[0], entry.shape[1] + 2 * reach), -np.inf)
    inside = padded[:, reach : reach + entry.shape[1]]
    windows = np.lib.stride_tricks.sliding_window_view(padded, entry.shape[1], axis=1)
    candidates = np.empty(windows.shape)  # (B, 2 R + 1, S)
    best = np.empty(entry.shape)
    inside[:] = entry
    for frame, value in enumerate(values):
        if start + frame == 0:
            value += entry
        else:
            np.add(windows, transitions.band, out=candidates)
            np.maximum.reduce(candidates, axis=1, out=best)
            if transitions.leap > -np.inf:
                np.maximum(best, inside.max(axis=1, keepdims=True) + transitions.leap, out=best)
            value += best
        inside[:] = value
    return values


def _step_back(value: npt.NDArray[np.float64], transitions: Transitions, states: Path) -> Path:
    """Bins (B,) that the best paths to the bins `states` of the next frame come from.

    Args:
        value: (B, S) path scores of this frame.
        transitions: the same as forwards.
        states: (B,) bins of the next frame.
    """
    reach = transitions.reach
    rows = np.arange(len(states))
    near = np.clip(states[:, None] + np.arange(-reach, reach + 1), 0, value.shape[1] - 1)
    candidates = value[rows[:, None], near] + transitions.band.T[states]
    best = candidates.argmax(axis=1)
    source: Path = near[rows, best]
    if transitions.leap > -np.inf:
        top = value.argmax(axis=1)
        far = value[rows, top] + transitions.leap > candidates[rows, best]
        source = np.where(far, top, source)
    return source
