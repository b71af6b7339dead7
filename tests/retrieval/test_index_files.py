"""Index files on disk: the folder of native files, and the pickle of the original without unpickling."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from svc.errors import CheckpointError, MissingFileError, OutputError
from svc.retrieval.index_build import build_index
from svc.retrieval.index_files import (
    SIDE_CAR_NAME,
    IndexRecord,
    SpeakerRecord,
    StoredIndex,
    index_name,
    open_folder,
    read_record,
    write_index,
    write_record,
)
from svc.retrieval.legacy_index import open_legacy, write_legacy

DIM = 6


pytestmark = pytest.mark.usefixtures("one_thread")


def vectors(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, DIM)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two speakers: 500 rows in lists, 9 rows without."""
    speakers = {}
    for speaker_id, (name, rows) in enumerate([("alice", 500), ("björk & 歌", 9)]):
        index = build_index(vectors(rows, speaker_id), seed=1)
        sha256 = write_index(index, tmp_path / "index" / index_name(speaker_id))
        speakers[name] = SpeakerRecord(
            id=speaker_id, file=index_name(speaker_id), rows=rows, source_rows=rows, reduced=False,
            n_ivf=12 if rows == 500 else 0, nprobe=1, seed=1, sha256=sha256,
        )  # fmt: skip
    write_record(tmp_path / "index", IndexRecord("vec768l12", DIM, "1.0", speakers))
    return tmp_path / "index"


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / SIDE_CAR_NAME
    raw = json.loads(path.read_text(encoding="utf-8"))
    change(raw)
    path.write_text(json.dumps(raw), encoding="utf-8")


# ---------------------------------------------------------------------------------- native files


def test_there_and_back(folder: Path) -> None:
    record, stored = open_folder(folder)
    assert record == read_record(folder)
    assert list(record.speakers) == ["alice", "björk & 歌"]
    assert "björk & 歌" in (folder / SIDE_CAR_NAME).read_text(encoding="utf-8")
    for speaker_id, rows in ((0, 500), (1, 9)):
        assert stored[speaker_id].facts.rows == rows
        np.testing.assert_array_equal(
            stored[speaker_id].read().reconstruct_n(0, rows), vectors(rows, speaker_id)
        )


def test_the_files_are_faisss_own(folder: Path) -> None:
    path = folder / "Index-0.index"
    assert faiss.read_index(str(path)).ntotal == 500
    content = path.read_bytes()
    assert content == bytes(faiss.serialize_index(build_index(vectors(500), seed=1)))
    entry = read_record(folder).speakers["alice"]
    assert hashlib.sha256(content).hexdigest() == entry.sha256


def test_an_index_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "Index-0.index"
    path.write_bytes(b"the old one")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("svc.retrieval.index_files.hashlib.sha256", lambda: Digest())

    class Digest:
        update = full

    with pytest.raises(OutputError, match=r"Index-0\.index: no space left"):
        write_index(build_index(vectors(50), seed=0), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["Index-0.index"]
    assert path.read_bytes() == b"the old one"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:-9] + b"\1" + path.read_bytes()[-8:]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes((path.parent / "Index-1.index").read_bytes()),
    ],
    ids=["truncated", "a bit", "empty", "another speaker's"],
)
def test_a_damaged_index_is_one_line(folder: Path, spoil: Callable[[Path], Any]) -> None:
    spoil(folder / "Index-0.index")
    with pytest.raises(CheckpointError, match=r"Index-0\.index.*svc train-index") as caught:
        open_folder(folder)
    assert "\n" not in str(caught.value)


def test_a_hash_alone_is_no_protection(folder: Path) -> None:
    """Whoever makes a hostile index can write its hash into the side-car too."""
    path = folder / "Index-0.index"
    content = bytearray(path.read_bytes())
    content[-8:] = (10**6).to_bytes(8, "little")  # the number of the last row
    path.write_bytes(content)

    def forge(raw: dict[str, Any]) -> None:
        raw["speakers"]["alice"]["sha256"] = hashlib.sha256(content).hexdigest()

    edit(folder, forge)
    with pytest.raises(CheckpointError, match="a row number out of range"):
        open_folder(folder)


