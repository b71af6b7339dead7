from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from svc.audio.io import write_audio
from svc.conversion.names import MAX_NAME_BYTES, find_sources, result_name, wav_format
from svc.conversion.options import InferOptions
from svc.errors import AudioError, ConfigError, MissingFileError


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = Path("raw")
    names = ("song.wav", "live.v2.wav", "tune.flac", "sub/deep.wav", "album/b.wav", "album/a.wav")
    for name in names:
        write_audio(folder / name, np.zeros(100, np.float32), 8000)
    (folder / "album" / "notes.txt").write_text("not audio")
    return folder


@pytest.mark.parametrize(
    ("given", "name", "path"),
    [
        ("song.wav", "song.wav", "raw/song.wav"),
        ("song", "song", "raw/song.wav"),
        ("live.v2", "live.v2", "raw/live.v2.wav"),
        ("tune", "tune", "raw/tune.flac"),
        ("sub/deep.wav", "sub/deep.wav", "raw/sub/deep.wav"),
        ("raw/song.wav", "song.wav", "raw/song.wav"),
        ("raw/sub/deep", "deep.wav", "raw/sub/deep.wav"),
    ],
)
def test_finds_names_under_raw_and_paths(raw: Path, given: str, name: str, path: str) -> None:
    (source,) = find_sources(given)
    assert (source.name, source.path) == (name, Path(path))


def test_absolute_paths_are_named_after_the_file(raw: Path) -> None:
    path = (raw / "song.wav").resolve()
    (source,) = find_sources(str(path))
    assert (source.name, source.path) == ("song.wav", path)


def test_raw_comes_before_the_working_folder(raw: Path) -> None:
    write_audio("song.wav", np.zeros(100, np.float32), 8000)
    write_audio("here.wav", np.zeros(100, np.float32), 8000)
    assert find_sources("song.wav")[0].path == Path("raw/song.wav")
    assert find_sources("here.wav")[0].path == Path("here.wav")


def test_folders_are_expanded(raw: Path) -> None:
    for given in ("album", "raw/album", str((raw / "album").resolve())):
        assert [source.name for source in find_sources(given)] == ["a.wav", "b.wav"]


def test_dots_are_the_folders_they_always_are(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_audio("here.wav", np.zeros(100, np.float32), 8000)
    for given in (".", "./"):
        assert [source.path for source in find_sources(given)] == [Path("here.wav")]
    monkeypatch.chdir(raw)
    write_audio("raw/deep.wav", np.zeros(100, np.float32), 8000)
    assert [source.name for source in find_sources("..")] == ["here.wav"]


def test_a_folder_that_may_not_be_listed(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(path: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    for recursive in (False, True):
        with pytest.raises(AudioError, match="cannot look into the folder raw/album: Permission"):
            find_sources("album", recursive=recursive)
    with pytest.raises(MissingFileError, match="no audio file nothing"):
        find_sources("nothing")  # names like it cannot be listed, either


def test_the_system_says_why_a_file_cannot_be_found(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingFileError, match=r"cannot look for raw/x+\.wav: File name too long"):
        find_sources("x" * 300 + ".wav")
    stat = Path.stat

    def refuse(path: Path, **options: bool) -> os.stat_result:
        if path.is_relative_to("/private"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(MissingFileError, match=r"/private/song\.wav: Permission denied"):
        find_sources("/private/song.wav")


def test_results_among_the_songs_are_no_songs(raw: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, told in {
        "a.wav_0key_eve.flac": '{"svc_manifest": 1}',
        "b.wav_0key_eve.flac": '{"title": "not ours"}',
        "c.wav_0key_eve.flac": "no json",
    }.items():
        write_audio(raw / "album" / name, np.zeros(100, np.float32), 8000)
        (raw / "album" / f"{name}.json").write_text(told)
    folder = raw / "album"
    for recursive in (False, True):
        caplog.clear()
        found = find_sources("album", recursive=recursive, leave_out=folder.resolve())
        names = ["a.wav", "b.wav", "b.wav_0key_eve.flac", "c.wav_0key_eve.flac"]
        assert [source.name for source in found] == names
        assert "holds songs and results: 1 with a manifest left out" in caplog.text
    caplog.clear()
    assert len(find_sources("album", leave_out=Path("results"))) == 5  # sung once more, if wanted
    assert not caplog.text


def test_an_empty_folder_is_an_error(raw: Path) -> None:
    (raw / "nothing").mkdir()
    with pytest.raises(AudioError, match="holds no audio files"):
        find_sources("nothing")


@pytest.mark.parametrize(
    "name",
    ["sonh.wav", pytest.param("x" * 5000, id="long"), "a\0b", "", "nowhere/song.wav"],
)
def test_a_missing_file_is_an_error(raw: Path, name: str) -> None:
    with pytest.raises(MissingFileError):
        find_sources(name)


def test_similar_names_are_shown(raw: Path) -> None:
    with pytest.raises(MissingFileError, match=r"did you mean song\.wav"):
        find_sources("sonh.wav")


def test_result_names_are_the_originals() -> None:
    options = InferOptions(transpose=-12)
    assert result_name("song.wav", "alice", options, "pm", "flac") == (
        "song.wav_-12key_alice_sovits_pm.flac"
    )
    auto = InferOptions(transpose=3, auto_f0=True)
    assert result_name("song", "b", auto, "dio", "wav") == "song_auto_b_sovits_dio.wav"
    assert result_name("song", "b", InferOptions(transpose=0.5), "fcpe", "mp3") == (
        "song_0.5key_b_sovits_fcpe.mp3"
    )


@pytest.mark.parametrize(
    "name", ["my song.wav", "君の知らない物語.wav", "🎤🎶.wav", "a|b\"c'd.wav", "-n.wav", "{}.wav"]
)
def test_other_characters_are_kept(name: str) -> None:
    assert result_name(name, "x", InferOptions(), "pm", "flac") == f"{name}_0key_x_sovits_pm.flac"


def test_separators_never_leave_the_folder() -> None:
    name = result_name("../../etc/a\nb.wav", "c/../d\\e", InferOptions(), "pm", "flac")
    assert Path(name).name == name
    assert "\n" not in name
    assert "\\" not in name


@pytest.mark.parametrize("letter", ["x", "歌", "🎤"])
def test_long_names_are_shortened_and_stay_apart(letter: str, tmp_path: Path) -> None:
    speaker = letter * 150
    first = result_name(letter * 250 + "1.wav", speaker, InferOptions(), "pm", "flac")
    second = result_name(letter * 250 + "2.wav", speaker, InferOptions(), "pm", "flac")
    assert first != second
    for name in (first, second):
        assert len(name.encode()) <= MAX_NAME_BYTES
        assert name.endswith("_sovits_pm.flac")
        write_audio(tmp_path / name, np.zeros(100, np.float32), 8000)


@pytest.mark.parametrize("text", ["flac", "FLAC", ".wav", " ogg "])
def test_formats(text: str) -> None:
    assert wav_format(text) in {"flac", "wav", "ogg"}


def test_unknown_formats_are_refused() -> None:
    with pytest.raises(ConfigError, match="flac, wav, ogg, mp3"):
        wav_format("aac")
