"""Files of k-means centres and the nearest centre: parity with the original, and what is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from svc.checkpoint import save_checkpoint
from svc.errors import CheckpointError, ConfigError, MissingFileError, OutputError
from svc.retrieval import kmeans_files
from svc.retrieval.distances import nearest
from svc.retrieval.kmeans import ClusterModel, load_clusters
from svc.retrieval.kmeans_files import (
    ClusterFacts,
    SpeakerFacts,
    read_centres,
    read_facts,
    save_clusters,
    side_car_path,
)


def facts(encoder: str | None = "vec256l9", **changes: Any) -> ClusterFacts:
    speakers = {"alice": SpeakerFacts(k=3, rows=40, inertia=1.5, spread=9.0)}
    return ClusterFacts(
        **{"encoder": encoder, "dim": 4, "seed": 7, "method": "minibatch", "speakers": speakers, **changes}
    )  # fmt: skip


@pytest.fixture
def centres(rng: np.random.Generator) -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(rng.standard_normal((k, 4)).astype(np.float32))
        for name, k in (("alice", 3), ("bøb & 歌", 5))
    }


@pytest.fixture
def saved(tmp_path: Path, centres: dict[str, Tensor]) -> Path:
    path = tmp_path / "kmeans_3.pt"
    save_clusters(path, centres, facts())
    return path


def write(path: Path, **entries: Any) -> Path:
    """A file as the original has it, with these centres."""
    save_checkpoint(
        {
            name: {"n_features_in_": 4, "_n_threads": 4, "cluster_centers_": value}
            for name, value in entries.items()
        },
        path,
    )
    return path


# ---------------------------------------------------------------------------------------------- parity


def test_matches_are_the_originals(golden: Path) -> None:
    """In float64, where no rounding can decide between two centres; the original computed in float32."""
    stored = np.load(golden / "golden_retrieval.npz")
    model = load_clusters(golden / "golden_kmeans_50.pt", dim=24, device="cpu", encoder="vec768l12")
    queries = torch.from_numpy(stored["query"]).double()
    labels = model.labels(queries, "spk")
    np.testing.assert_array_equal(labels.numpy(), stored["kmeans_label"])
    np.testing.assert_array_equal(
        model.match(queries, "spk", 0).float().numpy(), stored["kmeans_center"]
    )
    single = model.match(queries.float(), "spk", 0)
    assert single.dtype == torch.float32
    np.testing.assert_array_equal(single.numpy(), stored["kmeans_center"])


def test_the_original_reads_what_is_written(saved: Path, centres: dict[str, Tensor]) -> None:
    """Its loader is torch's with pickle's full powers; of each speaker it takes three things."""
    loaded = torch.load(saved, weights_only=False)
    assert list(loaded) == list(centres)
    for name, entry in loaded.items():
        assert list(entry) == ["n_features_in_", "_n_threads", "cluster_centers_"]
        assert (entry["n_features_in_"], entry["_n_threads"]) == (4, 4)
        assert type(entry["cluster_centers_"]) is np.ndarray
        assert entry["cluster_centers_"].dtype == np.float32
        np.testing.assert_array_equal(entry["cluster_centers_"], centres[name].numpy())


def test_what_is_written_is_read(saved: Path, centres: dict[str, Tensor]) -> None:
    loaded = read_centres(saved)
    assert list(loaded) == list(centres)
    assert all(torch.equal(loaded[name], centres[name]) for name in centres)
    read = read_facts(saved)
    assert read is not None
    assert (read.encoder, read.dim, read.seed, read.method) == ("vec256l9", 4, 7, "minibatch")
    assert read.speakers == facts().speakers
    plain = json.loads(side_car_path(saved).read_text())
    assert plain["speakers"]["alice"] == {"k": 3, "rows": 40, "inertia": 1.5, "spread": 9.0}
    assert len(plain["sha256"]) == 64


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ">f4"])
def test_other_float_types_are_read(tmp_path: Path, dtype: Any) -> None:
    values = np.arange(8).reshape(2, 4).astype(dtype)
    for value in (values, np.asfortranarray(values)):
        loaded = read_centres(write(tmp_path / "x.pt", a=value))["a"]
        assert loaded.dtype == torch.float32
        assert loaded.tolist() == values.tolist()
    assert read_centres(write(tmp_path / "x.pt", a=torch.ones(2, 4)))["a"].shape == (2, 4)


# --------------------------------------------------------------------------------------------- nearest


def test_of_equal_distances_the_first_counts() -> None:
    """Whole numbers, which float32 computes exactly."""
    centres = torch.tensor([[4.0, 0.0], [0.0, 2.0], [0.0, -2.0], [0.0, 2.0], [2.0, 0.0]])
    labels, distances = nearest(torch.tensor([[0.0, 0.0], [0.0, 3.0], [3.0, 0.0]]), centres)
    assert labels.tolist() == [1, 1, 0]
    assert distances.tolist() == [4.0, 1.0, 1.0]


def test_distances_do_not_depend_on_the_pieces(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.from_numpy(rng.standard_normal((103, 6)))
    centres = torch.from_numpy(rng.standard_normal((17, 6)))
    exact = ((rows[:, None] - centres[None]) ** 2).sum(-1).min(1)
    for pieces in (1, 40, 1 << 20):
        monkeypatch.setattr("svc.retrieval.distances._AT_A_TIME", pieces)
        labels, distances = nearest(rows, centres)
        assert torch.equal(labels, exact.indices)
        torch.testing.assert_close(distances, exact.values, atol=1e-12, rtol=0)
    labels, distances = nearest(rows[:0], centres)
    assert labels.shape == distances.shape == (0,)


def test_distances_are_never_negative() -> None:
    rows = torch.full((50, 64), 1e3) + 1e-3 * torch.arange(64)
    assert float(nearest(rows, rows[:3])[1].min()) >= 0


def test_memory_does_not_grow_with_the_frames(
    centres: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svc.retrieval.distances._AT_A_TIME", 64)
    seen: list[int] = []
    multiply = torch.addmm
    monkeypatch.setattr(
        torch, "addmm", lambda *a, **k: seen.append((out := multiply(*a, **k)).numel()) or out
    )
    ClusterModel(centres, where="x").match(torch.zeros(1000, 4), "alice", 0)
    assert max(seen) <= 64


# -------------------------------------------------------------------------------------------- the model


def test_a_match_is_the_nearest_centre(centres: dict[str, Tensor]) -> None:
    model = ClusterModel(centres, where="x.pt")
    assert (model.dim, model.speakers) == (4, {"alice", "bøb & 歌"})
    for name, own in centres.items():
        near = own + 1e-3
        assert torch.equal(model.match(near, name, 0), own)
        assert torch.equal(model.match(near.double(), name, 9), own.double())
    assert model.match(torch.zeros(0, 4), "alice", 0).shape == (0, 4)
    strided = torch.zeros(4, 7).T
    assert model.match(strided, "alice", 0).shape == (7, 4)


def test_an_unknown_speaker_is_named_with_the_known_ones(centres: dict[str, Tensor]) -> None:
    model = ClusterModel(centres, where="x.pt")
    for name in ("Alice", "0", ""):
        words = f'x.pt has no centres of the speaker "{name}"; it has those of alice, bøb'
        with pytest.raises(ConfigError, match=words):
            model.match(torch.zeros(1, 4), name, 0)
    many = ClusterModel(dict.fromkeys(map(str, range(30)), torch.zeros(1, 4)), where="x.pt")
    with pytest.raises(ConfigError, match=r"those of 0, 1, 10, .* and 22 more$"):
        many.match(torch.zeros(1, 4), "x", 0)


def test_units_of_another_width_are_refused(saved: Path, centres: dict[str, Tensor]) -> None:
    with pytest.raises(ConfigError, match=r"centres of 4 values and the voice's encoder gives 5"):
        ClusterModel(centres, where="x").match(torch.zeros(2, 5), "alice", 0)
    with pytest.raises(ConfigError, match=r"of 4 values .* gives 768: they were made with another"):
        load_clusters(saved, dim=768, device="cpu", encoder=None)


def test_another_encoder_of_the_same_width_is_refused(saved: Path) -> None:
    assert load_clusters(saved, dim=4, device="cpu", encoder="vec256l9").dim == 4
    assert load_clusters(saved, dim=4, device="cpu", encoder=None).dim == 4
    words = 'with the encoder "vec256l9" and the voice listens with "hubertsoft"'
    with pytest.raises(ConfigError, match=words) as caught:
        load_clusters(saved, dim=4, device="cpu", encoder="hubertsoft")
    assert "\n" not in str(caught.value)
    side_car_path(saved).unlink()
    assert load_clusters(saved, dim=4, device="cpu", encoder="hubertsoft").dim == 4


def test_a_side_car_of_another_file_is_not_believed(
    saved: Path, centres: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    write(saved, alice=centres["alice"].numpy())
    with caplog.at_level(logging.WARNING):
        assert load_clusters(saved, dim=4, device="cpu", encoder="hubertsoft").dim == 4
    assert "kmeans_3.json belongs to another file than kmeans_3.pt" in caplog.text


def test_an_unknown_encoder_is_not_compared(tmp_path: Path, centres: dict[str, Tensor]) -> None:
    save_clusters(tmp_path / "x.pt", centres, facts(None))
    assert load_clusters(tmp_path / "x.pt", dim=4, device="cpu", encoder="any").dim == 4


# --------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "{}", '{"format": 2}', '{"format": 1, "dim": 4}', "\x00", "[" * 100_000,
        '{"format": 1, "dim": "4", "seed": 0, "method": "full", "sha256": "", "speakers": {}}',
        '{"format": 1, "dim": 4, "seed": 0, "method": "full", "sha256": "", "speakers": {"a": {"b": 1}}}',
        '{"format": 1, "dim": 4, "seed": 0, "method": "full", "sha256": "", "speakers": {"a": 1}}',
        '{"format": 1, "dim": 4, "seed": 0, "method": "full", "sha256": "", "speakers": {}, "encoder": 1}',
    ],
    ids=lambda text: repr(text[:40]),
)  # fmt: skip
def test_a_damaged_side_car_is_one_line(saved: Path, text: str) -> None:
    side_car_path(saved).write_text(text)
    words = r"kmeans_3\.json says nothing of use .* delete it or make it again"
    with pytest.raises(ConfigError, match=words):
        load_clusters(saved, dim=4, device="cpu", encoder=None)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.zeros((3, 4), np.int32), "no array of float numbers"),
        ([[1.0, 2.0]], "no array of float numbers"),
        (np.zeros(4, np.float32), r"the shape is \(4,\)"),
        (np.zeros((2, 3, 4), np.float32), r"the shape is \(2, 3, 4\)"),
        (np.zeros((0, 4), np.float32), r"the shape is \(0, 4\)"),
        (np.full((3, 4), np.nan, np.float32), "not finite"),
        (np.full((3, 4), 1e300), "not finite"),
    ],
)
def test_centres_that_are_of_no_use(tmp_path: Path, value: Any, reason: str) -> None:
    path = write(tmp_path / "x.pt", a=np.ones((2, 4), np.float32), b=value)
    with pytest.raises(CheckpointError, match=f'x.pt: the centres of the speaker "b" .*{reason}'):
        read_centres(path)


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    for content, words in (
        ({"model": {"w": torch.ones(1)}, "iteration": 3}, "a checkpoint of a voice"),
        ({}, "something else"),
        ({"a": {"b": 1}}, "something else"),
    ):
        save_checkpoint(content, path)
        with pytest.raises(CheckpointError, match=f"holds no k-means centres but {words}"):
            read_centres(path)
    good = {"cluster_centers_": np.ones((1, 4), np.float32)}
    for entry in ({1: good}, {"a": good, "b": 3}, {"a": good, "b": {}}):
        save_checkpoint(entry, path)
        with pytest.raises(CheckpointError, match="are of no use"):
            read_centres(path)
    write(path, a=np.ones((1, 4), np.float32), b=np.ones((1, 5), np.float32))
    with pytest.raises(CheckpointError, match=r"centres of several widths \(4, 5\)"):
        read_centres(path)


def test_cut_and_missing_files(saved: Path) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"kmeans_3\.pt: not a readable checkpoint"):
        read_centres(saved)
    saved.unlink()
    with pytest.raises(MissingFileError, match=r"kmeans_3\.pt is not there"):
        read_centres(saved)


def test_a_failed_save_leaves_the_old_file_and_no_side_car_of_another(
    saved: Path, centres: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def full(*_: Any) -> None:
        raise OutputError("cannot write: the disk is full")

    monkeypatch.setattr(kmeans_files, "save_checkpoint", full)
    with pytest.raises(OutputError, match="disk is full"):
        save_clusters(saved, {"x": torch.zeros(1, 4)}, facts())
    assert saved.read_bytes() == before
    assert not side_car_path(saved).exists()
    assert [path.name for path in saved.parent.iterdir()] == ["kmeans_3.pt"]
    assert set(read_centres(saved)) == set(centres)