def test_missing_files(folder: Path, tmp_path: Path) -> None:
    (folder / "Index-1.index").unlink()
    with pytest.raises(MissingFileError, match=r"Index-1\.index is not there.*svc train-index"):
        open_folder(folder)
    with pytest.raises(MissingFileError, match=r"has no feature_index\.json"):
        open_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.update(format="other"), "something else"),
        (lambda raw: raw.update(version=9), "version is 9"),
        (lambda raw: raw.pop("encoder"), "no key 'encoder'"),
        (lambda raw: raw.update(dim="6"), "\"dim\" is '6'"),
        (lambda raw: raw.update(speakers=[]), "no attribute"),
        (lambda raw: raw["speakers"]["alice"].update(id=True), '"id" is True'),
        (lambda raw: raw["speakers"]["alice"].update(id=1), "two speakers have the same id"),
        (lambda raw: raw["speakers"]["alice"].update(id=-1), "has the id -1"),
        (lambda raw: raw["speakers"]["alice"].pop("sha256"), "no key 'sha256'"),
        (lambda raw: raw["speakers"]["alice"].update(file="../x"), r"the file '\.\./x'"),
        (lambda raw: raw["speakers"]["alice"].update(file="C:\\x"), "the file"),
    ],
)
def test_a_damaged_side_car_is_one_line(
    folder: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    edit(folder, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_folder(folder)
    assert str(folder / SIDE_CAR_NAME) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "nul\0", "\udcff", "[" * 100_000])
def test_a_side_car_that_is_no_json(folder: Path, text: str) -> None:
    (folder / SIDE_CAR_NAME).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"feature_index\.json: damaged"):
        open_folder(folder)


@pytest.mark.parametrize("key", ["rows", "n_ivf"])
def test_a_side_car_of_another_index(folder: Path, key: str) -> None:
    edit(folder, lambda raw: raw["speakers"]["alice"].update({key: 7}))
    with pytest.raises(CheckpointError, match="500 rows of 6 in 12 lists"):
        open_folder(folder)


# --------------------------------------------------------------------------- the original's pickle


def state_of(rows: int) -> bytes:
    return bytes(faiss.serialize_index(build_index(vectors(rows), seed=1)))


def read(stored: StoredIndex) -> np.ndarray:
    found: np.ndarray = stored.read().reconstruct_n(0, stored.facts.rows)
    return found


def test_the_originals_own_file(golden: Path) -> None:
    stored = open_legacy(golden / "golden_feature_and_index.pkl")
    facts = stored[0].facts
    assert (list(stored), facts.rows, facts.dim, facts.n_lists, facts.nprobe) == (
        [0], 2400, 24, 61, 1,
    )  # fmt: skip
    data = np.load(golden / "golden_retrieval.npz")["data"]
    np.testing.assert_array_equal(read(stored[0]), data)


def test_the_class_in_any_module(golden: Path, tmp_path: Path) -> None:
    """Same pickle, written on machines with other instruction sets."""
    whole = (golden / "golden_feature_and_index.pkl").read_bytes()
    name = b"\x8c\x0ffaiss.swigfaiss"
    assert whole.count(name) == 1
    for module in ("faiss.swigfaiss_avx2", "faiss.swigfaiss_avx512", "faiss"):
        other = b"\x8c" + bytes([len(module)]) + module.encode()
        (tmp_path / "x.pkl").write_bytes(whole.replace(name, other))
        assert open_legacy(tmp_path / "x.pkl")[0].facts.rows == 2400


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(tmp_path: Path, protocol: int) -> None:
    indexes = {number: build_index(vectors(rows), seed=1) for number, rows in ((0, 300), (3, 9))}
    path = tmp_path / "feature_and_index.pkl"
    path.write_bytes(pickle.dumps(indexes, protocol=protocol))
    stored = open_legacy(path)
    assert sorted(stored) == [0, 3]
    np.testing.assert_array_equal(read(stored[0]), vectors(300))
    np.testing.assert_array_equal(read(stored[3]), vectors(9))


def test_two_ids_may_share_an_index(tmp_path: Path) -> None:
    index = build_index(vectors(300), seed=1)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({0: index, 1: index}))
    stored = open_legacy(tmp_path / "x.pkl")
    np.testing.assert_array_equal(read(stored[0]), read(stored[1]))


