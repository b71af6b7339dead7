"""Which retriever a file holds is told by its content, whatever it is called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.errors import CheckpointError, ConfigError, MissingFileError
from svc.retrieval import UnitRetriever, load_retriever
from svc.retrieval.base import is_cluster_file
from svc.retrieval.kmeans import ClusterModel


def load(path: Path, **changes: Any) -> UnitRetriever:
    return load_retriever(path, **{"dim": 4, "device": "cpu", "encoder": None, **changes})


@pytest.mark.parametrize("name", ["kmeans_10000.pt", "feature_and_index.pkl", "x"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_clusters_of_any_name_and_container(
    tmp_path: Path, name: str, zipped: bool, protocol: int
) -> None:
    path = tmp_path / name
    content = {"alice": {"cluster_centers_": np.eye(4, dtype=np.float32)}}
    torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    assert is_cluster_file(path)
    retriever = load(path)
    assert isinstance(retriever, ClusterModel)
    assert retriever.speakers == {"alice"}
    assert retriever.match(torch.tensor([[0.1, 0.9, 0, 0]]), "alice", 0).tolist() == [[0, 1, 0, 0]]


def test_the_original_files(golden: Path) -> None:
    assert is_cluster_file(golden / "golden_kmeans_50.pt")
    assert not is_cluster_file(golden / "golden_feature_and_index.pkl")
    assert isinstance(load(golden / "golden_kmeans_50.pt", dim=24), ClusterModel)
    index = load(golden / "golden_feature_and_index.pkl", dim=24)
    assert not isinstance(index, ClusterModel)
    assert index.dim == 24


@pytest.mark.parametrize("start", [b"", b"IxFI", b"\x80\x04\x95", b"{}", b"\x93NUMPY"])
def test_all_else_goes_to_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    import svc.retrieval.index

    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        svc.retrieval.index, "load_index", lambda path, **options: seen.update(options, path=path)
    )
    path = tmp_path / "kmeans_10000.pt"
    path.write_bytes(start + bytes(40))
    for place in (path, tmp_path):
        load(place, encoder="e", k=5, nprobe=3)
        wanted = {"path": place, "dim": 4, "device": "cpu", "encoder": "e", "k": 5, "nprobe": 3}
        assert seen == wanted


def test_what_does_not_fit_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        MissingFileError, match=r"k\.pt is not there; make it with  svc train-cluster"
    ):
        load(tmp_path / "k.pt")
    torch.save({"model": {"w": torch.ones(2)}}, tmp_path / "G_0.pth")
    with pytest.raises(
        CheckpointError, match="holds no k-means centres but a checkpoint of a voice"
    ):
        load(tmp_path / "G_0.pth")
    torch.save({"a": {"cluster_centers_": np.ones((2, 4), np.float32)}}, tmp_path / "k.pt")
    with pytest.raises(ConfigError, match="gives 256"):
        load(tmp_path / "k.pt", dim=256)


def test_the_room_imports_no_torch_and_no_faiss() -> None:
    code = "import sys, svc.retrieval; assert not {'torch', 'faiss', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
