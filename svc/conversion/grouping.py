"""Which windows are rendered together: those that follow each other, as many as the voice takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from svc.conversion.chunks import FloatArray
from svc.conversion.windows import Window

Item = TypeVar("Item")


def in_groups(
    items: Iterable[Item], frames: Callable[[Item], int], limit: Callable[[], int]
) -> Iterator[list[Item]]:
    """Collect neighbours up to a number of frames.

    Args:
        items: in order.
        frames: of one item.
        limit: most frames of a group, asked for before each one, for it may change; an item that
            has more is a group of its own. 0 = every item is, and none is looked at before the one
            in front of it is done with.

    Yields:
        Items in order, one or more together.
    """
    group: list[Item] = []
    total = 0
    for item in items:
        n_frames = frames(item)
        if group and total + n_frames > limit():
            yield group
            group, total = [], 0
        group.append(item)
        total += n_frames
        if total >= limit():
            yield group
            group, total = [], 0
    if group:
        yield group


def longest_first(
    windows: Sequence[Window], render: Callable[[Sequence[Window]], list[FloatArray]]
) -> list[FloatArray]:
    """Render windows together, the longest first: what needs most memory fails at once or never.

    Args:
        windows: in any order.
        render: as `Backend.render_many`.

    Returns:
        What was rendered, in the order of `windows`.
    """
    order = sorted(range(len(windows)), key=lambda index: (-windows[index].wav.size, index))
    rendered = dict(zip(order, render([windows[index] for index in order]), strict=True))
    return [rendered[index] for index in range(len(windows))]
