"""Nothing reaches faiss's own reader that is not an index from the first byte to the last."""

from __future__ import annotations

import struct
from collections.abc import Callable

import faiss
import numpy as np
import pytest

from svc.retrieval.index_files import StoredIndex
from svc.retrieval.index_layout import IndexFacts, check_layout

DIM = 6
HEADER = (
    37  # bytes of faiss's header: i32, i64, two unused i64, u8, i32, and the four letters before
)


pytestmark = pytest.mark.usefixtures("one_thread")


def vectors(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, DIM)).astype(np.float32)


def serialised(factory: str, rows: int, *, metric: int = faiss.METRIC_L2) -> bytes:
    index = faiss.index_factory(DIM, factory, metric)
    if not index.is_trained:
        index.train(vectors(500))
    index.add(vectors(rows))
    return bytes(faiss.serialize_index(index))


def with_map(rows: int) -> bytes:
    index = faiss.index_factory(DIM, "IVF4,Flat")
    index.train(vectors(200))
    index.add(vectors(rows))
    index.make_direct_map()
    return bytes(faiss.serialize_index(index))


@pytest.mark.parametrize(
    ("data", "facts"),
    [
        (serialised("Flat", 9), IndexFacts(DIM, 9, 0, 1)),
        (serialised("IVF12,Flat", 500), IndexFacts(DIM, 500, 12, 1)),
        (serialised("IVF12,Flat", 2), IndexFacts(DIM, 2, 12, 1)),  # sizes of few lists: "sprs"
        (with_map(100), IndexFacts(DIM, 100, 4, 1)),
    ],
    ids=["flat", "lists", "sparse lists", "direct map"],
)
def test_what_faiss_writes(data: bytes, facts: IndexFacts) -> None:
    stored = StoredIndex.of("here", memoryview(data))
    assert stored.facts == facts
    index = stored.read()
    assert (index.ntotal, index.d) == (facts.rows, DIM)
    assert bytes(faiss.serialize_index(index)) == data


@pytest.mark.parametrize("factory", ["IVF4,PQ2x4", "HNSW8", "IDMap,Flat", "SQ8", "PCA4,IVF4,Flat"])
def test_other_kinds_are_named(factory: str) -> None:
    index = faiss.index_factory(DIM, factory)
    index.train(vectors(500))
    if not factory.startswith("IDMap"):
        index.add(vectors(100))
    with pytest.raises(ValueError, match=r"only IVF,Flat .* are read"):
        check_layout(memoryview(bytes(faiss.serialize_index(index))))


def test_another_metric_is_refused() -> None:
    for factory in ("IVF4,Flat", "Flat"):
        data = serialised(factory, 100, metric=faiss.METRIC_INNER_PRODUCT)
        with pytest.raises(ValueError, match=r"metric 0|only IVF,Flat"):
            check_layout(memoryview(data))


def test_an_empty_index_is_refused() -> None:
    with pytest.raises(ValueError, match="0 rows"):
        check_layout(memoryview(serialised("Flat", 0)))


@pytest.mark.parametrize("kind", ["Flat", "IVF4,Flat"])
def test_truncated_anywhere(kind: str) -> None:
    whole = serialised(kind, 60)
    for size in range(len(whole)):
        with pytest.raises(ValueError, match=r"\w"):
            check_layout(memoryview(whole[:size]))
    with pytest.raises(ValueError, match=r"1 bytes too many|do not take as many"):
        check_layout(memoryview(whole + b"\0"))


def test_garbled_files_are_refused_or_harmless(rng: np.random.Generator) -> None:
    """What is let through is read by faiss and searched: a crash would end this test run."""
    accepted = 0
    for whole in (serialised("IVF4,Flat", 60), serialised("IVF12,Flat", 2), with_map(50)):
        structure = len(whole) - 60 * (4 * DIM + 8)
        for _ in range(1000):
            broken = bytearray(whole)
            for _ in range(rng.integers(1, 4)):
                place = rng.integers(0, len(whole) if rng.random() < 0.2 else max(structure, 150))
                broken[place] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
            try:
                stored = StoredIndex("here", memoryview(broken), check_layout(memoryview(broken)))
            except ValueError:
                continue
            accepted += 1
            index = stored.read()
            index.search_and_reconstruct(vectors(3, seed=1), 4)
    assert 100 < accepted < 2500


