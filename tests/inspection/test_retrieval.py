"""k-means centres and retrieval indexes, in every form they have."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest

from svc.config import SvcConfig
from svc.inspection import Report
from svc.retrieval.index_files import IndexRecord, SpeakerRecord, write_index, write_record

U = 384


def test_centres(golden: Path, look: Callable[..., Report]) -> None:
    report = look(golden / "golden_kmeans_50.pt")
    facts = report.finding.facts
    assert report.finding.kind == "k-means centres"
    assert (facts["units"], facts["speakers"], facts["centres"]) == (24, ["spk"], {"spk": 50})
    assert facts["precision"] == "float32"
    assert report.good


def test_the_pickle_of_the_original(golden: Path, look: Callable[..., Report]) -> None:
    report = look(golden / "golden_feature_and_index.pkl")
    facts = report.finding.facts
    assert report.finding.kind == "retrieval index"
    assert (facts["units"], facts["speaker_ids"]) == (24, [0])
    assert facts["indexes"] == {"0": {"vectors": 2400, "lists": 61, "lists_searched": 1}}
    assert (report.safety.safe, report.safety.harmless) == (True, 1)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    folder = tmp_path / "feature_index"
    folder.mkdir()
    rows = np.random.default_rng(0).standard_normal((200, U)).astype(np.float32)
    quantizer = faiss.IndexFlatL2(U)
    made = faiss.IndexIVFFlat(quantizer, U, 5)
    made.train(rows)
    made.add(rows)
    digest = write_index(made, folder / "Index-0.index")
    speaker = SpeakerRecord(
        id=0,
        file="Index-0.index",
        rows=200,
        source_rows=200,
        reduced=False,
        n_ivf=5,
        nprobe=1,
        seed=0,
        sha256=digest,
    )
    record = IndexRecord(
        encoder="whisper-ppg-tiny", dim=U, svc_version="0.1", speakers={"alice": speaker}
    )
    write_record(folder, record)
    return folder


def test_a_native_file(
    index: Path, look: Callable[..., Report], make_config: Callable[..., SvcConfig]
) -> None:
    path = index / "Index-0.index"
    report = look(path, config=make_config())
    assert (report.finding.kind, report.finding.facts["units"]) == ("retrieval index", U)
    assert (report.finding.facts["vectors"], report.finding.facts["lists"]) == (200, 5)
    assert report.match is not None
    assert report.match.fits
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    other = make_config(ssl_dim=768, speech_encoder="vec768l12")
    match = look(path, config=other).match
    assert match is not None
    assert match.differences == ("it holds units 384 wide, model.ssl_dim is 768",)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert look(path).damage is not None
    path.write_bytes(b"IHNf" + whole[4:])
    assert "only IVF,Flat" in str(look(path).damage)


def test_a_folder(
    index: Path, look: Callable[..., Report], make_config: Callable[..., SvcConfig]
) -> None:
    report = look(index)
    assert report.finding.facts["speech_encoder"] == "whisper-ppg-tiny"
    assert report.finding.facts["speakers"] == ["alice"]
    assert report.good
    assert look(index / "feature_index.json").finding.kind == "index side-car"
    (index / "Index-0.index").write_bytes(b"x")
    assert "SHA-256 differs" in str(look(index).damage)


def test_voices_are_compared(
    golden: Path, look: Callable[..., Report], make_config: Callable[..., SvcConfig]
) -> None:
    match = look(golden / "golden_kmeans_50.pt", config=make_config(ssl_dim=24)).match
    assert match is not None
    assert match.differences == ("it knows none of the config's speakers, but spk",)
    match = look(golden / "golden_feature_and_index.pkl", config=make_config(ssl_dim=24)).match
    assert match is not None
    assert match.fits, "it goes by ids"
