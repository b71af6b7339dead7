from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from svc.audio.io import write_audio
from svc.conversion.separators import CommandSeparator, SeparationError, sort_stems
from svc.errors import AudioError, ConfigError, MissingDependencyError, MissingFileError


def audio(path: Path) -> Path:
    write_audio(path, np.zeros(100, dtype=np.float32), 44100)
    return path


def names(paths: object) -> list[str]:
    return [path.name for path in paths]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("files", "lead", "backing", "rest"),
    [
        (["vocals.wav", "no_vocals.wav"], ["vocals.wav"], [], ["no_vocals.wav"]),
        (
            ["bass.wav", "drums.wav", "other.wav", "vocals.wav"],
            ["vocals.wav"],
            [],
            ["bass.wav", "drums.wav", "other.wav"],
        ),
        (
            ["My other vocals_(Vocals).flac", "My other vocals_(Instrumental).flac"],
            ["My other vocals_(Vocals).flac"],
            [],
            ["My other vocals_(Instrumental).flac"],
        ),
        (
            ["Lead_Vocals.wav", "backing_vocals.wav", "Instrumental.wav"],
            ["Lead_Vocals.wav"],
            ["backing_vocals.wav"],
            ["Instrumental.wav"],
        ),
    ],
)
def test_names_in_use(
    files: list[str], lead: list[str], backing: list[str], rest: list[str]
) -> None:
    found = sort_stems([Path("x") / name for name in files], "My other vocals")
    assert (names(found.lead), names(found.backing), names(found.rest)) == (lead, backing, rest)


@pytest.mark.parametrize(
    "song", ["a", "o", "s", "no", "vocals", "bass", "other", "no vocals", "x.y"]
)
@pytest.mark.parametrize(
    "form", ["{stem}", "{song}_({stem})", "{stem} - {song}", "1_{song}-{stem}_ft"]
)
@pytest.mark.parametrize(
    "stems", [("vocals", "no_vocals"), ("Vocals", "Instrumental"), ("vocals", "bass", "other")]
)
def test_songs_called_like_stems(song: str, form: str, stems: tuple[str, ...]) -> None:
    if form.startswith("1_") and "bass" in stems:
        pytest.skip("bass and other are no parts of longer names")
    files = [Path(f"{form.format(song=song, stem=stem)}.wav") for stem in stems]
    found = sort_stems(files, song)
    assert (found.lead, found.rest) == ([files[0]], files[1:])


def test_names_that_say_nothing() -> None:
    files = [Path("a_1.wav"), Path("a_2.wav")]
    with pytest.raises(SeparationError, match=r'"a_1\.wav" singing or not'):
        sort_stems(files, "a")
    found = sort_stems(files, "a", vocals=["*_1"], rest=["*_2"])
    assert (names(found.lead), names(found.rest)) == (["a_1.wav"], ["a_2.wav"])


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ([], "no vocals among what it has written .nothing"),
        (["vocals.wav"], "no accompaniment"),
        (["no_vocals.wav"], "no vocals"),
        (["vocals.wav", "lead.wav", "no_vocals.wav"], "more than one"),
    ],
)
def test_stems_that_are_not_there(files: list[str], text: str) -> None:
    with pytest.raises(SeparationError, match=text):
        sort_stems([Path(name) for name in files], "song")


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("", "empty"),
        ("demucs {input}", r"lacks \{output\}"),
        ("demucs -o {output}", r"lacks \{input\}"),
        ("demucs '{input} {output}", "quotation"),
    ],
)
def test_wrong_command_lines(command: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        CommandSeparator(command)


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match='"no-such-program" is not on PATH'):
        CommandSeparator("no-such-program {input} {output}").check(audio(tmp_path / "a.wav"))


def test_a_song_that_is_not_there(tmp_path: Path) -> None:
    separator = CommandSeparator(f"'{sys.executable}' {{input}} {{output}}")
    with pytest.raises(MissingFileError, match=r"a\.wav is not there"):
        separator.check(tmp_path / "a.wav")
    (tmp_path / "b.wav").write_text("no audio")
    with pytest.raises(AudioError, match=r"b\.wav"):
        separator.check(tmp_path / "b.wav")


def test_no_shell_takes_part(tmp_path: Path) -> None:
    # The paths arrive whole, whatever is in them.
    song = audio(tmp_path / "a song; {output} $(touch x).wav")
    out = tmp_path / "out"
    out.mkdir()
    code = (
        "import sys, pathlib; out = pathlib.Path(sys.argv[2]); "
        "(out / 'vocals.wav').write_text(sys.argv[1]); (out / 'no_vocals.wav').touch()"
    )
    command = f"'{sys.executable}' -c \"{code}\" {{input}} {{output}}"
    found = CommandSeparator(command).separate(song, out)
    assert found.lead[0].read_text() == str(song.resolve())


def test_a_program_that_fails_is_quoted(tmp_path: Path) -> None:
    command = f"'{sys.executable}' -c \"raise SystemExit('out of memory')\" {{input}} {{output}}"
    with pytest.raises(SeparationError, match="ended with code 1: out of memory"):
        CommandSeparator(command).separate(audio(tmp_path / "a.wav"), tmp_path)
