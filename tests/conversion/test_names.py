from __future__ import annotations

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
