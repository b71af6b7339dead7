"""Hashes that tell the weights of encoders apart."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from svc.dataset.fingerprint import file_hash, weights_hash
from svc.errors import MissingFileError


def blake(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder."""
    path = tmp_path / "model"
    path.mkdir()
    for name, content in (
        ("model.safetensors", b"w" * 3_000_000),
        ("config.json", b"{}"),
        ("README.md", b"card"),
    ):
        (path / name).write_bytes(content)
    return path


def test_the_hash_of_one_file_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"x" * 3_000_000)
    (tmp_path / "b.pt").write_bytes(b"y")
    assert file_hash(tmp_path / "a.pt") == blake(b"x" * 3_000_000)
    assert weights_hash({"vec768l12": tmp_path / "a.pt"}) == blake(b"x" * 3_000_000)
    fused = weights_hash({"dphubert": tmp_path / "b.pt", "vec768l12": tmp_path / "a.pt"})
    assert fused == f"{blake(b'y')}+{blake(b'x' * 3_000_000)}"


def test_the_hash_of_a_folder_covers_weights_and_settings(folder: Path) -> None:
    hashes = [weights_hash({"vec768l12": folder})]
    (folder / "README.md").write_text("another card")
    (folder / "tokenizer.json").write_text("{}")
    assert weights_hash({"vec768l12": folder}) == hashes[0]
    (folder / "config.json").write_text('{"a": 1}')
    hashes.append(weights_hash({"vec768l12": folder}))
    (folder / "preprocessor_config.json").write_text('{"do_normalize": true}')
    hashes.append(weights_hash({"vec768l12": folder}))
    # The file alone is read with the same settings.
    assert weights_hash({"vec768l12": folder / "model.safetensors"}) == hashes[-1]
    (folder / "model.safetensors").write_bytes(b"v" * 3_000_000)
    hashes.append(weights_hash({"vec768l12": folder}))
    assert len(set(hashes)) == 4


def test_a_folder_without_weights_is_missed(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingFileError, match="has no weights"):
        weights_hash({"vec768l12": folder})
