"""The table of weight files, the messages made from it, and whether a file is as published."""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from svc.config import SPEECH_ENCODER_DIMS
from svc.errors import MissingFileError
from svc.pretrained import (
    PRETRAINED,
    WHISPER_TINY_ASSET,
    PretrainedFile,
    Published,
    describe_missing,
    file_of,
    files,
    find_pretrained,
    size_text,
    torchfcpe_asset,
    verify,
    whisper_tiny_asset,
)


def test_every_encoder_has_one_file_in_the_table() -> None:
    for name in SPEECH_ENCODER_DIMS:
        assert [file.name for file in PRETRAINED.values() if name in file.ids] == [
            file_of(name).name
        ]
    named = {name for file in PRETRAINED.values() for name in file.ids}
    assert named == {*SPEECH_ENCODER_DIMS, "fcpe", "rmvpe", "nsf-hifigan"}
    with pytest.raises(KeyError):
        file_of("vec1024l24")


@pytest.mark.parametrize("name", sorted(PRETRAINED))
def test_messages(tmp_path: Path, name: str) -> None:
    file = PRETRAINED[name]
    with pytest.raises(MissingFileError) as caught:
        find_pretrained(name, tmp_path / "my files")
    text = str(caught.value)
    assert text == describe_missing(name, tmp_path / "my files")
    for words in (
        str(tmp_path / "my files" / name),
        file.what,
        file.size_text,
        file.source,
        *file.ids,
        file.instead,
    ):
        assert words in text
    assert "\n" not in text
    assert "://" not in text + file.source
    assert file.licence


@pytest.mark.parametrize("file", [*PRETRAINED.values(), WHISPER_TINY_ASSET], ids=lambda f: f.name)
def test_published_figures_are_figures(file: PretrainedFile) -> None:
    assert file.published
    for form in file.published:
        assert re.fullmatch("[0-9a-f]{64}", form.sha256)
        assert form.size > 1_000_000
        assert form.note or len(file.published) == 1
    assert len({form.sha256 for form in file.published}) == len(file.published)


def test_no_checksum_stands_twice() -> None:
    sums = [form.sha256 for file in PRETRAINED.values() for form in file.published]
    assert len(set(sums)) == len(sums)


def test_sizes_for_people() -> None:
    assert PRETRAINED["tiny.pt"].size_text == "76 MB"
    assert PRETRAINED["large-v2.pt"].size_text == "3.1 GB"
    assert PRETRAINED["checkpoint_best_legacy_500.pt"].size_text == "1.3 GB"
    assert replace(PRETRAINED["tiny.pt"], published=()).size_text == ""
    assert [size_text(size) for size in (999_400_000, 1_000_000_000)] == ["999 MB", "1.0 GB"]


def test_finding(tmp_path: Path) -> None:
    path = tmp_path / "medium.pt"
    path.mkdir()  # a folder of that name is no file
    with pytest.raises(MissingFileError):
        find_pretrained("medium.pt", tmp_path)
    path.rmdir()
    path.write_bytes(b"x")
    assert find_pretrained("medium.pt", str(tmp_path)) == path
    with pytest.raises(ValueError, match="not in the table"):
        find_pretrained("unheard_of.pt", tmp_path)


def known_file(*contents: bytes, name: str = "medium.pt") -> PretrainedFile:
    """A table entry whose published forms are these bytes."""
    forms = (Published(len(c), hashlib.sha256(c).hexdigest(), f"form {c[:1]!r}") for c in contents)
    return replace(PRETRAINED["medium.pt"], name=name, published=tuple(forms))


def test_a_file_as_published_in_any_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_BLOCK", 1000)  # so that several are hashed
    long, short = b"a" * 5000, b"b" * 2500
    path = tmp_path / "any name.pt"
    for content in (long, short):
        path.write_bytes(content)
        assert verify(path, known_file(long, short)) is None


def test_a_file_that_differs_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = known_file(b"a" * 5000, b"b" * 2500)
    path = tmp_path / "medium.pt"
    path.write_bytes(b"c" * 5000)
    found = hashlib.sha256(b"c" * 5000).hexdigest()
    assert verify(path, file) == (
        f"its SHA-256 is {found}, which is not that of medium.pt as published"
    )
    path.write_bytes(b"a" * 4999)  # a broken download is told by its length, and never hashed
    monkeypatch.setattr(files, "_sha256", lambda path: pytest.fail("hashed"))
    assert verify(path, file) == (
        "it has 4,999 bytes, medium.pt was published with 5,000 bytes (form b'a') or"
        " 2,500 bytes (form b'b')"
    )
    with pytest.raises(MissingFileError, match=r"gone\.pt is not there"):
        verify(tmp_path / "gone.pt", file)
    with pytest.raises(ValueError, match="nothing is published"):
        verify(path, replace(file, published=()))


def test_digits_in_a_name_are_the_beginning_of_its_checksum(tmp_path: Path) -> None:
    content = b"another release"
    digits = hashlib.sha256(content).hexdigest()[:8]
    path = tmp_path / f"hubert-soft-{digits}.pt"
    path.write_bytes(content)
    file = known_file(b"the usual release")
    assert verify(path, file) is None
    path.write_bytes(content + b"!")
    assert "SHA-256" in str(verify(path, file))


def test_the_bundled_encoder_is_as_recorded() -> None:
    path = whisper_tiny_asset()
    assert path.name == WHISPER_TINY_ASSET.name
    assert verify(path, WHISPER_TINY_ASSET) is None


def test_torchfcpe_is_located_and_not_imported() -> None:
    path = torchfcpe_asset()
    assert path is not None
    assert path.name == "fcpe_c_v001.pt"
    assert "torchfcpe" not in sys.modules


def test_torchfcpe_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert torchfcpe_asset() is None
