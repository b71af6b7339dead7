"""Speakers, ids, the split and the lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from svc.dataset.filelist import (
    assign_ids,
    read_filelist,
    scan_speakers,
    split,
    unlistable,
    write_filelist,
)
from svc.errors import DatasetError, MissingFileError

ODD_NAMES = ["keys", "初音ミク", "🎤 band", "a|b", 'it\'s "quoted"', "x.wav", " lead", "-dash"]


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_speakers_are_folders_with_recordings_sorted(tmp_path: Path) -> None:
    for name in ("b/2.wav", "b/1.WAV", "a/x.wav", "a/.hidden.wav", "a/x.wav.soft.pt", "a/xwav"):
        touch(tmp_path / name)
    touch(tmp_path / "loose.wav")
    touch(tmp_path / ".git/y.wav")
    (tmp_path / "empty").mkdir()
    (tmp_path / "a" / "folder.wav").mkdir()
    found = scan_speakers(tmp_path)
    assert {name: [file.name for file in files] for name, files in found.items()} == {
        "a": ["x.wav"],
        "b": ["1.WAV", "2.wav"],
    }
    assert list(found) == ["a", "b"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_folder_name_is_a_speaker(tmp_path: Path, name: str) -> None:
    touch(tmp_path / name / "1.wav")
    assert list(scan_speakers(tmp_path)) == [name]


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not there"):
        scan_speakers(tmp_path / "none")
    with pytest.raises(DatasetError, match="is empty"):
        scan_speakers(tmp_path)
    touch(tmp_path / "song.wav")
    with pytest.raises(DatasetError, match="sub-folder named after the voice"):
        scan_speakers(tmp_path)
    with pytest.raises(DatasetError, match="is a file"):
        scan_speakers(tmp_path / "song.wav")
    (tmp_path / "song.wav").unlink()
    touch(tmp_path / "alice/notes.txt")
    with pytest.raises(DatasetError, match="no wav recordings in the 1 sub-folders"):
        scan_speakers(tmp_path)


def test_ids_are_sorted_and_kept() -> None:
    assert assign_ids(["c", "a", "b"]) == {"a": 0, "b": 1, "c": 2}
    assert assign_ids(["a", "b", "c"], {"c": 0, "a": 1}) == {"a": 1, "b": 2, "c": 0}
    # A speaker that is gone frees its number; nobody else moves.
    assert assign_ids(["b", "z"], {"a": 0, "b": 1}) == {"b": 1, "z": 0}
    # A config of other speakers says nothing about these.
    assert assign_ids(["x", "y"], {"a": 5, "b": 1}) == {"x": 0, "y": 1}


def clips(speaker: str, count: int) -> list[Path]:
    return [Path("d") / speaker / f"{index:03d}.wav" for index in range(count)]


@pytest.mark.parametrize(("count", "n_train"), [(1, 1), (2, 1), (3, 1), (4, 2), (10, 8)])
def test_two_clips_are_held_out_but_never_the_last_one(count: int, n_train: int) -> None:
    made = split({"a": clips("a", count)}, seed=1)
    assert len(made.train) == n_train
    assert sorted(made.train + made.validation) == clips("a", count)


def test_the_split_is_seeded_and_stable() -> None:
    speakers = {"a": clips("a", 9), "b": clips("b", 9)}
    first = split(speakers, seed=1)
    assert first == split(speakers, seed=1)
    assert first != split(speakers, seed=2)
    assert {file.parent.name for file in first.validation} == {"a", "b"}
    assert first.train != sorted(first.train)  # mixed over speakers
    # One more speaker moves nothing; one more recording moves at most the clip that it replaces.
    more = split({**speakers, "c": clips("c", 5)}, seed=1)
    assert set(first.validation) <= set(more.validation)
    longer = split({"a": clips("a", 10), "b": clips("b", 9)}, seed=1)
    assert len(set(first.validation) - set(longer.validation)) <= 1


def test_the_shuffle_reaches_every_clip() -> None:
    held = {
        file for seed in range(60) for file in split({"a": clips("a", 6)}, seed=seed).validation
    }
    assert held == set(clips("a", 6))


def test_lists_round_trip_with_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = [Path("data") / name / f" 歌 {name}.wav" for name in ODD_NAMES]
    for file in files:
        touch(file)
    listing = tmp_path / "lists/train.txt"
    write_filelist(listing, files)
    assert read_filelist(listing) == files
    assert listing.read_bytes().decode("utf-8").count("\n") == len(files)


def test_lists_of_other_programs_are_read(tmp_path: Path) -> None:
    listing = tmp_path / "train.txt"
    listing.write_bytes("\ufeffd/a/1.wav|0|text\r\n\r\n  d/a/2.wav  \nd/初/3.wav".encode())
    assert read_filelist(listing) == [Path("d/a/1.wav"), Path("d/a/2.wav"), Path("d/初/3.wav")]


def test_line_separators_of_unicode_do_not_end_a_line(tmp_path: Path) -> None:
    file = touch(tmp_path / "a\u2028b\x0bc\x85.wav")
    write_filelist(tmp_path / "l.txt", [file])
    assert read_filelist(tmp_path / "l.txt") == [file]


def test_bad_lists_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="svc preprocess --stage config"):
        read_filelist(tmp_path / "none.txt")
    (tmp_path / "gbk.txt").write_bytes("d/歌/1.wav\n".encode("gbk"))
    with pytest.raises(DatasetError, match="UTF-8"):
        read_filelist(tmp_path / "gbk.txt")
    (tmp_path / "empty.txt").write_text("\n")
    assert read_filelist(tmp_path / "empty.txt") == []


def test_names_that_cannot_stand_in_a_list_are_refused(tmp_path: Path) -> None:
    assert unlistable(Path("a/b|c 歌.wav")) is None
    for name, reason in (("a\nb.wav", "line break"), ("a\udcffb.wav", "UTF-8")):
        assert reason in str(unlistable(Path(name)))
        with pytest.raises(DatasetError, match=reason):
            write_filelist(tmp_path / "l.txt", [Path(name)])
    assert not (tmp_path / "l.txt").exists()
