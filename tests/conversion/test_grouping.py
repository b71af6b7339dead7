from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from svc.conversion.grouping import in_groups, longest_first
from svc.conversion.windows import Window


def test_neighbours_up_to_the_limit() -> None:
    items = [3, 4, 2, 9, 30, 1, 1, 8, 2]
    groups = list(in_groups(items, lambda item: item, lambda: 10))
    assert groups == [[3, 4, 2], [9], [30], [1, 1, 8], [2]]
    assert list(in_groups([], lambda item: item, lambda: 10)) == []


def test_one_at_a_time_looks_at_none_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(5):
            taken.append(item)
            yield item

    for count, group in enumerate(in_groups(items(), lambda item: 100, lambda: 0), start=1):
        assert group == [count - 1]
        assert len(taken) == count


def test_the_limit_may_become_smaller() -> None:
    limits = iter([10, 10, 10, 2, 2, 2, 2, 2, 2, 2])
    groups = list(in_groups([1] * 6, lambda item: item, lambda: next(limits, 2)))
    assert [item for group in groups for item in group] == [1] * 6
    assert max(len(group) for group in groups[1:]) <= 2


def test_the_longest_goes_first_and_the_order_comes_back() -> None:
    seen: list[list[int]] = []

    def render(windows: Sequence[Window]) -> list[np.ndarray]:
        seen.append([window.wav.size for window in windows])
        return [window.wav * 2 for window in windows]

    windows = [Window(np.full(n, n, np.float32)) for n in (5, 9, 1, 9, 7)]
    made = longest_first(windows, render)
    assert seen == [[9, 9, 7, 5, 1]]
    assert [wav.size for wav in made] == [5, 9, 1, 9, 7]
    assert all((wav == 2 * wav.size).all() for wav in made)
