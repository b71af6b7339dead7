"""`svc cover`: its flags, and what is refused before a voice is looked for."""

from __future__ import annotations

import argparse
import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

from svc.cli import cover, infer
from svc.cli.main import build_parser, main


def flags_of(module: Any) -> dict[str, argparse.Action]:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return {flag: action for action in parser._actions for flag in action.option_strings}


def test_the_flags_of_infer_hold_for_vocals() -> None:
    ours, theirs = flags_of(cover), flags_of(infer)
    shared = set(ours) & set(theirs)
    assert {"-t", "-f0p", "-cr", "-shd", "-eh", "-m", "-s", "-wf", "--seed", "--clip"} <= shared
    for flag in shared - {"--channels", "--output", "--rate", "-h", "--help"}:
        assert ours[flag].default == theirs[flag].default, flag
        assert ours[flag].nargs == theirs[flag].nargs, flag
    assert not set(ours) & {"-n", "--f0", "-usm", "--spk_mix", "--recursive", "--json"}


def test_what_reads_the_flags_of_infer_finds_all() -> None:
    words = ["cover", "--lead", "a.wav"]
    args = build_parser("cover").parse_args(words)
    theirs = build_parser("infer").parse_args(["infer", "-n", "a"])
    assert set(vars(theirs)) - set(vars(args)) == set()
    assert args.channels == "keep"
    assert args.lead == [Path("a.wav")]
    assert args.output is None


def test_a_flag_given_again_adds_to_it() -> None:
    words = "cover --lead a --lead b --backing c d --backing e --instrumental f --instrumental g"
    patterns = "--separator_vocals h --separator_vocals i --separator-rest j --separator_rest k"
    args = build_parser("cover").parse_args([*words.split(), *patterns.split()])
    assert args.lead == [Path("a"), Path("b")]
    assert args.backing == [Path("c"), Path("d"), Path("e")]
    assert args.instrumental == [Path("f"), Path("g")]
    assert (args.separator_vocals, args.separator_rest) == (["h", "i"], ["j", "k"])
    args = build_parser("cover").parse_args(["cover", "song"])  # nothing is left of it
    assert args.lead == args.backing == args.separator_rest == []
    words = "infer -n a -n b c -s x -s y"
    args = build_parser("infer").parse_args(words.split())
    assert (args.clean_names, args.spk_list) == (["a", "b", "c"], ["x", "y"])


@pytest.mark.parametrize("name", ["from_files", "Inputs", "HearingCache"])
def test_the_voice_is_loaded_as_infer_loads_it(name: str) -> None:
    # A flag of infer that reaches its voice must reach this one, too.
    def words(module: Any) -> tuple[int, set[str | None]]:
        (call,) = [
            node
            for node in ast.walk(ast.parse(inspect.getsource(module)))
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == name
        ]
        return len(call.args), {keyword.arg for keyword in call.keywords}

    assert words(cover) == words(infer)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "no stems"),
        (["--instrumental", "a.wav"], "nothing to sing"),
        (["--backing", "a.wav", "--keep_backing"], "nothing to sing"),
        (["song.mp3"], "say with --separator"),
        (["song.mp3", "--lead", "a.wav"], "song.mp3 and stems"),
        (["--separator", "x {input} {output}"], "needs a song"),
        (["song.mp3", "--separator", "x"], "lacks {input}"),
        (["song.mp3", "--separator", "x {input} {output}"], "song.mp3 is not there"),
        (["--lead", "a.wav", "-s", "alice", "bob"], "-s/--spk_list"),
        (["--lead", "a.wav", "-t", "1", "2"], "-t/--trans"),
        (["--lead", "a.wav", "-t", "99"], "-t/--trans"),
        (["--lead", "a.wav", "-cr", "2"], "-cr"),
        (["--lead", "a.wav", "--lead_gain", "99"], "--lead_gain"),
        (["--lead", "a.wav", "--lufs", "3"], "--lufs"),
        (["--lead", "a.wav", "--rate", "3"], "--rate"),
        (["--lead", "a.wav", "--channels", "wide"], "--channels"),
        (["--lead", "a.wav", "--stems", "x", "--no_stems"], "--no_stems"),
        (["--lead", "a.wav", "-o", "x.aac"], ".aac"),
        (["--lead", "a.wav", "-wf", "aac"], "-wf"),
        (["--lead", "a.wav"], "G_*.pth"),
    ],
)
def test_refused_at_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["cover", *words]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert text in said[0]
    assert not list(tmp_path.iterdir())