def test_what_we_write_unpickles_in_a_process_of_its_own(folder: Path, tmp_path: Path) -> None:
    """As so-vits-svc does it, without anything of ours."""
    path = tmp_path / "feature_and_index.pkl"
    write_legacy(path, {1: folder / "Index-1.index", 0: folder / "Index-0.index"})
    code = (
        "import pickle, sys\n"
        "import numpy as np\n"
        "indexes = pickle.load(open(sys.argv[1], 'rb'))\n"
        "assert list(indexes) == [0, 1], indexes\n"
        "for number, index in indexes.items():\n"
        "    rows = index.reconstruct_n(0, index.ntotal)\n"
        "    d, i = index.search(rows, 1)\n"
        "    assert (i[:, 0] == np.arange(len(rows))).all()\n"
        "    np.save(f'{sys.argv[1]}.{number}.npy', rows)\n"
        "assert type(indexes[0]).__name__ == 'IndexIVFFlat'\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, env=environment)
    for number, rows in ((0, 500), (1, 9)):
        np.testing.assert_array_equal(np.load(f"{path}.{number}.npy"), vectors(rows, number))
    stored = open_legacy(path)
    assert {number: entry.facts.rows for number, entry in stored.items()} == {0: 500, 1: 9}
    assert bytes(stored[0].data) == (folder / "Index-0.index").read_bytes()


def test_a_damaged_native_file_is_not_passed_on(folder: Path, tmp_path: Path) -> None:
    (folder / "Index-0.index").write_bytes(b"IwFl")
    with pytest.raises(CheckpointError, match=r"Index-0\.index"):
        write_legacy(tmp_path / "x.pkl", {0: folder / "Index-0.index"})
    assert not (tmp_path / "x.pkl").exists()


class Hostile:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def test_a_hostile_file_is_refused_and_does_nothing(tmp_path: Path) -> None:
    trap, path = tmp_path / "pwned", tmp_path / "evil.pkl"
    for evil in (Hostile(os.mkdir, str(trap)), {0: Hostile(os.mkdir, str(trap))}):
        path.write_bytes(pickle.dumps(evil))
        with pytest.raises(CheckpointError, match=r"evil\.pkl: refused: .*mkdir.*svc train-index"):
            open_legacy(path)
    assert not trap.exists()


@pytest.mark.parametrize(
    "function", [faiss.read_index, faiss.IndexHNSWFlat, faiss.IndexIVFPQ, eval, np.load]
)
def test_other_names_are_refused(tmp_path: Path, function: Callable[..., Any]) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({0: Hostile(function, "1")}))
    with pytest.raises(CheckpointError, match="refused"):
        open_legacy(path)


def as_index(state: Any) -> bytes:
    """{0: an index with this state}, which Python's own pickle would not write."""
    body = pickle.dumps(state, protocol=2)[2:-1]
    return b"\x80\x04}K\x00cfaiss\nIndexIVFFlat\n)\x81" + body + b"bs."


@pytest.mark.parametrize(
    "state",
    [
        {"this": b"IwFl" + bytes(5000)},
        {"this": b"IwFl\x18\x00\x00\x00" + b"\xff" * 200},
        {"this": state_of(100)[:-1]},
        {"this": b""},
        {"this": "text"},
        {"this": state_of(9), "more": 1},
        {"that": state_of(9)},
        [state_of(9)],
        None,
    ],
    ids=["zeros", "ones", "short", "empty", "text", "more", "other key", "list", "none"],
)
def test_states_that_are_no_index(tmp_path: Path, state: Any) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(as_index(state))
    with pytest.raises(CheckpointError, match=r"evil\.pkl") as caught:
        open_legacy(path)
    assert "\n" not in str(caught.value)


def test_the_same_with_a_good_state(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(as_index({"this": state_of(9)}))
    np.testing.assert_array_equal(read(open_legacy(tmp_path / "x.pkl")[0]), vectors(9))


@pytest.mark.parametrize("content", [{}, [1], 5, "text", {0: 1}, {"alice": 1}, {0: [1.0]}, b"x"])
def test_pickles_of_something_else(tmp_path: Path, content: Any) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match="is it the right file"):
        open_legacy(tmp_path / "x.pkl")


def test_keys_are_speaker_ids(tmp_path: Path) -> None:
    for key in ("alice", 1.0, None, True):
        index = build_index(vectors(9), seed=1)
        (tmp_path / "x.pkl").write_bytes(pickle.dumps({0: index, key: index}))
        with pytest.raises(CheckpointError, match="is it the right file"):
            open_legacy(tmp_path / "x.pkl")


def test_no_pickle_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    with pytest.raises(MissingFileError, match=r"x\.pkl is not there"):
        open_legacy(path)
    for content in (b"", b"\x80", b"PK\x03\x04" + bytes(99), b"no pickle\n" * 9, bytes(9999)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"x\.pkl"):
            open_legacy(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_legacy(tmp_path)


def test_truncated_and_garbled(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "x.pkl"
    whole = pickle.dumps({0: build_index(vectors(60), seed=1), 1: build_index(vectors(9), seed=1)})
    for size in range(0, len(whole) - 1, 13):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            open_legacy(path)
    read_well = 0
    for _ in range(600):
        broken = bytearray(whole)
        for place in rng.integers(0, rng.choice([250, len(whole)]), size=2):
            broken[place] = rng.integers(256)
        path.write_bytes(broken)
        try:
            stored = open_legacy(path)
        except CheckpointError:
            continue
        read_well += 1
        for entry in stored.values():
            entry.read().search(vectors(3), 2)
    assert 10 < read_well < 500
