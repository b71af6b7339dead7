"""Mixes as text: the same mix from every form, the writers' round trip, one line for what is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from svc.audio.io import write_audio
from svc.conversion.mix_files import parse_mix, song_seconds, write_mix
from svc.conversion.mix_segments import MixSegment
from svc.conversion.speaker_mix import SpeakerMix
from svc.errors import AudioError, ConfigError, MissingFileError, SvcError

TABLE = {"alice": 0, "bob": 1, "carol": 2}
JSON = '{"alice": [[0, 0.5, 1, 0], [0.5, 1, 0, 0]], "bob": [[0, 1, 0, 1]]}'
OLD = '''"""What the notebook wrote."""
# speaker id: segments
spk_mix_map = {
    0: [[0., 0.5, 1, 0], [0.5, 1, 0, 0]],  # alice
    1: [[0, 1., 0, 1]],
}
'''


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(name: str, text: str | bytes, speakers: dict[str, int] | None = TABLE) -> SpeakerMix:
    data = text if isinstance(text, bytes) else text.encode()
    Path(name).write_bytes(data)
    return parse_mix(name, speakers)


# ------------------------------------------------------------------------------ read


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", JSON),
        ("a.JSON", "\ufeff" + JSON),
        ("a.json", JSON.replace("alice", "0").replace("bob", "1")),
        ("a.json", f'{{"speakers": {JSON}}}'),
        ("a.json", f'{{"unit": "fraction", "speakers": {JSON}}}'),
        ("a.json", JSON.replace("[0, 1, 0, 1]", '[0, "end", 0, 1]')),
        ("a.json", JSON.replace("[0, 1, 0, 1]", "[0, null, 0, 1]").encode("utf-16")),
        ("a.csv", "speaker,start,end,from,to\nalice,0,0.5,1,0\nalice,0.5,1,0,0\nbob,0,1,0,1\n"),
        (
            "a.csv",
            '# mine\r\n"speaker","start","end","from","to","why"\r\nbob,0,,0,1,x\r\n\r\n'
            'alice,0,.5,1,0,"a ""solo"""\r\nalice,5e-1,end,0,0,\r\n',
        ),
        (
            "a.csv",
            "to;from;end;start;speaker\n0;1;0,5;0;alice\n0;0;1;0,5;alice\n1;0;1;0;1\n;;;;\n# end\n",
        ),
        ("a.csv", "speaker\tstart\tend\tfrom\tto\n0\t0\t0.5\t1\t0\n0\t0.5\t1\t0\t0\n1\t0\t1\t0\t1"),
        ("spkmix.py", OLD),
        ("spkmix.py", OLD.replace("spk_mix_map", "m: dict").replace("'", '"')),
    ],
)  # fmt: skip
def test_every_form_gives_the_same_mix(name: str, text: str | bytes) -> None:
    mix = read(name, text)
    assert mix.what == name
    assert mix.speakers == ("alice", "bob", "carol")
    assert mix.unit == "fraction"
    assert mix.as_fractions().tracks == (
        (MixSegment(0, 0.5, 1, 0), MixSegment(0.5, 1, 0, 0)),
        (MixSegment(0, 1, 0, 1),),
        (),
    )


SECONDS = (
    (MixSegment(0, 3.25, 1, 1), MixSegment(3.25, None, 0, 0)),
    (MixSegment(0, 12, 0.5, 0.5),),
    (),
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "s.json",
            '{"unit": "seconds", "speakers": {"alice": [[0, 3.25, 1, 1], [3.25, "end", 0, 0]],'
            ' "bob": [[0, 12, 0.5, 0.5]]}}',
        ),
        ("s.csv", "speaker,start_s,end_s,from,to\nalice,0,3.25,1,1\nalice,3.25,end,0,0\nbob,0,12,.5,.5"),
        ("s.csv", "# unit: seconds\nspeaker,start,end,from,to\nalice,0,3.25,1,1\nalice,3.25,,0,0\nbob,0,12,.5,.5"),
        ("s.csv", "speaker,unit,start,end,from,to\nalice,s,0,3.25,1,1\nalice,seconds,3.25,,0,0\nbob,s,0,12,.5,.5"),
    ],
)  # fmt: skip
def test_seconds(name: str, text: str) -> None:
    mix = read(name, text)
    assert (mix.unit, mix.tracks) == ("seconds", SECONDS)
    for suffix in (".json", ".csv"):
        write_mix(f"out/copy{suffix}", mix)
        again = parse_mix(f"out/copy{suffix}", TABLE)
        assert (again.unit, again.tracks) == ("seconds", SECONDS)


