"""Building an index: the sizes of the original, and the same bytes for the same seed."""

from __future__ import annotations

import math

import faiss
import numpy as np
import pytest

from svc.retrieval.index_build import build_index, n_lists_for, seeds_of, shuffled_places

pytestmark = pytest.mark.usefixtures("one_thread")


def vectors(rows: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


def content(index: object) -> bytes:
    return bytes(faiss.serialize_index(index))


@pytest.mark.parametrize(
    ("rows", "lists"),
    [(0, 0), (1, 0), (38, 0), (39, 1), (78, 2), (2400, 61), (10_000, 256), (200_000, 5128)],
)
def test_number_of_lists(rows: int, lists: int) -> None:
    assert n_lists_for(rows) == lists


def test_number_of_lists_is_the_formula() -> None:
    for rows in range(1, 10**6, 997):
        assert n_lists_for(rows) == min(math.floor(16 * math.sqrt(rows)), rows // 39)


def test_rows_keep_their_numbers() -> None:
    rows = vectors(9000)  # more than one block
    index = build_index(rows, nprobe=3, seed=1)
    assert (index.ntotal, index.nlist, index.nprobe) == (9000, 230, 3)
    assert index.metric_type == faiss.METRIC_L2
    np.testing.assert_array_equal(index.reconstruct_n(0, 9000), rows)


def test_few_rows_make_a_flat_index() -> None:
    """ "IVF0" is an error of faiss (spec_cluster_index C7)."""
    index = build_index(vectors(38), seed=1)
    assert not hasattr(index, "nlist")
    np.testing.assert_array_equal(index.reconstruct_n(0, 38), vectors(38))
    assert build_index(vectors(39), seed=1).nlist == 1


def test_equal_rows_are_no_trouble() -> None:
    index = build_index(np.ones((500, 4), np.float32), seed=1)
    assert index.ntotal == 500


def test_the_seed_decides() -> None:
    rows = vectors(2000)
    assert content(build_index(rows, seed=1)) == content(build_index(rows, seed=1))
    assert content(build_index(rows, seed=1)) != content(build_index(rows, seed=2))


def test_seeds_of_speakers_are_their_own() -> None:
    found = {seeds_of(seed, speaker) for seed in (0, 1, 2**62) for speaker in range(20)}
    assert len(found) == 60
    assert seeds_of(5, 3) == seeds_of(5, 3)
    for seeds in found:
        assert len(set(seeds)) == 3
        assert all(0 <= seed < 2**31 for seed in seeds)


def test_shuffling_is_a_permutation() -> None:
    places = shuffled_places(1000, 7)
    np.testing.assert_array_equal(np.sort(places), np.arange(1000))
    assert (places != np.arange(1000)).mean() > 0.9
    np.testing.assert_array_equal(places, shuffled_places(1000, 7))


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """faiss warns on stderr where rows are few for the lists."""
    build_index(vectors(500), seed=1)
    build_index(vectors(39), seed=1)
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")


def test_progress() -> None:
    seen: list[tuple[int, int, str]] = []
    build_index(vectors(200), seed=1, progress=lambda *call: seen.append(call))
    assert seen == [(1, 2, "training"), (2, 2, "adding")]
