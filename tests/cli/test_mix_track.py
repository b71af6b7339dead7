"""`svc mix-track`: the real command line in an empty folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from svc.audio.io import write_audio
from svc.cli.main import main
from svc.config import find_template, load_config, save_config
from svc.conversion.mix_files import parse_mix

SECONDS = (
    '{"unit": "seconds", "speakers": {"alice": [[0, 2, 1, 1], [2, 3, 1, 0], [3, "end", 0, 0]],'
    ' "bob": [[0, 2, 0, 0], [2, 3, 0, 1], [3, "end", 1, 1]]}}'
)


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        (line,) = self.err.splitlines()
        assert line.startswith("svc: error: ")
        return line


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    import dataclasses

    monkeypatch.chdir(tmp_path)
    config = load_config(find_template("template.json"))
    save_config(dataclasses.replace(config, spk={"alice": 0, "bob": 2}), "config.json")
    Path("duet.json").write_text(SECONDS)
    write_audio("raw/song.wav", np.zeros(8000 * 5, np.float32), 8000)

    def call(*arguments: str) -> Result:
        code = main(["mix-track", *arguments])
        return Result(code, *capsys.readouterr())

    return call


def test_a_track_and_its_song(run: Run) -> None:
    done = run("duet.json", "-c", "config.json", "--song", "song")
    assert done.code == 0, done.err
    assert [" ".join(line.split()) for line in done.out.splitlines()] == [
        "duet.json: 2 speakers in 3 parts, a song of 0:05.00",
        "from to alice bob",
        "0:00.00 0:02.00 100 % 0 %",
        "0:02.00 0:03.00 100 -> 0 % 0 -> 100 %",
        "0:03.00 0:05.00 0 % 100 %",
        "picture: duet.mix.png",
    ]
    assert Path("duet.mix.png").read_bytes().startswith(b"\x89PNG")
    assert run("duet.json", "--seconds", "200", "-o", "new/b.png").code == 0
    assert Path("new/b.png").read_bytes() != Path("duet.mix.png").read_bytes()


def test_shares_as_text(run: Run) -> None:
    done = run("alice=0.7,bob=0.3")
    assert done.code == 0, done.err
    assert "the mix alice=0.7,bob=0.3: 2 speakers in 1 part\n" in done.out
    assert done.out.splitlines()[2].split() == ["0", "1", "70", "%", "30", "%"]
    assert "note: the names are not checked; give the config.json" in done.out
    assert Path("speakers.mix.png").is_file()
    done = run("bob=1,alice=0", "-c", "config.json")
    assert 'only "bob" sings: there is nothing to mix' in done.out
    assert "not checked" not in done.out


def test_silence_and_long_tables_are_told(run: Run) -> None:
    Path("a.csv").write_text(
        "speaker,start,end,from,to\nalice,0,0.5,0,0\nalice,0.5,1,1,1\nbob,0,1,0,0"
    )
    done = run("a.csv")
    (line,) = (line for line in done.out.splitlines() if "nobody" in line)
    assert line.split() == ["0", "0.5", "50", "%", "50", "%", "nobody:", "all", "alike"]
    rows = "".join(f"alice,{i / 60},{(i + 1) / 60},{i % 2},1\n" for i in range(60))
    wide = "".join(f"s{i},0,1,1,1\n" for i in range(10))
    Path("b.csv").write_text("speaker,start,end,from,to\n" + rows + wide)
    done = run("b.csv")
    assert done.code == 0, done.err
    assert "11 speakers in 60 parts" in done.out
    assert "and 3 more" in done.out
    assert "... and 20 parts more; the picture shows all" in done.out


def test_an_old_map_becomes_json_and_csv(run: Run) -> None:
    Path("spkmix.py").write_text(
        "spk_mix_map = {0: [[0, 0.5, 1, 0], [0.5, 1, 0, 0]], 2: [[0, 1, 0, 1]]}"
    )
    done = run("spkmix.py", "-c", "config.json", "--json", "out/a.json", "--csv", "out/a.csv")
    assert done.code == 0, done.err
    assert "written to out/a.json\nwritten to out/a.csv\n" in done.out
    table = {"alice": 0, "bob": 2}
    wanted = parse_mix("spkmix.py", table).tracks
    assert parse_mix("out/a.json", table).tracks == parse_mix("out/a.csv", table).tracks == wanted
    assert '"alice": [[0, 0.5, 1, 0], [0.5, 1, 0, 0]]' in Path("out/a.json").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no.json"], "the mix of speakers no.json is not there"),
        (["duet.json"], "goes on to the song's end; give the song with --song FILE"),
        (["duet.json", "--seconds", "0"], "--seconds is 0; give the length of the song"),
        (["duet.json", "--seconds", "nan"], "--seconds is nan"),
        (["duet.json", "--song", "sing"], "no audio file sing"),
        (["duet.json", "--song", "empty"], "raw/empty.wav holds no samples"),
        (["short.json", "--song", "song"], "ends at 4 s, 1.00 s before the song (5.00 s)"),
        (["carol=1", "-c", "config.json"], 'unknown speaker "carol": this model knows "bob" (2)'),
        (["alice=1", "-c", "no.json"], "no.json"),
        (["alice=1", "-o", "a.jpg"], 'cannot write a.jpg: end its name with ".png"'),
        (["alice=1", "--json", "a.csv"], 'cannot write a.csv: end its name with ".json"'),
        (["alice=1", "--csv", "a"], 'cannot write a: end its name with ".csv"'),
        (["alice=1", "-o", "raw/song.wav/p.png"], "raw/song.wav"),
    ],
)
def test_mistakes_answer_in_one_line(run: Run, words: list[str], message: str) -> None:
    Path("short.json").write_text('{"unit": "seconds", "speakers": {"alice": [[0, 4, 1, 1]]}}')
    write_audio("raw/empty.wav", np.zeros(0, np.float32), 8000)
    before = sorted(Path().rglob("*"))
    done = run(*words)
    assert done.code == 2
    assert message in done.error
    assert sorted(Path().rglob("*")) == before


def test_a_track_shorter_than_any_song_shows_its_own_length(run: Run) -> None:
    Path("m.json").write_text('{"unit": "s", "speakers": {"alice": [[0, 70, 1, 1]], "bob": 1}}')
    done = run("m.json")
    assert "a song of 1:10.00" in done.out
