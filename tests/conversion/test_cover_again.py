"""A cover in the place of another: it comes whole, or what was there stays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svc.audio.io import read_tags, write_audio
from svc.conversion import InferOptions
from svc.conversion.converter import Converter
from svc.conversion.cover import CoverOptions, make_cover
from svc.conversion.cover_plan import Defaults, Entry, Stem, make_stems
from svc.conversion.file_hashes import FileHashes
from svc.conversion.manifest import RunFacts
from svc.conversion.results import ResultOptions
from svc.errors import AudioError, OutputError

Echo = type[Any]
FLOATS = ResultOptions(bit_depth="32f", channels="keep")


def tone(frequency: float) -> np.ndarray:
    return (0.3 * np.sin(frequency * np.arange(44100) / 7000)).astype(np.float32)


@pytest.fixture
def song(tmp_path: Path) -> Path:
    for number, name in enumerate(("lead", "back", "inst")):
        write_audio(tmp_path / f"{name}.wav", tone(200.0 + 50 * number), 44100)
    return tmp_path


def stems_of(folder: Path, **options: Any) -> list[Stem]:
    roles = {"lead": "lead", "back": "backing", "inst": "keep"}
    entries = [Entry(folder / f"{name}.wav", role) for name, role in roles.items()]
    return make_stems(entries, Defaults("alice", InferOptions(), **options))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def facts() -> Iterator[RunFacts]:
    with FileHashes() as hashes:
        yield RunFacts(["cover"], {}, {}, hashes)


def test_a_cover_that_fails_leaves_the_last_one(song: Path, echo: Echo) -> None:
    def fail_at_the_backing(window: np.ndarray, call: int) -> np.ndarray:
        if call > 1:
            raise AudioError("no voice")
        return 0.5 * window

    options = CoverOptions(song / "out/mix.wav", song / "out/stems", FLOATS)
    make_cover(Converter(echo()), stems_of(song), options)
    before = contents(song / "out")
    with pytest.raises(AudioError):
        make_cover(Converter(echo(fail_at_the_backing)), stems_of(song, lead_gain=-6), options)
    assert contents(song / "out") == before
    folder = options.stems_folder
    assert folder is not None
    (folder / "instrumental.wav").unlink()
    (folder / "instrumental.wav").mkdir()
    before = contents(song / "out")
    voice = echo()
    with pytest.raises(OutputError, match=r"stems.instrumental\.wav: a folder of that name"):
        make_cover(Converter(voice), stems_of(song, lead_gain=-6), options)
    assert contents(song / "out") == before
    assert not voice.windows


def test_stems_that_a_cover_has_no_more_go(song: Path, echo: Echo, facts: RunFacts) -> None:
    options = CoverOptions(song / "out/mix.wav", song / "out/stems", FLOATS)
    make_cover(Converter(echo()), stems_of(song), options, run=facts)
    (song / "out/stems/mine.wav").touch()
    entries = [
        Entry(song / "out/stems/lead.wav", "lead"),  # an input of this one
        Entry(song / "inst.wav", "keep"),
    ]
    fewer = [
        replace(stem, name=name)
        for stem, name in zip(
            make_stems(entries, Defaults("alice", InferOptions())), ("new", "instrumental")
        )
    ]
    make_cover(Converter(echo()), fewer, options)
    assert sorted(contents(song / "out")) == [
        "instrumental.wav", "lead.wav", "mine.wav", "mix.wav", "new.wav",
    ]  # fmt: skip


def test_a_song_that_is_removed_meanwhile(song: Path, echo: Echo) -> None:
    whole = song / "all.flac"
    write_audio(whole, tone(300), 44100, tags={"title": "A song"})

    def remove(window: np.ndarray, call: int) -> np.ndarray:
        whole.unlink(missing_ok=True)
        return window

    options = CoverOptions(song / "mix.flac", song=whole)
    make_cover(Converter(echo(remove)), stems_of(song), options)
    assert read_tags(song / "mix.flac")["title"] == "A song"
