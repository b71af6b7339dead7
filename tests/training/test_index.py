"""From a data set to an index: which rows, checks before work, and what is left when something goes wrong."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.checkpoint import save_tensor
from svc.dataset.features import FeatureCache
from svc.errors import ConfigError, DatasetError, MissingFileError, OutputError, SvcError
from svc.retrieval.index import load_index
from svc.retrieval.index_files import open_folder, read_record
from svc.retrieval.legacy_index import open_legacy
from svc.training import index as index_module
from svc.training.index import IndexOptions, IndexReport, train_index

DIM = 384
FOLDER = Path("logs/44k/feature_index")


@pytest.fixture
def voices(make_voices: Callable[..., Any]) -> Any:
    """Two voices of 84 units each."""
    return make_voices((60, 70, 80))


def build(voices: Any, **options: Any) -> IndexReport:
    own = {"config": voices.config_path, "root_dir": voices.root, "device": "cpu"}
    return train_index(IndexOptions(**own, **options))


def units(voices: Any, speaker: str) -> np.ndarray:
    cache = FeatureCache.from_config(voices.config)
    return np.concatenate([cache.load(path).units.T.numpy() for path in voices.files(speaker)])


def rows_of(folder: Path = FOLDER) -> dict[int, np.ndarray]:
    _, stored = open_folder(folder)
    return {
        number: entry.read().reconstruct_n(0, entry.facts.rows) for number, entry in stored.items()
    }


def in_order(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T)]


def bytes_of(folder: Path = FOLDER) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_unit_of_every_speaker(voices: Any) -> None:
    report = build(voices)
    assert report.folder == FOLDER
    assert report.record == read_record(FOLDER)
    assert (report.record.encoder, report.record.dim) == ("whisper-ppg-tiny", DIM)
    rows = rows_of()
    for speaker_id, name in enumerate(["alice", "bob"]):
        expected = units(voices, name)
        np.testing.assert_array_equal(in_order(rows[speaker_id]), in_order(expected))
        assert not np.array_equal(rows[speaker_id], expected), "they are shuffled"
        entry = report.record.speakers[name]
        assert (entry.id, entry.rows, entry.source_rows) == (
            speaker_id,
            len(expected),
            len(expected),
        )
        assert (entry.reduced, entry.nprobe, entry.seed) == (False, 1, 7)
        assert entry.n_ivf == len(expected) // 39
    assert report.built == ("alice", "bob")
    assert report.n_bytes == sum(len(data) for data in bytes_of().values()) - len(
        bytes_of()["feature_index.json"]
    )


def test_a_voice_sings_with_it(voices: Any) -> None:
    build(voices)
    index = load_index(FOLDER, dim=DIM, encoder="whisper-ppg-tiny")
    own = units(voices, "bob")
    np.testing.assert_array_equal(index.match_numpy(own, "bob", 1), own)


def test_the_same_command_gives_the_same_bytes(voices: Any) -> None:
    build(voices, legacy=True, max_rows=50)
    first = bytes_of(), Path("logs/44k/feature_and_index.pkl").read_bytes()
    shutil.rmtree("logs")
    build(voices, legacy=True, max_rows=50)
    assert (bytes_of(), Path("logs/44k/feature_and_index.pkl").read_bytes()) == first
    build(voices, legacy=True, max_rows=50, seed=8)
    changed = bytes_of()
    assert all(changed[name] != first[0][name] for name in changed)
    assert all(entry.seed == 8 for entry in read_record(FOLDER).speakers.values())


def test_many_rows_become_centres(voices: Any) -> None:
    report = build(voices, max_rows=50, speakers=("alice",))
    entry = report.record.speakers["alice"]
    own = units(voices, "alice")
    assert (entry.rows, entry.source_rows, entry.reduced) == (50, len(own), True)
    rows = rows_of()[0]
    assert rows.shape == (50, DIM)
    assert np.abs(rows.mean(0) - own.mean(0)).max() < 0.5
    # a centre that has several rows is their mean: none of the rows themselves
    among = (rows[:, None] == own).all(-1).any(1)
    assert not among.all()


def test_one_speaker_of_several(voices: Any) -> None:
    build(voices)
    before = bytes_of()
    voices.files("bob")[0].with_name("0.wav.soft.pt").unlink()
    report = build(voices, speakers=("bob",), nprobe=4)
    after = bytes_of()
    assert list(report.record.speakers) == ["alice", "bob"]
    assert report.built == ("bob",)
    assert report.without_features == (voices.root / "bob" / "0.wav",)
    assert after["Index-0.index"] == before["Index-0.index"]
    assert after["Index-1.index"] != before["Index-1.index"]
    nprobes = {name: entry.nprobe for name, entry in report.record.speakers.items()}
    assert nprobes == {"alice": 1, "bob": 4}
    assert {n: e.facts.nprobe for n, e in open_folder(FOLDER)[1].items()} == {0: 1, 1: 4}


def test_alone_or_together_gives_the_same_index(voices: Any) -> None:
    build(voices, speakers=("bob",))
    alone = bytes_of()["Index-1.index"]
    assert sorted(bytes_of()) == ["Index-1.index", "feature_index.json"]
    build(voices)
    assert bytes_of()["Index-1.index"] == alone


def test_a_speaker_who_left_is_gone(voices: Any) -> None:
    build(voices)
    voices.edit(spk={"alice": 0})
    build(voices)
    assert sorted(bytes_of()) == ["Index-0.index", "feature_index.json"]


@pytest.mark.parametrize("spk", [{"alice": 1, "bob": 0}, {"bob": 1}], ids=["swapped", "gone"])
def test_parts_that_do_not_go_together(voices: Any, spk: dict[str, int]) -> None:
    build(voices)
    voices.edit(spk=spk)
    with pytest.raises(ConfigError, match=r"alice of another .*leave --speakers out"):
        build(voices, speakers=("bob",))


def test_the_originals_file(voices: Any) -> None:
    report = build(voices, legacy=True)
    assert report.legacy == Path("logs/44k/feature_and_index.pkl")
    stored = open_legacy(report.legacy)
    assert {n: bytes(e.data) for n, e in stored.items()} == {
        n: bytes_of()[f"Index-{n}.index"] for n in (0, 1)
    }
    again = build(voices)
    assert (again.legacy, again.outdated) == (None, report.legacy)


def test_features_of_the_original(voices: Any) -> None:
    """No side-cars; F0 as a pickled object array; and not even the recordings."""
    expected = units(voices, "alice")
    for wav in voices.files("alice"):
        wav.with_name(wav.name + ".meta.json").unlink()
        path = wav.with_name(wav.name + ".f0.npy")
        pair = np.load(path)
        np.save(path, np.asanyarray((pair[0], pair[1]), dtype=object), allow_pickle=True)
        wav.unlink()
    report = build(voices, speakers=("alice",))
    assert report.without_features == ()
    np.testing.assert_array_equal(in_order(rows_of()[0]), in_order(expected))


def test_hidden_files_are_no_features(voices: Any) -> None:
    source = voices.root / "alice" / "0.wav.soft.pt"
    shutil.copy(source, source.with_name(".tmp-0.wav.soft.pt"))
    report = build(voices, speakers=("alice",))
    assert report.record.speakers["alice"].rows == len(units(voices, "alice"))


# ---------------------------------------------------------------------------------------- mistakes


def no_features(voices: Any) -> None:
    for path in (voices.root / "bob").glob("*.soft.pt"):
        path.unlink()


def wrong_width(voices: Any) -> None:
    path = voices.root / "bob" / "2.wav"
    path.with_name("2.wav.meta.json").unlink()
    save_tensor(torch.zeros(1, 256, 20), path.with_name("2.wav.soft.pt"))


def not_finite(voices: Any) -> None:
    path = voices.root / "bob" / "2.wav.soft.pt"
    save_tensor(torch.full((1, DIM, 20), torch.nan), path)


def damaged(voices: Any) -> None:
    path = voices.root / "bob" / "2.wav.soft.pt"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (no_features, MissingFileError, 'no features of the speaker "bob"; run  svc preprocess'),
        (lambda v: shutil.rmtree(v.root), MissingFileError, "run  svc preprocess"),
        (wrong_width, DatasetError, r"2\.wav\.soft\.pt holds units 256 wide, the config says 384"),
        (not_finite, DatasetError, r"2\.wav\.soft\.pt holds numbers that are not finite"),
        (damaged, DatasetError, r"2\.wav\.soft\.pt: damaged"),
        (lambda v: v.edit(model={"speech_encoder": "hubertsoft", "ssl_dim": 256}), DatasetError,
         'its units were made with "whisper-ppg-tiny"'),
        (lambda v: v.edit(model={"ssl_dim": 256}), ConfigError, "384 wide"),
        (lambda v: v.config_path.unlink(), MissingFileError, "config"),
    ],
    ids=["none", "no folder", "width", "nan", "damaged", "encoder", "config", "no config"],
)  # fmt: skip
def test_mistakes_are_found_before_anything_is_built(
    voices: Any,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Any], Any],
    kind: type[SvcError],
    message: str,
) -> None:
    """Each is the second speaker's, so the first index would have been built."""
    monkeypatch.setattr(index_module, "build_index", lambda *_, **__: pytest.fail("it was built"))
    spoil(voices)
    with pytest.raises(kind, match=message) as caught:
        build(voices)
    assert "\n" not in str(caught.value)
    assert not FOLDER.exists()
    assert not list(Path().glob("logs/44k/*"))
    assert not list(Path().glob("logs/44k/.tmp*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_rows": 0}, "--max_rows is 0"),
        ({"nprobe": 0}, "--nprobe is 0"),
        ({"seed": -1}, "--seed is -1"),
        ({"speakers": ()}, "--speakers names nobody"),
    ],
)
def test_options_check_themselves(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        IndexOptions(**options)


def test_a_speaker_nobody_knows(voices: Any) -> None:
    with pytest.raises(ConfigError, match=r'no speaker "alic"; did you mean "alice"\?'):
        build(voices, speakers=("alic",))
    with pytest.raises(ConfigError, match='no speaker "zoe"; it has alice, bob'):
        build(voices, speakers=("bob", "zoe"))


def test_a_full_disk_is_noticed_first(voices: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(index_module.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1_100_000))
    monkeypatch.setattr(index_module, "build_index", lambda *_, **__: pytest.fail("it was built"))
    with pytest.raises(OutputError, match="the index needs 0 MB and the disk has 1 MB free"):
        build(voices)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(voices: Any) -> None:
    Path("logs/44k").mkdir(parents=True)
    Path("logs/44k").chmod(0o555)
    with pytest.raises(OutputError, match="no permission"):
        build(voices)


def test_a_file_in_the_place_of_the_folder(voices: Any) -> None:
    Path("logs").write_text("")
    with pytest.raises(OutputError, match=r"a file of that name|not a folder"):
        build(voices)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_earlier_index_stays_when_a_build_ends_early(
    voices: Any, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    build(voices)
    before = bytes_of()
    real, calls = index_module.build_index, []

    def second_fails(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(index_module, "build_index", second_fails)
    with pytest.raises(error):
        build(voices, seed=99)
    assert bytes_of() == before
    assert [path.name for path in Path("logs/44k").iterdir()] == ["feature_index"]


def test_a_move_that_is_interrupted_leaves_no_index_rather_than_a_mixed_one(
    voices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(voices)
    real, calls = os.replace, []

    def second_fails(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 4:  # each index is written, then moved
            raise OSError(5, "Input/output error")
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", second_fails)
        with pytest.raises(OutputError):
            build(voices, seed=99)
    with pytest.raises(MissingFileError, match=r"no feature_index\.json"):
        open_folder(FOLDER)
    build(voices, seed=99)
    assert len(rows_of()) == 2


class Recorder(list[tuple[int, int]]):
    def __call__(self, done: int, total: int, what: str) -> None:
        self.append((done, total))


def test_progress_counts_to_its_end(voices: Any) -> None:
    for max_rows in (50, 200_000):
        options = IndexOptions(
            config=voices.config_path, root_dir=voices.root, max_rows=max_rows, device="cpu"
        )
        calls = Recorder()
        train_index(options, calls)
        done = [number for number, _ in calls]
        assert done == sorted(set(done))
        assert {total for _, total in calls} == {done[-1]}


def test_options_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        IndexOptions().seed = 3  # type: ignore[misc]