def test_a_weight_for_the_whole_song() -> None:
    mix = read("c.json", '{"unit": "seconds", "speakers": {"alice": 0.75, "carol": 0.25}}')
    assert mix.weights(2, frame_seconds=9).tolist() == [[0.75, 0, 0.25]] * 2


def test_text() -> None:
    mix = parse_mix(" alice = 0.75, 2=.25 ", TABLE)
    assert mix.what == "the mix  alice = 0.75, 2=.25 "
    assert mix.weights(1).tolist() == [[0.75, 0, 0.25]]
    assert parse_mix("bob=3", TABLE).only == 1
    assert parse_mix("a=b=1", {"a=b": 0, "a": 1}).only == 0
    assert parse_mix("7=1,x=1", {"x": 0, "y": 7, "7": 3}).weights(1)[0, 3] == 0.5


def test_without_a_config_the_names_are_the_files() -> None:
    assert parse_mix("bob=1,alice=3").speakers == ("bob", "alice")
    assert read("a.json", JSON, None).speakers == ("alice", "bob")
    swapped = read("old.py", "m = {1: [[0, 1, 1, 1]], 0: [[0, 1, 3, 3]]}", None)
    assert swapped.speakers == ("1", "0")
    assert swapped.weights(1).tolist() == [[0.25, 0.75]]


# ------------------------------------------------------------------------------ written


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_what_is_written_is_read_back(suffix: str, rng: np.random.Generator) -> None:
    names = ["alice", "歌手 🎤", 'a,b;"c"', "$_x", "7", "=1+1", "speakers", "unit"]
    table = {name: int(k) for name, k in zip(names, rng.permutation(20))}
    tracks: dict[str | int, list[MixSegment]] = {}
    for name in names:
        inner = np.sort(rng.uniform(0, 1, rng.integers(0, 4))).tolist()
        borders = [0.0, *inner, 1.0]
        values = rng.uniform(0, 3, (len(borders), 2)).tolist()
        tracks[name] = [MixSegment(a, b, *v) for a, b, v in zip(borders, borders[1:], values)]
    mix = SpeakerMix.of(tracks, table)
    write_mix(f"m{suffix}", mix)
    assert parse_mix(f"m{suffix}", table).tracks == mix.tracks


def test_what_cannot_be_written() -> None:
    mix = parse_mix("alice=1,bob=1", TABLE)
    with pytest.raises(ConfigError, match=r"cannot write m\.txt: end the name with \.json"):
        write_mix("m.txt", mix)
    for name in ("#1", " a", "a\nb", ""):
        odd = SpeakerMix.constant({name: 1}, {name: 0})
        with pytest.raises(ConfigError, match=r"(?s)CSV cannot hold the name .* write \.json"):
            write_mix("m.csv", odd)
        write_mix("m.json", odd)
        assert parse_mix("m.json", {name: 0}).tracks == odd.tracks
    assert not Path("m.csv").exists()


