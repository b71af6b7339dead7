"""The table of weight files and the messages made from it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from svc.errors import MissingFileError
from svc.pretrained import PRETRAINED, describe_missing, find_pretrained, torchfcpe_asset
from svc.speech import ENCODER_NAMES
from svc.speech.base import _ENTRIES


def test_every_encoder_has_its_file_in_the_table() -> None:
    assert {entry.file for entry in _ENTRIES.values()} <= set(PRETRAINED)
    for name in ENCODER_NAMES:
        assert name in PRETRAINED[_ENTRIES[name].file].ids


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
        *file.ids,
        file.instead,
    ):
        assert words in text
    assert "\n" not in text
    assert "://" not in text + file.source
    assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
    assert file.licence


def test_sizes_for_people() -> None:
    assert PRETRAINED["tiny.pt"].size_text == "76 MB"
    assert PRETRAINED["large-v2.pt"].size_text == "3.1 GB"
    assert PRETRAINED["checkpoint_best_legacy_500.pt"].size_text == ""


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


def test_torchfcpe_is_located_and_not_imported() -> None:
    path = torchfcpe_asset()
    assert path is not None
    assert path.name == "fcpe_c_v001.pt"
    assert "torchfcpe" not in sys.modules


def test_torchfcpe_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert torchfcpe_asset() is None
