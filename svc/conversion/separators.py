"""Taking a song apart into vocals and the rest: by a program that the user has installed.

Nothing of this project separates, and nothing of it needs a separator: whoever has the stems of a song
leaves all of this out.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Protocol

from svc.audio.io import list_audio, open_audio
from svc.errors import ConfigError, MissingDependencyError, SvcError

_REST = (
    "*no?vocals*", "*novocals*", "*instrumental*", "*accompaniment*", "*karaoke*",
    "drums", "bass", "guitar", "piano", "other",
)  # fmt: skip
_BACKING = ("*backing*",)
_LEAD = ("*vocals*", "*vocal*", "*lead*")


class SeparationError(SvcError):
    """A separator failed, or left something else than the stems of a song."""


@dataclass(frozen=True)
class Separated:
    """The stems of a song.

    Attributes:
        lead: files of vocals.
        backing: files of backing vocals, where the separator tells them from the lead.
        rest: files of everything else.
    """

    lead: Sequence[Path]
    backing: Sequence[Path]
    rest: Sequence[Path]


class Separator(Protocol):
    """Whatever takes a song apart."""

    def check(self, song: Path) -> None:
        """Find out, before any other work, whether there is anything in the way. Raises SvcError."""

    def separate(self, song: Path, folder: Path) -> Separated:
        """Take a song apart.

        Args:
            song: an audio file.
            folder: an empty folder for the stems.

        Raises:
            SvcError: it did not work; says why.
        """


@dataclass(frozen=True)
class CommandSeparator:
    """Runs a program; no shell takes part.

    Args:
        command: its command line with {input} and {output} for the song and the folder of the stems.
        vocals: patterns of the names of vocals, such as ``*_voice``; empty = those in use, see
            `sort_stems`.
        rest: patterns of the names of everything else.

    Raises:
        ConfigError: the command line is wrong.
    """

    command: str
    vocals: Sequence[str] = ()
    rest: Sequence[str] = ()

    def __post_init__(self) -> None:
        words = self._words()
        if not words:
            raise ConfigError("--separator is empty: give a command line with {input} and {output}")
        for name in ("{input}", "{output}"):
            if not any(name in word for word in words[1:]):
                raise ConfigError(
                    f"--separator '{self.command}' lacks {name}: write {{input}} where the song goes "
                    "and {output} where the folder of the stems goes"
                )

    def check(self, song: Path) -> None:
        """Make sure that the song is audio and the program there.

        Raises:
            MissingFileError: there is no such song.
            AudioError: it is no audio.
            MissingDependencyError: the program is not there.
        """
        with open_audio(song):
            pass
        program = self._words()[0]
        if shutil.which(program) is None:
            raise MissingDependencyError(
                f'--separator: the program "{program}" is not on PATH; install it, or give its whole path'
            )

    def separate(self, song: Path, folder: Path) -> Separated:
        """Run the program and sort what it has written.

        Args:
            song: an audio file.
            folder: an empty folder for the stems.

        Raises:
            MissingFileError, AudioError, MissingDependencyError: see `check`.
            SeparationError: it failed, or its files do not tell vocals from the rest.
        """
        self.check(song)
        places = {"{input}": str(song.resolve()), "{output}": str(folder.resolve())}
        words = [_filled(word, places) for word in self._words()]
        try:
            done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        except OSError as error:
            raise SeparationError(
                f'--separator: cannot run "{words[0]}": {error.strerror}'
            ) from error
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").split("\n")
            last = next(
                (line.strip() for line in reversed(said) if line.strip()), "it says nothing"
            )
            raise SeparationError(
                f'--separator: "{words[0]}" ended with code {done.returncode}: {last}'
            )
        files = list_audio(folder, recursive=True)
        return sort_stems(files, song.stem, vocals=self.vocals, rest=self.rest)

    def _words(self) -> list[str]:
        try:
            return shlex.split(self.command)
        except ValueError as error:
            raise ConfigError(f"--separator '{self.command}': {error}") from error


def sort_stems(
    files: Sequence[Path], song: str, *, vocals: Sequence[str] = (), rest: Sequence[str] = ()
) -> Separated:
    """Tell from their names what stems are.

    Names in use, whatever the case: vocals, lead and backing for singing; no_vocals, instrumental,
    accompaniment, karaoke, drums, bass, guitar, piano and other for the rest. Where all files bear the
    song's own name, it is left out of them first; folders do not count.

    Args:
        files: the stems.
        song: name of the song, without its suffix.
        vocals: patterns of names instead, without the suffix; all of them are lead vocals.
        rest: patterns of names instead.

    Raises:
        SeparationError: a file whose name says nothing, one kind is missing, or the vocals are there
            twice.
    """
    lead: list[Path] = []
    backing: list[Path] = []
    others: list[Path] = []
    patterns = (
        (others, tuple(rest) or _REST),
        (backing, () if vocals else _BACKING),
        (lead, tuple(vocals) or _LEAD),
    )
    given = bool(vocals or rest)
    for path, name in zip(files, _plain_names(files, "" if given else song)):
        for kind, names in patterns:
            if any(fnmatch(name, pattern.casefold()) for pattern in names):
                kind.append(path)
                break
        else:
            raise SeparationError(
                f'--separator: is "{path.name}" singing or not? Name the files of vocals with '
                "--separator_vocals and the others with --separator_rest"
            )
    found = ", ".join(f'"{path.name}"' for path in files) or "nothing"
    if not lead or not others:
        raise SeparationError(
            f"--separator: no {'vocals' if not lead else 'accompaniment'} among what it has written "
            f"({found}); see --separator_vocals and --separator_rest"
        )
    if len(lead) > 1 and not vocals:
        raise SeparationError(
            f"--separator: more than one file of lead vocals ({found}); say with --separator_vocals "
            "which of them to sing, and leave the other out of its command"
        )
    return Separated(lead, backing, others)


def _plain_names(files: Sequence[Path], song: str) -> list[str]:
    """Return names of stems in lower case, without the song's name where all of them bear it.

    A song may be called "no" or "vocals", and its stems "vocals" and "no_vocals": its name is a word of
    its own in all of them, and not all there is, or it is not meant.
    """
    names = [path.stem.casefold() for path in files]
    word = re.escape(song.casefold())
    begins, ends = r"(?<=[-_ .(\[])", r"(?=[-_ .)\]])"
    for place in (f"^{word}{ends}", f"{begins}{word}$", f"{begins}{word}{ends}"):
        without = [re.sub(place, "", name, count=1).strip("-_ .()[]") for name in names]
        bear = all(re.search(place, name) for name in names)
        if song and bear and all(without):
            return without
    return names


def _filled(word: str, places: dict[str, str]) -> str:
    """Put paths in for their names; what is put in is not looked at again."""
    before, mark, after = word.partition("{input}")
    if not mark:
        return word.replace("{output}", places["{output}"])
    return (
        before.replace("{output}", places["{output}"]) + places["{input}"] + _filled(after, places)
    )