# ------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'the mix of speakers "" is neither NAME=WEIGHT'),
        ("alice", '"alice" is neither NAME=WEIGHT,NAME=WEIGHT, like alice=0.7,bob=0.3, nor'),
        ("alice=1,bob", "is neither"),
        ("mix.txt", '"mix.txt" is neither'),
        ("x" * 300, "is neither"),
        ("=1", "is neither"),
        ("alice=1,alice=2", 'has "alice" twice'),
        ("alice=1,0=2", '"alice" and "0" are the same speaker'),
        ("alice=x", 'the weight of "alice" is "x"; write a number'),
        ("alice=nan", 'the weight of "alice" is "nan"'),
        ("alice=-1", "the weight -1 is not in"),
        ("alice=1e9", "the weight 1e+09 is not in"),
        ("alice=0,bob=0", "all weights are 0"),
        ("alicia=1", 'unknown speaker "alicia": this model knows "alice" (0), '),
        ("3=1", 'unknown speaker "3"'),
    ],
)
def test_bad_text(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_mix(text, TABLE)
    assert message in str(caught.value)


BAD = [
    ("", "not valid JSON at line 1, column 1"),
    ("{", "not valid JSON"),
    ("[" * 100000, "m.json: no"),
    ("1" * 5000, "no mix of speakers; write it like"),
    ("[]", "no mix of speakers; write it like  {"),
    ("{}", "no mix of speakers"),
    ("null", "no mix of speakers"),
    ('{"speakers": {}}', "no mix of speakers"),
    ('{"units": "s", "speakers": {"alice": 1}}', 'unknown key "units"; beside "speakers"'),
    ('{"unit": "frames", "speakers": {"alice": 1}}', 'the unit is "frames"; write "fraction" or'),
    ('{"alice": 1, "alice": 1}', '"alice" is there twice'),
    ('{"alise": 1}', 'm.json: unknown speaker "alise": this model knows "alice" (0)'),
    ('{"alice": "x"}', 'speaker "alice": write a list of segments, each [start, end, weight at'),
    ('{"alice": true}', "write a list of segments"),
    ('{"alice": []}', 'speaker "alice" has no segments'),
    ('{"alice": [1]}', 'speaker "alice", segment 1 is 1; write [start, end,'),
    ('{"alice": [[0, 1, 1]]}', "segment 1 is [0, 1, 1]; write [start, end,"),
    ('{"alice": [[0, 1, 1, true]]}', "segment 1: its weight is True; write a number"),
    ('{"alice": [[0, "1", 1, 1]]}', "its end is '1'; write a number, or \"end\" in the last"),
    ('{"alice": [["end", 1, 1, 1]]}', "its start is 'end'; write a number"),
    ('{"alice": [[0, 1, NaN, 1]]}', "segment 1: the weight nan is not in"),
    ('{"alice": [[0, Infinity, 1, 1]]}', "its end is inf"),
    (f'{{"alice": [[0, 1{"0" * 400}, 1, 1]]}}', "its end is inf"),
    ('{"alice": [[0, 1, 1, -1]]}', 'm.json: speaker "alice", segment 1: the weight -1 is not in'),
    ('{"alice": [[0, 0.5, 1, 1], [0.4, 1, 1, 1]]}', "segment 2 overlaps"),
    ('{"alice": [[0, 20, 1, 1]]}', 'or say that these are seconds: "unit": "seconds"'),
    (b"\xff\xfe\x00", "not a text file in UTF-8"),
    (b"RIFF\x00\x01", "not a text file in UTF-8"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_bad_json(text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read("m.json", text)
    assert message in str(caught.value)
    assert "m.json" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


HEAD = "speaker,start,end,from,to\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "m.csv holds no segments; write a line  speaker,start,end,from,to"),
        (HEAD, "holds no segments"),
        ("# unit: beats\n" + HEAD, 'the unit is "beats"'),
        ("alice,0,1,1,1\n", "line 1: no column speaker; the first line names the columns"),
        ("speaker,start,end,to\nalice,0,1,1", "line 1: no column from"),
        ("speaker,start,end,from,to,to\n", "line 1: two columns to"),
        ("speaker,start,start_s,end,from,to\n", "two columns start"),
        (HEAD + "alice,0,1,1", "line 2: write a cell for each of speaker, start, end, from, to"),
        (HEAD + ",0,1,1,1", "line 2: write a cell"),
        (HEAD + "# x\nalice,0,1,x,1", 'line 3: speaker "alice", segment 1: from is "x"; write'),
        (HEAD + "alice,0,1,,1", 'from is ""'),
        (HEAD + "alice,0,1,nan,1", 'from is "nan"'),
        (HEAD + "alice,0,1,1_0,1", 'from is "1_0"'),
        (HEAD + "alice,end,1,1,1", 'start is "end"; write a number'),
        (HEAD + "alice,0,.5,1,1\nalice,.5,last,1,1", 'segment 2: end is "last"; write a number, or'),
        (HEAD + "alice,0,end,1,1\nalice,.5,1,1,1", "segment 2 comes after one that goes on"),
        (HEAD + "alice,0,1e999,1,1", "its end is inf"),
        (HEAD + "alice,0,1,1,-1", "the weight -1 is not in"),
        (HEAD + "alise,0,1,1,1", 'unknown speaker "alise"'),
        ("speaker;start;end;from;to\nalice;0;1;0,5;0.5.5", 'to is "0.5.5"'),
        ("# unit: seconds\nspeaker,start,end,from,to,unit\nalice,0,1,1,1,fraction", "times in"),
        (HEAD + '"alice' + "x" * 200000, "m.csv, line"),
    ],
)  # fmt: skip
def test_bad_csv(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read("m.csv", text)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos.mkdir('owned')\nm = {0: [[0, 1, 1, 1]]}",
        "m = {0: [[0, 1, 1, __import__('os').mkdir('owned')]]}",
        "m = {0: [[0, 1, 1, 1]]}\n__import__('os').mkdir('owned')",
        "__import__('os').mkdir('owned')",
        "m = {0: [[0, 1, 1, 1]], **__import__('os').mkdir('owned')}",
        "m = {__import__('os').mkdir('owned'): [[0, 1, 1, 1]]}",
        "m = f\"{__import__('os').mkdir('owned')}\"",
        "m = dict(a=1)",
        "m = [[0, 1, 1, 1]]",
        "{0: [[0, 1, 1, 1]]}",
        "m = {0.5: 1}",
        "m = {(1, 2): 1}",
        "m = {[]: 1}",
        "m = {None: 1}",
        "m = {True: 1}",
        "m: dict",
        "",
        '"only text"',
        "m = {",
        "m = " + "{0:" * 500,
        "m = " + "(" * 100000,
        "m = {0: " + "-" * 100000 + "1}",
    ],
)
def test_python_is_never_run(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read("spkmix.py", text)
    assert "spkmix.py: Python is not run here" in str(caught.value)
    assert 'write the map as JSON, like  {"alice": [[0, 0.5, 1, 0]' in str(caught.value)
    assert not Path("owned").exists()


def test_a_map_of_numbers_is_checked_as_json_is() -> None:
    for text, message in (
        ("m = {}", "no mix of speakers"),
        ("m = {0: [[0, 1, 1, 1]], 0: [[0, 1, 1, 1]]}", '"0" is there twice'),
        ("m = {0: [[0, 1, 1, 1]], '0': [[0, 1, 1, 1]]}", "are the same speaker"),
        ("m = {7: [[0, 1, 1, 1]]}", 'unknown speaker "7"'),
        ("m = {0: [[0, 1, 1, {1j: 2}]]}", "its weight is {1j: 2}; write a number"),
        ("m = {0: [[0, 1, 1, b'x']]}", "its weight is b'x'; write a number"),
        ("m = {0: [[0, 0.9, 1, 1]]}", "the last, ends at 0.9; write 1"),
    ):
        with pytest.raises(ConfigError) as caught:
            read("spkmix.py", text)
        assert message in str(caught.value)


def test_files_that_are_not_there_or_cannot_be_read() -> None:
    with pytest.raises(MissingFileError, match=r"the mix of speakers no\.json is not there"):
        parse_mix("no.json", TABLE)
    Path("folder.csv").mkdir()
    with pytest.raises(ConfigError, match=r"folder\.csv is a folder; name a file"):
        parse_mix("folder.csv", TABLE)
    for name in ("x" * 300 + ".json", "a\0.csv"):
        with pytest.raises(ConfigError, match="cannot be read"):
            parse_mix(name, TABLE)
    if os.geteuid() != 0:
        Path("secret.json").write_text(JSON)
        Path("secret.json").chmod(0)
        with pytest.raises(ConfigError, match="cannot be read"):
            parse_mix("secret.json", TABLE)


def test_damaged_files_never_raise_anything_else() -> None:
    rng = np.random.default_rng(0)
    sources = {
        "m.json": f'{{"unit": "seconds", "speakers": {JSON}}}',
        "m.csv": "# unit: seconds\nspeaker;start;end;from;to\nalice;0;0,5;1;0\nalice;0,5;;0;0\n",
        "m.py": OLD,
    }
    refused: list[str] = []
    for name, text in sources.items():
        for _ in range(120):
            data = bytearray(text.encode())
            for _ in range(rng.integers(1, 4)):
                place = int(rng.integers(len(data)))
                action = rng.integers(3)
                if action == 0:
                    del data[place]
                else:
                    data.insert(place, int(rng.choice(list(b'[]{}",:;#e-.019aN\n\xff\x00'))))
            try:
                mix = read(name, bytes(data))
                assert np.isfinite(mix.weights(5, frame_seconds=1e-3)).all()
            except SvcError as error:
                refused.append(str(error))
    assert len(refused) > 100
    assert all(len(message.splitlines()) == 1 for message in refused)


def test_length_of_a_song() -> None:
    write_audio("raw/song.wav", np.zeros(12345, np.float32), 8000)
    assert song_seconds("song") == song_seconds("raw/song.wav") == 12345 / 8000
    write_audio("raw/b.wav", np.zeros(10, np.float32), 8000)
    with pytest.raises(ConfigError, match="raw is a folder; give one song"):
        song_seconds("raw")
    with pytest.raises(MissingFileError, match="no audio file sing"):
        song_seconds("sing")
    Path("raw/x.wav").write_text("no audio")
    with pytest.raises(AudioError):
        song_seconds("x")