def patched(data: bytes, place: int, code: str, value: float) -> bytes:
    changed = bytearray(data)
    struct.pack_into(f"<{code}", changed, place, value)
    return bytes(changed)


LISTS = serialised("IVF4,Flat", 60)
AFTER_CENTROIDS = HEADER + 16 + HEADER + 8 + 4 * 4 * DIM  # where the direct map begins
SIZES = AFTER_CENTROIDS + 9 + 4 + 16 + 4 + 8


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(patched(LISTS, 8, "q", 2**40), id="rows without end"),
        pytest.param(patched(LISTS, 8, "q", -1), id="rows below zero"),
        pytest.param(patched(LISTS, 8, "q", 59), id="a row less"),
        pytest.param(patched(LISTS, 4, "i", 2**31 - 1), id="width without end"),
        pytest.param(patched(LISTS, 32, "B", 0), id="not trained"),
        pytest.param(patched(LISTS, HEADER, "Q", 2**63), id="lists without end"),
        pytest.param(patched(LISTS, HEADER, "Q", 3), id="a list less than centroids"),
        pytest.param(patched(LISTS, HEADER + 8, "Q", 0), id="no list to search"),
        pytest.param(patched(LISTS, AFTER_CENTROIDS, "B", 2), id="a hash table as direct map"),
        pytest.param(patched(LISTS, AFTER_CENTROIDS + 1, "Q", 2**61), id="a long direct map"),
        pytest.param(patched(LISTS, AFTER_CENTROIDS + 13, "Q", 5), id="other lists"),
        pytest.param(patched(LISTS, AFTER_CENTROIDS + 21, "Q", 3), id="other vectors in lists"),
        pytest.param(patched(LISTS, SIZES - 8, "Q", 2**62), id="sizes without end"),
        pytest.param(patched(LISTS, SIZES, "Q", 2**62), id="a list without end"),
        pytest.param(patched(LISTS, SIZES + 24, "Q", 0), id="a size that is wrong"),
        pytest.param(patched(LISTS, len(LISTS) - 8, "q", 60), id="a number out of range"),
        pytest.param(patched(LISTS, len(LISTS) - 8, "q", -1), id="a number below zero"),
        pytest.param(LISTS[:-8] + LISTS[-16:-8], id="a number twice"),
        pytest.param(patched(LISTS, HEADER + 16 + HEADER + 8, "f", np.nan), id="nan centroid"),
        pytest.param(patched(LISTS, len(LISTS) - 8 * 8 - 200, "f", np.inf), id="infinite vector"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_lies_are_found(data: bytes) -> None:
    assert data != LISTS
    with pytest.raises(ValueError, match=r"\w"):
        check_layout(memoryview(data))


def test_a_direct_map_that_points_elsewhere() -> None:
    data = with_map(50)
    place = HEADER + 16 + HEADER + 8 + 4 * 4 * DIM + 9
    (first,) = struct.unpack_from("<q", data, place)
    for wrong in (first + 1, 2**40, -1):
        with pytest.raises(ValueError, match="direct map points elsewhere"):
            check_layout(memoryview(patched(data, place, "q", wrong)))


@pytest.fixture
def sparse() -> Callable[[int, int], bytes]:
    whole = serialised("IVF12,Flat", 2)
    start = whole.index(b"sprs") + 4 + 8

    def make(number: int, value: int) -> bytes:
        return patched(whole, start + 8 * number, "Q", value)

    return make


@pytest.mark.parametrize(("number", "value"), [(0, 12), (0, 2**63), (1, 2), (1, 0), (1, 2**60)])
def test_sparse_sizes(sparse: Callable[[int, int], bytes], number: int, value: int) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        check_layout(memoryview(sparse(number, value)))
