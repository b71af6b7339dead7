"""A result in its place: nothing there tells of another one, and no file of others is touched."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from svc.conversion.manifest import manifest_path
from svc.conversion.placing import drop_manifest, outdated_stems, place, stage_beside
from svc.errors import OutputError


def test_a_result_and_the_manifest_of_another(tmp_path: Path) -> None:
    result = tmp_path / "new" / "a.wav"
    staged = tmp_path / "staged.wav"
    staged.write_text("1")
    place(staged, result)
    manifest_path(result).write_text('{"svc_manifest": 1}')
    staged.write_text("2")
    place(staged, result)
    assert result.read_text() == "2"
    assert [path.name for path in result.parent.iterdir()] == ["a.wav"]


def test_what_cannot_be_placed_leaves_all_as_it_was(tmp_path: Path) -> None:
    result, staged = tmp_path / "a.wav", tmp_path / "staged.wav"
    staged.touch()
    result.mkdir()
    manifest_path(result).write_text('{"svc_manifest": 1}')
    with pytest.raises(OutputError, match="a folder of that name is in the way"):
        place(staged, result)
    assert manifest_path(result).is_file()


@pytest.mark.parametrize("text", ["", "[]", '{"mine": 1}', "not json", "[" * 100_000, "3"])
def test_files_of_others_stay(tmp_path: Path, text: str) -> None:
    path = manifest_path(tmp_path / "a.wav")
    path.write_text(text)
    drop_manifest(tmp_path / "a.wav")
    assert path.read_text() == text
    assert outdated_stems(tmp_path / "a.wav", tmp_path) == []


def test_a_stage_goes(tmp_path: Path) -> None:
    with stage_beside(tmp_path) as stage:
        assert not stage.exists()
        stage.mkdir()
        (stage / "a").touch()
    assert not list(tmp_path.iterdir())


def test_stems_of_an_earlier_cover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    mix, folder = tmp_path / "song.wav", tmp_path / "stems"
    folder.mkdir()
    outputs = [
        "~/stems/lead.wav",
        str(folder / "back.wav"),
        "~/stems/edited.wav",
        None,
        "~/other.wav",
    ]
    for name in ("stems/lead.wav", "stems/back.wav", "stems/mine.wav", "other.wav"):
        (tmp_path / name).touch()
    told = {"svc_manifest": 1, "cover": {"stems": [{"output": output} for output in outputs]}}
    manifest_path(mix).write_text(json.dumps(told))
    (folder / "edited.wav").touch()
    later = manifest_path(mix).stat().st_mtime_ns + 10**9
    os.utime(folder / "edited.wav", ns=(later, later))
    assert outdated_stems(mix, folder) == [folder / "lead.wav", folder / "back.wav"]
