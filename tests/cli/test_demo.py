from __future__ import annotations

import pytest

from svc.cli.main import main


def test_demo_writes_and_says_where(tmp_path, capsys):
    assert main(["demo", str(tmp_path / "here"), "--minutes", "0.1", "--seed", "4"]) == 0
    out = capsys.readouterr().out
    assert str(tmp_path / "here" / "song.wav") in out
    assert "demo_low, -12 semitones" in out
    assert (tmp_path / "here" / "song_f0.csv").is_file()
    assert len(list((tmp_path / "here" / "dataset_raw").glob("demo_*/*.wav"))) >= 8


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--minutes", "0"], "--minutes"),
        (["--minutes", "99"], "--minutes"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_bad_values_are_one_line(tmp_path, capsys, arguments, word):
    assert main(["demo", str(tmp_path / "x"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("svc: error: ")
    assert word in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_a_file_in_the_way_is_one_line(tmp_path, capsys):
    (tmp_path / "x").write_text("not a folder")
    assert main(["demo", str(tmp_path / "x"), "--minutes", "0.1"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("svc: error: cannot")
