"""Building an index: the sizes of the original, and the same bytes for the same seed."""

from __future__ import annotations

import math

import faiss
import numpy as np
import pytest

from svc.retrieval.index_build import (
    BUILD_STEPS,
    K_MEANS_STEPS,
    build_index,
    n_lists_for,
    reduce_rows,
    seeds_of,
    shuffled_places,
)

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


def spread(rows: np.ndarray, centres: np.ndarray) -> float:
    """Mean squared distance of the rows to their nearest centres."""
    d = np.square(rows).sum(1)[:, None] + np.square(centres).sum(1) - 2 * rows @ centres.T
    return float(d.min(1).mean())


def test_centres_stand_for_the_rows() -> None:
    """Judged by scikit-learn's mini-batch k-means, which the original uses."""
    from sklearn.cluster import MiniBatchKMeans

    rows = vectors(4000, 6)
    seen: list[tuple[int, int]] = []
    centres = reduce_rows(rows, 100, seed=3, progress=lambda n, of, _: seen.append((n, of)))
    assert (centres.shape, centres.dtype) == ((100, 6), np.float32)
    assert seen == [(n, K_MEANS_STEPS) for n in range(1, K_MEANS_STEPS + 1)]
    reference = MiniBatchKMeans(100, batch_size=1024, init="random", n_init=1, random_state=0)
    reference.fit(rows)
    assert spread(rows, centres) < 1.03 * spread(rows, reference.cluster_centers_)
    assert spread(rows, centres) < 0.8 * spread(rows, rows[:100])
    np.testing.assert_array_equal(centres, reduce_rows(rows, 100, seed=3))
    assert not np.array_equal(centres, reduce_rows(rows, 100, seed=4))


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """faiss warns on stderr where rows are few for the lists or centres."""
    build_index(reduce_rows(vectors(500), 100, seed=1), seed=1)
    build_index(vectors(39), seed=1)
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")


def test_progress() -> None:
    seen: list[int] = []
    rows = reduce_rows(vectors(200), 50, seed=1, progress=lambda *_: seen.append(1))
    build_index(rows, seed=1, progress=lambda *_: seen.append(1))
    assert len(seen) == BUILD_STEPS
